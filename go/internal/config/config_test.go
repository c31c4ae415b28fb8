// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFieldsAreTheContracts(t *testing.T) {
	help := Usage()
	for _, field := range fields() {
		if !strings.Contains(help, "--"+flagName(field)) {
			t.Errorf("%s is no flag", field.Name())
		}
	}
	if len(usage) != len(fields()) {
		t.Errorf("help for %d fields, of which the contract has %d", len(usage), len(fields()))
	}
}

func TestDefaults(t *testing.T) {
	models := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", "/caches")
	c, err := Parse([]string{"--models", models})
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Models: models, Listen: "127.0.0.1:50051", HTTP: "127.0.0.1:9090", Reflection: true, MaxMessageBytes: 100 << 20,
		MaxBatchRequests: 10000, DrainGrace: 30 * time.Second, IntraOpThreads: 1,
		AdminReflection: true, RepositoryPoll: time.Second, AdmissionCache: "/caches/concord", AdmissionTimeout: time.Minute, AdmissionMemoryBytes: 16 << 30,
		GPU: -1, Processes: 1, Batching: Batching{Policy: Auto, MaxBatchRows: 64, MaxQueueRows: 1024},
		MaxRequest: 5 * time.Minute, MaxConnectionAge: 30 * time.Minute, MaxConcurrentStreams: 1024, MaxHeaderBytes: 64 << 10, MaxOutputBytes: 100 << 20,
		FastDecode: true, Generation: Generation{Slots: 8, CacheBytes: 1 << 30, ChunkTokens: 512},
	}
	c.written = nil
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
}

// TestNoCacheDirectory takes a user without any directory.
func TestNoCacheDirectory(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	if c, err := Parse([]string{"--models", t.TempDir()}); err != nil || c.AdmissionCache != "" {
		t.Errorf("got %q, %v", c.AdmissionCache, err)
	}
}

