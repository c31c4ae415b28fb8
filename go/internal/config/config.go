// SPDX-License-Identifier: Apache-2.0

// Package config reads the server's configuration from flags and a file and checks it. The fields, their names and their types are those of
// serverconfig.v1.ServerConfig; nothing here lists them twice.
package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	serverconfigv1 "github.com/concord-inference/concord/go/gen/serverconfig/v1"
)

// Config is a configuration that has been checked.
type Config struct {
	Models           string
	Listen           string
	HTTP             string // empty: none
	TLS              *tls.Config
	RequireManifest  bool
	Reflection       bool
	MaxMessageBytes  int
	MaxBatchRequests int
	DrainDelay       time.Duration
	DrainGrace       time.Duration
	IntraOpThreads   int
	ONNXRuntime      string // empty: beside the binary
	GenAI            string // empty: beside ONNX Runtime

	Admin           string // empty: no admin listener
	AdminReflection bool
	Staging         string        // empty: none
	RepositoryPoll  time.Duration // 0: the repository is read once

	AllowIntegerDivision bool
	AdmissionCache       string // empty: none
	AdmissionTimeout     time.Duration
	AdmissionMemoryBytes int64

	GPU                  int // the number of the GPU that models run on; -1: the CPU
	Processes            int // 1
	Batching             Batching
	Generation           Generation
	ModelSettings        map[string]ModelSettings // of the models that have their own, by model id
	MaxRequest           time.Duration            // at least 1 ms
	MaxConnectionAge     time.Duration            // 0: connections stay
	MaxConcurrentStreams int
	MaxHeaderBytes       int
	MaxOutputBytes       int64 // of one execution for one request
	RequestLogPPM        int   // 0 to 1000000
	FastDecode           bool

	written *serverconfigv1.ServerConfig // what it was checked from
}

// ErrHelp and ErrVersion say that the arguments ask for a text instead of a server.
var (
	ErrHelp    = errors.New("help is asked for")
	ErrVersion = errors.New("the version is asked for")
)

// off is the value that turns a listener or the cache off.
const off = "off"

const (
	defaultListen           = "127.0.0.1:50051"
	defaultHTTP             = "127.0.0.1:9090"
	defaultMaxMessageBytes  = 100 << 20
	defaultMaxBatchRequests = 10000
	defaultDrainGraceMS     = 30000
	minMessageBytes         = 1 << 10
	defaultPollMS           = 1000
	defaultAdmissionMS      = 60000
	defaultAdmissionMemory  = 16 << 30
	minAdmissionMemory      = 256 << 20
	maxProcesses            = 64
	defaultRequestMS        = 300000
	defaultAgeMS            = 1800000
	defaultStreams          = 1024
	defaultHeaderBytes      = 64 << 10
	minHeaderBytes          = 4 << 10
	minOutputBytes          = 1 << 10
	maxPPM                  = 1000000
)

// Parse reads the arguments, without the program's name, and the file that they name. Errors other than ErrHelp and ErrVersion are one line
// for the user: which field, what was expected, what came.
func Parse(args []string) (Config, error) {
	message, err := merge(args)
	if err != nil {
		return Config{}, err
	}
	return check(message)
}

