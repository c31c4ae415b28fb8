// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/concord-inference/concord/go/internal/admission"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/config"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/ort"
	"github.com/concord-inference/concord/go/internal/repository"
	"github.com/concord-inference/concord/go/internal/server"
	"github.com/concord-inference/concord/go/internal/telemetry"
	"golang.org/x/sys/unix"
)

const (
	exitStopped = 0
	exitFailure = 1
	exitConfig  = 2
)

// flushTime is the most that the spans which are left may take at the end.
const flushTime = 5 * time.Second

// version is the server's own; a release build sets it with -ldflags "-X main.version=...".
var version = "0.1.0-dev"

// Run is the whole program: it serves until ctx ends, then drains. The exit code is 0 after a stop, 2 for a bad configuration and 1 for
// every other failure.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	settings, err := config.Parse(args)
	switch {
	case errors.Is(err, config.ErrHelp):
		fmt.Fprint(stdout, config.Usage())
		return exitStopped
	case errors.Is(err, config.ErrVersion):
		fmt.Fprintf(stdout, "inference-server %s (ONNX Runtime %s)\n", version, ort.Version)
		return exitStopped
	case err != nil:
		return refuse(stderr, err)
	}
	library, path, err := openLibrary(settings)
	if err != nil {
		return refuse(stderr, err)
	}
	genai, err := findGenAI(settings, path)
	if err != nil {
		return refuse(stderr, err)
	}
	log := newLog(stderr)
	slog.SetDefault(log)
	if err := serve(ctx, newLive(args, settings, log), library, path, genai, stdout, log); err != nil {
		log.Error("cannot serve", "cause", err.Error())
		return exitFailure
	}
	return exitStopped
}

// refuse says in one line what is wrong with the configuration.
func refuse(stderr io.Writer, err error) int {
	fmt.Fprintf(stderr, "inference-server: %v\n", err)
	return exitConfig
}

// openLibrary loads the ONNX Runtime that is configured, or the one beside this binary.
func openLibrary(settings config.Config) (library *ort.Runtime, path string, err error) {
	path = settings.ONNXRuntime
	if path == "" {
		binary, err := os.Executable()
		if err != nil {
			return nil, "", fmt.Errorf("onnxruntime: expected a file, got nothing, and this binary's directory is unknown: %w", err)
		}
		path = filepath.Join(filepath.Dir(binary), ort.LibraryName)
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return nil, "", fmt.Errorf("onnxruntime: expected %s, got %q, which is no file", ort.LibraryName, path)
	}
	// A name without a slash would be searched for in the system's directories.
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, "", fmt.Errorf("onnxruntime: %w", err)
	}
	library, err = ort.Open(path, settings.IntraOpThreads)
	if err != nil {
		return nil, "", fmt.Errorf("onnxruntime: %q: %w", path, err)
	}
	if settings.GPU >= 0 {
		if library, err = library.OnGPU(settings.GPU); err != nil {
			return nil, "", fmt.Errorf("device: %w", err)
		}
	}
	return library, path, nil
}

// ready is the line on stdout that says where the server answers.
type ready struct {
	GRPC  string `json:"grpc"`
	HTTP  string `json:"http"`
	Admin string `json:"admin,omitempty"`
	PID   int    `json:"pid"`
}