func TestFileAndFlags(t *testing.T) {
	models, staging := t.TempDir(), t.TempDir()
	want := Config{
		Models: models, Listen: "[::1]:0", HTTP: "", RequireManifest: true, Reflection: false, MaxMessageBytes: 2048, MaxBatchRequests: 7,
		DrainDelay: 5 * time.Millisecond, DrainGrace: 0, IntraOpThreads: 3, ONNXRuntime: "lib.so", GenAI: "genai.so",
		Generation: Generation{Slots: 64, CacheBytes: 1 << 20, ChunkTokens: 8192, Threads: 3},
		Admin:      "", Staging: staging, RepositoryPoll: 0, AllowIntegerDivision: true, AdmissionCache: "", AdmissionTimeout: 5 * time.Second,
		AdmissionMemoryBytes: 1 << 30,
		GPU:                  2, Processes: 1, MaxRequest: 9 * time.Millisecond, MaxConnectionAge: 0, MaxConcurrentStreams: 2, MaxHeaderBytes: 4096,
		MaxOutputBytes: 1024, RequestLogPPM: 1000000,
		Batching: Batching{Policy: Inline, MaxBatchRows: 1024, MaxDelay: time.Second, MaxQueueRows: 1, Executors: 256},
	}
	yaml := "models: " + models + `
listen: "[::1]:0"
http: off
require_manifest: true
reflection: false
max_message_bytes: 2048
max_batch_requests: 7
drain_delay_ms: 5
drain_grace_ms: 0
intra_op_threads: 3
onnxruntime: lib.so
admin_listen: off
staging: ` + staging + `
repository_poll_ms: 0
allow_integer_division: true
admission_cache: off
admission_timeout_ms: 5000
admission_memory_bytes: 1073741824
device: cuda:2
processes: 1
batching: inline
max_batch_rows: 1024
max_delay_ms: 1000
max_queue_rows: 1
executors: 256
max_request_ms: 9
max_connection_age_ms: 0
max_concurrent_streams: 2
max_header_bytes: 4096
max_output_bytes: 1024
request_log_ppm: 1000000
fast_decode: false
generation_slots: 64
max_kv_bytes: 1048576
prefill_chunk_tokens: 8192
onnxruntime_genai: genai.so
model_settings:
`
	json := `{"models": "` + models + `", "listen": "[::1]:0", "http": "off", "requireManifest": true, "reflection": false, "maxMessageBytes": "2048",
		"maxBatchRequests": 7.0, "drainDelayMs": 5, "drainGraceMs": 0e0, "intraOpThreads": "3", "onnxruntime": "lib.so", "tlsCert": null,
		"adminListen": "off", "staging": "` + staging + `", "repositoryPollMs": 0, "allowIntegerDivision": true, "admissionCache": "off",
		"admissionTimeoutMs": 5e3, "admissionMemoryBytes": "1073741824",
		"device": "cuda:2", "batching": "inline", "maxBatchRows": 1024, "maxDelayMs": 1000, "maxQueueRows": 1, "executors": 256, "maxRequestMs": 9,
		"maxConnectionAgeMs": 0, "maxConcurrentStreams": 2, "maxHeaderBytes": 4096, "maxOutputBytes": "1024", "requestLogPpm": 1000000, "fastDecode": false,
		"generationSlots": 64, "maxKvBytes": "1048576", "prefillChunkTokens": 8192, "onnxruntimeGenai": "genai.so", "modelSettings": {}}`
	flags := []string{
		"--models", models, "--listen=[::1]:0", "--http=off", "--require-manifest", "--reflection=false", "--max-message-bytes=2048", "--max-batch-requests", "7",
		"--drain-delay-ms=5", "--drain-grace-ms=0", "--intra-op-threads=3", "--onnxruntime=lib.so",
		"--admin-listen=off", "--staging", staging, "--repository-poll-ms=0", "--allow-integer-division", "--admission-cache=off",
		"--admission-timeout-ms=5000", "--admission-memory-bytes=1073741824",
		"--device=cuda:2", "--processes=1", "--batching=inline", "--max-batch-rows=1024", "--max-delay-ms=1000", "--max-queue-rows=1", "--executors=256",
		"--max-request-ms=9", "--max-connection-age-ms=0", "--max-concurrent-streams=2", "--max-header-bytes=4096", "--max-output-bytes=1024",
		"--request-log-ppm=1000000", "--fast-decode=false",
		"--generation-slots=64", "--max-kv-bytes=1048576", "--prefill-chunk-tokens=8192", "--onnxruntime-genai=genai.so",
	}
	other := filepath.Join(t.TempDir(), "other.yaml")
	write(t, other, "max_batch_requests: 1\nhttp: 127.0.0.1:1\nreflection: true\nfast_decode: true\n")
	for name, args := range map[string][]string{
		"yaml":  {"--config", write(t, filepath.Join(t.TempDir(), "c.yaml"), yaml)},
		"json":  {"--config", write(t, filepath.Join(t.TempDir(), "c.json"), json)},
		"flags": flags,
		"both":  append([]string{"--config", other}, flags...),
	} {
		c, err := Parse(args)
		c.written = nil
		if err != nil || !reflect.DeepEqual(c, want) {
			t.Errorf("%s: got %+v, %v\nwant %+v", name, c, err, want)
		}
	}
}

