// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/admission"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const patience = 30 * time.Second // far more than anything here takes

// TestMain lets the test binary be the server too: then it is a process of its own, with its own signals and exit code.
func TestMain(m *testing.M) {
	if os.Getenv("CONCORD_TEST_SERVE") == "1" || len(os.Args) > 1 && os.Args[1] == admission.Mode {
		main()
	}
	os.Exit(m.Run())
}

// process is a server in a process of its own.
type process struct {
	ready  ready
	log    *bytes.Buffer
	cmd    *exec.Cmd
	exited chan error
}

func start(t *testing.T, args ...string) *process {
	t.Helper()
	args = append([]string{"--onnxruntime", modeltest.Library(t), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"}, args...)
	p := &process{cmd: exec.Command(os.Args[0], args...), log: &bytes.Buffer{}, exited: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), "CONCORD_TEST_SERVE=1", "XDG_CACHE_HOME="+t.TempDir())
	p.cmd.Stderr = p.log
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	guard := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	go func() { p.exited <- p.cmd.Wait() }()
	t.Cleanup(func() {
		guard.Stop()
		_ = p.cmd.Process.Kill()
	})
	if err != nil {
		<-p.exited
		t.Fatalf("no ready line: %v: %s", err, p.log)
	}
	if err := json.Unmarshal(line, &p.ready); err != nil {
		t.Fatalf("ready line %q: %v", line, err)
	}
	if p.ready.PID != p.cmd.Process.Pid || !strings.HasPrefix(p.ready.GRPC, "127.0.0.1:") || strings.HasSuffix(p.ready.GRPC, ":0") {
		t.Errorf("ready line %s", line)
	}
	return p
}

// stop signals the server and gives its exit code.
func (p *process) stop(t *testing.T, signal os.Signal) int {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	<-p.exited
	return p.cmd.ProcessState.ExitCode()
}

func dial(t *testing.T, address string, how credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(how))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func call(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// models is a repository of real packages: one of each kind that is served, and a broken one.
func models(t *testing.T) string {
	directory := t.TempDir()
	modeltest.Tabular(t).Write(t, filepath.Join(directory, "tabular", "1"))
	modeltest.Lookup(t).Write(t, filepath.Join(directory, "lookup", "1"))
	modeltest.WriteFile(t, filepath.Join(directory, "count", "1", "model.onnx"), modeltest.Graph(t, "count.onnx"))
	modeltest.WriteFile(t, filepath.Join(directory, "external", "1", "model.onnx"), modeltest.Graph(t, "external.onnx"))
	modeltest.WriteFile(t, filepath.Join(directory, "external", "1", "model.onnx.data"), modeltest.Graph(t, "external.onnx.data"))
	modeltest.WriteFile(t, filepath.Join(directory, "sequence", "1", "model.onnx"), modeltest.Graph(t, "sequence.onnx"))
	return directory
}

func TestServe(t *testing.T) {
	p := start(t, "--models", models(t))
	conn := dial(t, p.ready.GRPC, insecure.NewCredentials())
	client := inferencev1.NewInferenceServiceClient(conn)
	tabular := func(a float32, name string) *inferencev1.PredictRequest {
		return &inferencev1.PredictRequest{ModelId: "tabular", Features: map[string]*inferencev1.FeatureValue{
			"a": modeltest.Float(a), "name": modeltest.Text(name),
		}}
	}
	lookup := func(index int64) *inferencev1.PredictRequest {
		return &inferencev1.PredictRequest{ModelId: "lookup", Features: map[string]*inferencev1.FeatureValue{"index": modeltest.Integer(index)}}
	}

	response, err := client.Predict(call(t), tabular(1.5, "a\x00ß"))
	if err != nil {
		t.Fatalf("%v: %s", err, p.log)
	}
	if got := response; got.GetPredictions()["twice a"] != 3 || got.GetPredictions()["twice b"] != 1 || got.GetOutputs()["name"].GetStringValue() != "a\x00ß" ||
		got.GetOutputs()["sum"].GetInt64Value() != 2 || got.GetModelVersion() != "1" {
		t.Errorf("got %v", got)
	}

	// One bad row fails alone; the others ran together as far as they could.
	batch, err := client.BatchPredict(call(t), &inferencev1.BatchPredictRequest{Requests: []*inferencev1.PredictRequest{
		lookup(0), tabular(2, "x"), lookup(2), lookup(7), tabular(3, "y"), lookup(1),
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []float32{10, 4, 30, 0, 6, 20} {
		result := batch.GetResults()[i]
		if i == 3 {
			if s := status.FromProto(result.GetError()); s.Code() != codes.Internal || !strings.Contains(s.Message(), "idx=7") || strings.Contains(s.Message(), "/") {
				t.Errorf("the bad row: %v", result)
			}
			continue
		}
		got := result.GetResponse().GetPredictions()
		if got["number"] != want && got["twice a"] != want {
			t.Errorf("result %d: %v, want %v", i, result, want)
		}
		if rows := result.GetResponse().GetTiming().GetBatchRows(); (i == 1 || i == 4) && rows != 2 {
			t.Errorf("result %d ran with %d rows", i, rows)
		}
	}

	// A bare model, a scalar; then one that its deadline ends.
	count := func(n int64) *inferencev1.PredictRequest {
		return &inferencev1.PredictRequest{ModelId: "count", Features: map[string]*inferencev1.FeatureValue{"n": modeltest.Integer(n)}}
	}
	response, err = client.Predict(call(t), count(7))
	if err != nil || response.GetOutputs()["total"].GetInt64Value() != 7 {
		t.Errorf("count: %v, %v", response, err)
	}
	short, cancel := context.WithTimeout(call(t), 50*time.Millisecond)
	defer cancel()
	if _, err = client.Predict(short, count(1<<40)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("count for ever: %v", err)
	}
	response, err = client.Predict(call(t), &inferencev1.PredictRequest{ModelId: "external", Features: map[string]*inferencev1.FeatureValue{
		"x": {Value: &inferencev1.FeatureValue_FloatArray{FloatArray: &inferencev1.FloatArray{Values: []float32{1, 1}}}},
	}})
	if got := response.GetOutputs()["y"].GetFloatArray().GetValues(); err != nil || len(got) != 2 || got[0] != 3 || got[1] != 4 {
		t.Errorf("external: %v, %v", response, err)
	}
	_, err = client.Predict(call(t), &inferencev1.PredictRequest{ModelId: "sequence"})
	if want := `model "sequence" version 1 failed to load: model.onnx: "s" is a sequence, which is not served`; status.Convert(err).Message() != want {
		t.Errorf("sequence: %v", err)
	}

	for path, want := range map[string]string{"/healthz": "200 ok", "/readyz": "200 ok"} {
		got, err := http.Get("http://" + p.ready.HTTP + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(got.Body)
		got.Body.Close()
		if text := got.Status[:4] + string(body); text != want {
			t.Errorf("%s: %s", path, text)
		}
	}
	if code := p.stop(t, syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
	for _, line := range strings.Split(strings.TrimSpace(p.log.String()), "\n") {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry["time"] == nil || entry["level"] == nil || entry["msg"] == nil {
			t.Errorf("log line %q", line)
		}
	}
}

// TestFinishesWhatIsUnderWay stops a server in the middle of a call.
func TestFinishesWhatIsUnderWay(t *testing.T) {
	p := start(t, "--models", models(t))
	conn := dial(t, p.ready.GRPC, insecure.NewCredentials())
	watch, err := healthpb.NewHealthClient(conn).Watch(call(t), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := inferencev1.NewInferenceServiceClient(conn).Predict(call(t), &inferencev1.PredictRequest{
			ModelId: "count", Features: map[string]*inferencev1.FeatureValue{"n": modeltest.Integer(200_000)},
		})
		done <- err
	}()
	if code := p.stop(t, os.Interrupt); code != 0 {
		t.Errorf("exit code %d", code)
	}
	// It was answered, or refused as a call that came too late may be; it was not lost.
	if err := <-done; err != nil && status.Code(err) != codes.Unavailable {
		t.Errorf("the call under way: %v", err)
	}
	if last, err := watch.Recv(); err != nil || last.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("the watch: %v, %v", last, err)
	}
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	p := start(t, "--models", models(t), "--drain-delay-ms=600000")
	watch, err := healthpb.NewHealthClient(dial(t, p.ready.GRPC, insecure.NewCredentials())).Watch(call(t), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for {
		got, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got.GetStatus() == healthpb.HealthCheckResponse_NOT_SERVING {
			break
		}
	}
	if code := p.stop(t, syscall.SIGTERM); code != 1 {
		t.Errorf("exit code %d", code)
	}
}

func TestTLS(t *testing.T) {
	cert, key, pool := certificate(t)
	p := start(t, "--models", t.TempDir(), "--tls-cert", cert, "--tls-key", key)
	check := func(how credentials.TransportCredentials) error {
		_, err := healthpb.NewHealthClient(dial(t, p.ready.GRPC, how)).Check(call(t), &healthpb.HealthCheckRequest{})
		return err
	}
	if err := check(credentials.NewTLS(&tls.Config{RootCAs: pool})); err != nil {
		t.Error(err)
	}
	if err := check(credentials.NewTLS(&tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS11})); err == nil {
		t.Error("TLS 1.1 was taken")
	}
	if err := check(insecure.NewCredentials()); err == nil {
		t.Error("plaintext was taken")
	}
	mutual := start(t, "--models", t.TempDir(), "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", cert)
	p = mutual
	if err := check(credentials.NewTLS(&tls.Config{RootCAs: pool})); err == nil {
		t.Error("a client without a certificate was taken")
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(credentials.NewTLS(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}})); err != nil {
		t.Error(err)
	}
}

// certificate writes a certificate that is its own authority.
func certificate(t *testing.T) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	data, err := x509.CreateCertificate(rand.Reader, template, template, &secret.PublicKey, secret)
	if err != nil {
		t.Fatal(err)
	}
	secretData, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	modeltest.WriteFile(t, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: data}))
	modeltest.WriteFile(t, key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secretData}))
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: data}))
	return cert, key, pool
}