func serve(ctx context.Context, live *live, library *ort.Runtime, path, genai string, stdout io.Writer, log *slog.Logger) error {
	settings := *live.current.Load()
	health := server.NewHealth()
	shown := startTelemetry(settings, log)
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), flushTime)
		defer cancel()
		shown.Close(ctx)
	}()
	trials := &admission.Trials{
		Library:         path,
		Threads:         settings.IntraOpThreads,
		GenAI:           genai,
		IntegerDivision: settings.AllowIntegerDivision,
		Timeout:         settings.AdmissionTimeout,
		MemoryBytes:     settings.AdmissionMemoryBytes,
		Log:             log,
	}
	generators := openGenerators(library, genai, log)
	models, err := repository.Open(settings.Models, repository.Options{
		LoaderOf: func(id string) repository.Loader {
			return library.WithThreads(live.current.Load().SettingsOf(id).IntraOpThreads).Load
		},
		Generate:        func(id string) repository.Generate { return generatingOf(live.current.Load(), id, generators) },
		Device:          deviceOf(settings),
		Admit:           admission.New(trials, ort.Version, settings.AdmissionCache).Admit,
		RequireManifest: settings.RequireManifest,
		Batching:        func(id string) batch.Settings { return batchingOf(live.current.Load(), id) },
		Changed:         health.SetModel,
		Gone:            health.RemoveModel,
		State:           shown.State,
		Watch:           func(id, version string) batch.Watcher { return shown.Version(id, version) },
		WatchGenerations: func(id, version string, cacheBytes int64) generate.Watcher {
			return shown.Version(id, version).Generations(cacheBytes)
		},
		Log: log,
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", settings.Listen)
	if err != nil {
		return err
	}
	defer listener.Close()
	line := ready{GRPC: listener.Addr().String(), PID: os.Getpid()}
	if settings.HTTP != "" {
		address, stop, err := serveHTTP(settings.HTTP, health.Handler(), shown, log)
		if err != nil {
			return err
		}
		defer stop()
		line.HTTP = address
	}
	options := server.Options{
		Repository:       models,
		Health:           health,
		TLS:              settings.TLS,
		Reflection:       settings.Reflection,
		MaxMessageBytes:  settings.MaxMessageBytes,
		MaxBatchRequests: settings.MaxBatchRequests,
		Log:              log,
		Telemetry:        shown,

		MaxConcurrentStreams: settings.MaxConcurrentStreams,
		MaxHeaderBytes:       settings.MaxHeaderBytes,
		MaxConnectionAge:     settings.MaxConnectionAge,
		MaxRequest:           settings.MaxRequest,
		MaxOutputBytes:       settings.MaxOutputBytes,
		ConnectionGrace:      settings.DrainGrace,
		FastDecode:           settings.FastDecode,
	}
	grpc := server.New(options)
	served := make(chan error, 2)
	drainAdmin := func(delay, grace time.Duration) {}
	if settings.Admin != "" {
		listener, err := net.Listen("tcp", settings.Admin)
		if err != nil {
			return err
		}
		defer listener.Close()
		line.Admin = listener.Addr().String()
		options.TLS, options.Reflection = nil, settings.AdminReflection
		editor := &repository.Editor{
			Models: settings.Models, Staging: settings.Staging, RequireManifest: settings.RequireManifest, Log: log,
		}
		editor.Sweep()
		admin := server.NewAdmin(editor, options)
		go func() { served <- admin.Serve(listener) }()
		drainAdmin = func(delay, grace time.Duration) { admin.Drain(context.Background(), delay, grace) }
	}
	// Listed before the first request, so that none is told that a model which is only loading does not exist.
	if err := models.List(); err != nil {
		return err
	}
	go func() { served <- grpc.Serve(listener) }()
	models.Load(ctx)
	if ctx.Err() == nil {
		health.SetServing()
		if err := json.NewEncoder(stdout).Encode(line); err != nil {
			grpc.Stop()
			return fmt.Errorf("the ready line cannot be written: %w", err)
		}
		follower := repository.NewFollower(models, settings.RepositoryPoll)
		go follower.Run(ctx)
		go live.follow(ctx, func(now *config.Config) {
			grpc.Apply(server.Limits{MaxBatchRequests: now.MaxBatchRequests, MaxRequest: now.MaxRequest, MaxOutputBytes: now.MaxOutputBytes})
			models.ApplyBatching()
			follower.SetPeriod(now.RepositoryPoll)
			shown.SetRequestLogPPM(now.RequestLogPPM)
		})
		log.Info("serving", "grpc", line.GRPC, "http", line.HTTP, "admin", line.Admin, "tls", settings.TLS != nil)
	}
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	delay, grace := live.current.Load().DrainDelay, live.current.Load().DrainGrace
	log.Info("draining", "delay_ms", delay.Milliseconds(), "grace_ms", grace.Milliseconds())
	var admin sync.WaitGroup
	admin.Go(func() { drainAdmin(delay, grace) })
	finished := grpc.Drain(context.Background(), delay, grace)
	admin.Wait()
	if finished {
		models.Close()
	} else {
		// The runs that are left still use the models.
		log.Warn("work under way did not finish within the grace")
	}
	log.Info("stopped")
	return nil
}

// startTelemetry shows this server; tests replace it.
var startTelemetry = func(settings config.Config, log *slog.Logger) *telemetry.Telemetry {
	return telemetry.New(telemetry.Options{
		Version: version, Runtime: ort.Version, Device: deviceOf(settings), RequestLogPPM: settings.RequestLogPPM, Log: log,
	})
}

func deviceOf(settings config.Config) string {
	if settings.GPU < 0 {
		return "cpu"
	}
	return fmt.Sprintf("cuda:%d", settings.GPU)
}

// newLog writes JSON lines, or text for people where the stream is a terminal.
func newLog(stderr io.Writer) *slog.Logger {
	if file, ok := stderr.(*os.File); ok {
		if _, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS); err == nil {
			return slog.New(slog.NewTextHandler(stderr, nil))
		}
	}
	return slog.New(slog.NewJSONHandler(stderr, nil))
}