func TestSettingsOfModels(t *testing.T) {
	c, err := Parse([]string{"--models", t.TempDir(), "--max-batch-rows=8", "--intra-op-threads=2", "--config", write(t, filepath.Join(t.TempDir(), "c.yaml"), `
batching: direct
model_settings:
  wine: {batching: auto, max_batch_rows: 8, maxQueueRows: 16}
  gone: {executors: 3, max_delay_ms: 5, intra_op_threads: 4}
  chat: {generation_slots: 2, max_kv_bytes: 5000000000, prefillChunkTokens: 7}
  12: null
`)})
	if err != nil {
		t.Fatal(err)
	}
	server := Batching{Policy: Direct, MaxBatchRows: 8, MaxQueueRows: 1024}
	text := Generation{Slots: 8, CacheBytes: 1 << 30, ChunkTokens: 512, Threads: 2}
	more := text
	more.Threads = 4
	for id, want := range map[string]ModelSettings{
		"other": {Batching: server, IntraOpThreads: 2, Generation: text},
		"12":    {Batching: server, IntraOpThreads: 2, Generation: text},
		"wine":  {Batching: Batching{Policy: Auto, MaxBatchRows: 8, MaxQueueRows: 16, OwnPolicy: true, OwnMaxBatchRows: true}, IntraOpThreads: 2, Generation: text},
		"gone":  {Batching: Batching{Policy: Direct, MaxBatchRows: 8, MaxDelay: 5 * time.Millisecond, MaxQueueRows: 1024, Executors: 3}, IntraOpThreads: 4, Generation: more},
		"chat":  {Batching: server, IntraOpThreads: 2, Generation: Generation{Slots: 2, CacheBytes: 5e9, ChunkTokens: 7, Threads: 2}},
	} {
		if got := c.SettingsOf(id); got != want || c.BatchingOf(id) != want.Batching {
			t.Errorf("%s: got %+v, want %+v", id, got, want)
		}
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestTexts(t *testing.T) {
	for arg, want := range map[string]error{"--help": ErrHelp, "-h": ErrHelp, "--version": ErrVersion} {
		if _, err := Parse([]string{arg}); !errors.Is(err, want) {
			t.Errorf("%s: got %v", arg, err)
		}
	}
}

func TestErrors(t *testing.T) {
	models := t.TempDir()
	certs := newCertificates(t)
	inFile := func(text string) []string {
		return []string{"--models", models, "--config", write(t, filepath.Join(t.TempDir(), "c.yaml"), text)}
	}
	with := func(args ...string) []string { return append([]string{"--models", models}, args...) }
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "models: expected a directory, got nothing"},
		{[]string{"--models", "/no/such"}, `models: expected a directory, got "/no/such", which is none`},
		{[]string{"--models", os.Args[0]}, "which is none"},
		{with("--surprise=cpu"), "unknown flag: --surprise"},
		{with("--model-settings=x"), "unknown flag: --model-settings"},
		{with("--device=gpu"), `device: expected cpu or cuda:N, got "gpu"`},
		{with("--device=cuda:01"), `device: expected cpu or cuda:N, got "cuda:01"`},
		{with("--processes=65"), "processes: expected 1 to 64, got 65"},
		{with("--processes=2"), "processes: expected 1, got 2: the Go server uses all processors in one process"},
		{with("--batching=fast"), `batching: expected auto, inline, direct or adaptive, got "fast"`},
		{with("--max-batch-rows=1025"), "max_batch_rows: expected 1 to 1024, got 1025"},
		{with("--max-delay-ms=1001"), "max_delay_ms: expected 0 to 1000, got 1001"},
		{with("--max-queue-rows=0"), "max_queue_rows: expected 1 to 2147483647, got 0"},
		{with("--generation-slots=65"), "generation_slots: expected 1 to 64, got 65"},
		{with("--max-kv-bytes=1048575"), "max_kv_bytes: expected 1048576 to 9223372036854775807, got 1048575"},
		{with("--prefill-chunk-tokens=0"), "prefill_chunk_tokens: expected 1 to 8192, got 0"},
		{inFile("model_settings: {chat: {max_kv_bytes: 1}}"), "model_settings.chat.max_kv_bytes: expected 1048576 to 9223372036854775807, got 1"},
		{inFile("model_settings: {chat: {generation_slots: 0}}"), "model_settings.chat.generation_slots: expected 1 to 64, got 0"},
		{with("--executors=257"), "executors: expected 1 to 256, got 257"},
		{with("--max-request-ms=0"), "max_request_ms: expected 1 to 2147483647, got 0"},
		{with("--max-connection-age-ms=-1"), "max_connection_age_ms: expected 0 to 2147483647, got -1"},
		{with("--max-concurrent-streams=0"), "max_concurrent_streams: expected 1 to 2147483647, got 0"},
		{with("--max-header-bytes=4095"), "max_header_bytes: expected 4096 to 2147483647, got 4095"},
		{with("--max-output-bytes=1023"), "max_output_bytes: expected 1024 to 9223372036854775807, got 1023"},
		{with("--request-log-ppm=1000001"), "request_log_ppm: expected 0 to 1000000, got 1000001"},
		{inFile("model_settings: {wine: {max_batch_rows: 0}}"), "model_settings.wine.max_batch_rows: expected 1 to 1024, got 0"},
		{inFile("model_settings: {wine: {batching: no}}"), "model_settings.wine.batching: expected a text, got false"},
		{inFile("model_settings: {wine: {batching: none}}"), `model_settings.wine.batching: expected auto, inline, direct or adaptive, got "none"`},
		{inFile("model_settings: {wine: {executors: many}}"), `model_settings.wine.executors: expected an integer, got "many"`},
		{inFile("model_settings: {wine: {z: 1, surprise: 1}}"), `model_settings.wine: "surprise": there is no such field`},
		{inFile("model_settings: {wine: {max_delay_ms: 1, maxDelayMs: 1}}"), "model_settings.wine.max_delay_ms: expected once, got maxDelayMs as well"},
		{inFile("model_settings: {wine: 1}"), "model_settings.wine: expected fields and their values, got 1"},
		{inFile("model_settings: [wine]"), `model_settings: expected model ids and their settings, got ["wine"]`},
		{inFile("model_settings: {../x: {}}"), `model_settings: expected a model id, got "../x"`},
		{inFile("model_settings: {a: {}}\nmodelSettings: {}"), "model_settings: expected once, got modelSettings as well"},
		{with("--listen"), "flag needs an argument: --listen"},
		{with("serve"), `expected flags only, got "serve"`},
		{with("--listen", "50051"), `listen: expected HOST:PORT, got "50051"`},
		{with("--listen", "127.0.0.1:http"), `listen: expected HOST:PORT, got "127.0.0.1:http"`},
		{with("--listen", "127.0.0.1:65536"), `listen: expected HOST:PORT, got "127.0.0.1:65536"`},
		{with("--listen", "127.0.0.1:-1"), `listen: expected HOST:PORT`},
		{with("--http", "nowhere"), `http: expected HOST:PORT, got "nowhere"`},
		{with("--listen", "0.0.0.0:1"), "listen: expected a loopback address where there are no certificates, got \"0.0.0.0:1\": set tls_cert and tls_key (`make certs`"},
		{with("--listen", ":1"), "listen: expected a loopback address"},
		{with("--listen", "[::]:1"), "listen: expected a loopback address"},
		{with("--listen", "example.org:1"), "listen: expected a loopback address"},
		{with("--listen", "localhost.example.org:1"), "listen: expected a loopback address"},
		{with("--max-message-bytes", "1023"), "max_message_bytes: expected 1024 to 2147483647, got 1023"},
		{with("--max-message-bytes", "2147483648"), "max_message_bytes: expected 1024 to 2147483647, got 2147483648"},
		{with("--max-message-bytes", "10MB"), `max_message_bytes: expected an integer, got "10MB"`},
		{with("--max-batch-requests", "0"), "max_batch_requests: expected 1 to 2147483647, got 0"},
		{with("--max-batch-requests", "3000000000"), "max_batch_requests: expected an integer of 32 bits, got 3000000000"},
		{with("--drain-delay-ms", "-1"), "drain_delay_ms: expected 0 to 2147483647, got -1"},
		{with("--drain-grace-ms", "1.5"), `drain_grace_ms: expected an integer, got "1.5"`},
		{with("--intra-op-threads", "0"), "intra_op_threads: expected 1 to 2147483647, got 0"},
		{with("--plaintext=maybe"), `plaintext: expected true or false, got "maybe"`},
		{with("--config", "/no/such"), `config "/no/such": expected a file that can be read, got none`},
		{inFile("surprise: 1"), `"surprise": there is no such field`},
		{inFile("- models"), "expected fields and their values"},
		{inFile("models: [x"), "expected YAML or JSON: "},
		{inFile("http: off\nhttp: off"), "expected YAML or JSON: "},
		{inFile("max_batch_requests: 1\nmaxBatchRequests: 2"), "max_batch_requests: expected once, got maxBatchRequests as well"},
		{inFile("max_batch_requests: soon"), `max_batch_requests: expected an integer, got "soon"`},
		{inFile("max_batch_requests: true"), `max_batch_requests: expected an integer, got "true"`},
		{inFile("listen: 5"), "listen: expected a text, got 5"},
		{inFile("plaintext: 'true'"), `plaintext: expected true or false, got "true"`},
		{inFile("plaintext: 1"), `plaintext: expected true or false, got "1"`},
		{with("--admin-listen", "0.0.0.0:1"), `admin_listen: expected a loopback address, got "0.0.0.0:1"`},
		{with("--admin-listen", "none"), `admin_listen: expected HOST:PORT, got "none"`},
		{with("--staging", "/no/such"), `staging: expected a directory, got "/no/such", which is none`},
		{with("--admission-cache="), "admission_cache: expected a directory or off, got nothing"},
		{with("--repository-poll-ms=-1"), "repository_poll_ms: expected 0 to 2147483647, got -1"},
		{with("--admission-timeout-ms=0"), "admission_timeout_ms: expected 1 to 2147483647, got 0"},
		{with("--admission-memory-bytes=268435455"), "admission_memory_bytes: expected 268435456 to 9223372036854775807, got 268435455"},
		{inFile("staging: off"), "staging: expected a text, got false"},
		{with("--tls-cert", certs.cert), "tls_cert: expected tls_key with it, got nothing"},
		{with("--tls-key", certs.key), "tls_key: expected tls_cert with it, got nothing"},
		{with("--tls-client-ca", certs.cert), "tls_client_ca: expected tls_cert and tls_key with it, got neither"},
		{with("--tls-cert", certs.cert, "--tls-key", certs.key, "--plaintext"), "plaintext: expected no tls_cert with it, got one"},
		{with("--tls-cert", "/no/such", "--tls-key", certs.key), `tls_cert: expected a file that can be read, got "/no/such"`},
		{with("--tls-cert", certs.key, "--tls-key", certs.key), "tls_cert: expected PEM with a CERTIFICATE, got "},
		{with("--tls-cert", certs.cert, "--tls-key", certs.cert), "tls_key: expected PEM with a PRIVATE KEY, got "},
		{with("--tls-cert", certs.cert, "--tls-key", certs.otherKey), "tls_key: expected the private key of tls_cert's certificate: "},
		{with("--tls-cert", certs.broken, "--tls-key", certs.key), "tls_cert: expected a certificate that can be parsed, got "},
		{with("--tls-cert", certs.cert, "--tls-key", certs.key, "--tls-client-ca", certs.key), "tls_client_ca: expected PEM with a CERTIFICATE, got "},
	} {
		_, err := Parse(c.args)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.args, err, c.want)
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: more than one line: %q", c.args, err)
		}
	}
}