func TestExitCodes(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	noLibrary := filepath.Join(t.TempDir(), "libonnxruntime.so.1.31.1")
	modeltest.WriteFile(t, noLibrary, []byte("no library"))
	library := "--onnxruntime=" + modeltest.Library(t)
	for _, c := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"help", []string{"--help"}, 0, "Usage: inference-server --models DIR", ""},
		{"version", []string{"--version"}, 0, "(ONNX Runtime 1.31.1)", ""},
		{"configuration", []string{"--models", "/no/such"}, 2, "", `inference-server: models: expected a directory, got "/no/such", which is none`},
		{"library beside the binary", []string{"--models", t.TempDir()}, 2, "", "inference-server: onnxruntime: expected libonnxruntime.so.1.31.1, got "},
		{"library that is none", []string{"--models", t.TempDir(), "--onnxruntime", noLibrary}, 2, "", "inference-server: onnxruntime: "},
		{"no GPU", []string{"--models", t.TempDir(), library, "--device=cuda:0"}, 2, "", "inference-server: device: expected a GPU at cuda:0, got none: "},
		{"port in use", []string{"--models", t.TempDir(), library, "--http=off", "--listen", busy.Addr().String()}, 1, "", "address already in use"},
		{"port of HTTP in use", []string{"--models", t.TempDir(), library, "--listen=127.0.0.1:0", "--http", busy.Addr().String()}, 1, "", "address already in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := Run(call(t), c.args, &stdout, &stderr)
			if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("exit code %d\nstdout %s\nstderr %s", code, &stdout, &stderr)
			}
			if lines := strings.Count(stderr.String(), "\n"); code == 2 && lines != 1 {
				t.Errorf("%d lines: %s", lines, &stderr)
			}
		})
	}
}

// TestRunEndsWithItsContext also serves an empty repository, without HTTP.
func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(call(t))
	reader, writer := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- Run(ctx, []string{"--models", t.TempDir(), "--onnxruntime", modeltest.Library(t), "--listen=127.0.0.1:0", "--http=off"}, writer, io.Discard)
	}()
	line, err := bufio.NewReader(reader).ReadString('\n')
	if err != nil || !strings.Contains(line, `"http":""`) {
		t.Errorf("ready line %q, %v", line, err)
	}
	cancel()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d", got)
	}
}