func check(m *serverconfigv1.ServerConfig) (Config, error) {
	c := Config{
		Models:          m.GetModels(),
		RequireManifest: m.GetRequireManifest(),
		ONNXRuntime:     m.GetOnnxruntime(),
		GenAI:           m.GetOnnxruntimeGenai(),
		Staging:         m.GetStaging(),

		AllowIntegerDivision: m.GetAllowIntegerDivision(),

		written: m,
	}
	if c.Models == "" {
		return c, errors.New("models: expected a directory, got nothing")
	}
	if !isDirectory(c.Models) {
		return c, fmt.Errorf("models: expected a directory, got %q, which is none", c.Models)
	}
	var err error
	loopback := false
	if c.Listen, loopback, err = address("listen", orDefault(m.Listen, defaultListen)); err != nil {
		return c, err
	}
	if http := orDefault(m.Http, defaultHTTP); http != off {
		if c.HTTP, _, err = address("http", http); err != nil {
			return c, err
		}
	}
	if admin := orDefault(m.AdminListen, off); admin != off {
		local := false
		if c.Admin, local, err = address("admin_listen", admin); err != nil {
			return c, err
		}
		if !local {
			return c, fmt.Errorf("admin_listen: expected a loopback address, got %q", c.Admin)
		}
	}
	if c.Staging != "" && !isDirectory(c.Staging) {
		return c, fmt.Errorf("staging: expected a directory, got %q, which is none", c.Staging)
	}
	switch cache := m.AdmissionCache; {
	case cache == nil:
		c.AdmissionCache = defaultCache()
	case *cache == "":
		return c, errors.New("admission_cache: expected a directory or off, got nothing")
	case *cache != off:
		c.AdmissionCache = *cache
	}
	if c.TLS, err = certificates(m); err != nil {
		return c, err
	}
	if c.TLS == nil && !loopback && !m.GetPlaintext() {
		return c, fmt.Errorf("listen: expected a loopback address where there are no certificates, got %q: "+
			"set tls_cert and tls_key (`make certs` makes some for development), or plaintext", c.Listen)
	}
	c.Reflection = orDefault(m.Reflection, loopback)
	c.AdminReflection = orDefault(m.Reflection, true)
	c.FastDecode = orDefault(m.FastDecode, true)
	if c.GPU, err = gpu(m.GetDevice()); err != nil {
		return c, err
	}
	maxMessage := orDefault(m.MaxMessageBytes, defaultMaxMessageBytes)
	for _, number := range []struct {
		name      string
		value     int64
		low, high int64
		to        func(int64)
	}{
		{"max_message_bytes", maxMessage, minMessageBytes, math.MaxInt32, func(n int64) { c.MaxMessageBytes = int(n) }},
		{"max_batch_requests", int64(orDefault(m.MaxBatchRequests, defaultMaxBatchRequests)), 1, math.MaxInt32, func(n int64) { c.MaxBatchRequests = int(n) }},
		{"drain_delay_ms", int64(m.GetDrainDelayMs()), 0, math.MaxInt32, func(n int64) { c.DrainDelay = time.Duration(n) * time.Millisecond }},
		{"drain_grace_ms", int64(orDefault(m.DrainGraceMs, defaultDrainGraceMS)), 0, math.MaxInt32, func(n int64) { c.DrainGrace = time.Duration(n) * time.Millisecond }},
		{"repository_poll_ms", int64(orDefault(m.RepositoryPollMs, defaultPollMS)), 0, math.MaxInt32, func(n int64) { c.RepositoryPoll = time.Duration(n) * time.Millisecond }},
		{"admission_timeout_ms", int64(orDefault(m.AdmissionTimeoutMs, defaultAdmissionMS)), 1, math.MaxInt32, func(n int64) { c.AdmissionTimeout = time.Duration(n) * time.Millisecond }},
		{"admission_memory_bytes", orDefault(m.AdmissionMemoryBytes, defaultAdmissionMemory), minAdmissionMemory, math.MaxInt64, func(n int64) { c.AdmissionMemoryBytes = n }},
		{"processes", int64(orDefault(m.Processes, 1)), 1, maxProcesses, func(n int64) { c.Processes = int(n) }},
		{"max_request_ms", int64(orDefault(m.MaxRequestMs, defaultRequestMS)), 1, math.MaxInt32, func(n int64) { c.MaxRequest = time.Duration(n) * time.Millisecond }},
		{"max_connection_age_ms", int64(orDefault(m.MaxConnectionAgeMs, defaultAgeMS)), 0, math.MaxInt32, func(n int64) { c.MaxConnectionAge = time.Duration(n) * time.Millisecond }},
		{"max_concurrent_streams", int64(orDefault(m.MaxConcurrentStreams, defaultStreams)), 1, math.MaxInt32, func(n int64) { c.MaxConcurrentStreams = int(n) }},
		{"max_header_bytes", int64(orDefault(m.MaxHeaderBytes, defaultHeaderBytes)), minHeaderBytes, math.MaxInt32, func(n int64) { c.MaxHeaderBytes = int(n) }},
		{"max_output_bytes", orDefault(m.MaxOutputBytes, maxMessage), minOutputBytes, math.MaxInt64, func(n int64) { c.MaxOutputBytes = n }},
		{"request_log_ppm", int64(m.GetRequestLogPpm()), 0, maxPPM, func(n int64) { c.RequestLogPPM = int(n) }},
	} {
		if err := within(number.name, number.value, number.low, number.high); err != nil {
			return c, err
		}
		number.to(number.value)
	}
	if c.Processes != 1 {
		return c, fmt.Errorf("processes: expected 1, got %d: the Go server uses all processors in one process", c.Processes)
	}
	return c, c.checkBatching(m)
}

var devices = regexp.MustCompile(`^cuda:(0|[1-9][0-9]{0,3})$`)

// gpu is the number of the GPU that models are to run on, -1 for the CPU; nothing is the CPU.
func gpu(device string) (int, error) {
	if device == "" || device == "cpu" {
		return -1, nil
	}
	match := devices.FindStringSubmatch(device)
	if match == nil {
		return 0, fmt.Errorf("device: expected cpu or cuda:N, got %q", device)
	}
	return strconv.Atoi(match[1])
}

func isDirectory(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// defaultCache is "concord" in the user's cache directory, or nothing where the user has none.
func defaultCache() string {
	if caches, err := os.UserCacheDir(); err == nil && filepath.IsAbs(caches) {
		return filepath.Join(caches, "concord")
	}
	return ""
}

func orDefault[T any](value *T, otherwise T) T {
	if value == nil {
		return otherwise
	}
	return *value
}

// address checks HOST:PORT and tells whether only this machine can reach it.
func address(field, text string) (checked string, loopback bool, err error) {
	host, port, err := net.SplitHostPort(text)
	if err == nil {
		if n, bad := strconv.ParseUint(port, 10, 16); bad != nil || strconv.FormatUint(n, 10) != port {
			err = bad
			if err == nil {
				err = errors.New("leading zeros")
			}
		}
	}
	if err != nil || strings.ContainsAny(host, " /\t\r\n") {
		return "", false, fmt.Errorf("%s: expected HOST:PORT, got %q", field, text)
	}
	ip := net.ParseIP(host)
	return text, host == "localhost" || ip != nil && ip.IsLoopback(), nil
}