func TestListeners(t *testing.T) {
	models := t.TempDir()
	certs := newCertificates(t)
	for _, c := range []struct {
		args       []string
		reflection bool
	}{
		{[]string{"--listen=127.5.0.1:1"}, true},
		{[]string{"--listen=localhost:1"}, true},
		{[]string{"--listen=[::1]:1"}, true},
		{[]string{"--listen=0.0.0.0:1", "--plaintext"}, false},
		{[]string{"--listen=0.0.0.0:1", "--plaintext", "--reflection"}, true},
		{[]string{"--listen=:1", "--tls-cert", certs.cert, "--tls-key", certs.key}, false},
		{[]string{"--http=0.0.0.0:1"}, true},
		{[]string{"--admin-listen=[::1]:0"}, true},
	} {
		config, err := Parse(append(c.args, "--models", models))
		if err != nil || config.Reflection != c.reflection {
			t.Errorf("%q: reflection %v, %v", c.args, config.Reflection, err)
		}
	}
}

func TestTLS(t *testing.T) {
	certs := newCertificates(t)
	c, err := Parse([]string{"--models", t.TempDir(), "--tls-cert", certs.cert, "--tls-key", certs.key, "--tls-client-ca", certs.cert})
	if err != nil {
		t.Fatal(err)
	}
	if c.TLS.MinVersion != tls.VersionTLS12 || c.TLS.ClientAuth != tls.RequireAndVerifyClientCert || c.TLS.ClientCAs == nil || len(c.TLS.Certificates) != 1 {
		t.Errorf("got %+v", c.TLS)
	}
}

// certificates are files: a certificate, its key, another key, and a certificate that is none.
type certificateFiles struct{ cert, key, otherKey, broken string }

func newCertificates(t *testing.T) certificateFiles {
	t.Helper()
	directory := t.TempDir()
	file := func(name, block string, data []byte) string {
		return write(t, filepath.Join(directory, name), string(pem.EncodeToMemory(&pem.Block{Type: block, Bytes: data})))
	}
	newKey := func() (*ecdsa.PrivateKey, []byte) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		data, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return key, data
	}
	key, keyData := newKey()
	_, otherData := newKey()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return certificateFiles{
		cert: file("cert.pem", "CERTIFICATE", cert), key: file("key.pem", "PRIVATE KEY", keyData),
		otherKey: file("other.pem", "PRIVATE KEY", otherData), broken: file("broken.pem", "CERTIFICATE", []byte("none")),
	}
}
