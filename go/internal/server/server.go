// SPDX-License-Identifier: Apache-2.0

// Package server is the gRPC side: services, the one table from faults to statuses, health, and the drain.
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/repository"
	"github.com/concord-inference/concord/go/internal/telemetry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
)

const (
	defaultStreams     = 1024
	defaultHeaderBytes = 64 << 10

	// Goroutines that handle calls one after the other: their stacks have grown already. Calls that find all of them busy get one of their own.
	streamWorkers = 32

	pingEvery       = 30 * time.Second
	pingTimeout     = 10 * time.Second
	clientPingEvery = 10 * time.Second
)

// Options say what a server serves, and how.
type Options struct {
	Repository       *repository.Repository
	Health           *Health
	TLS              *tls.Config // nil: plaintext
	Reflection       bool
	MaxMessageBytes  int
	MaxBatchRequests int
	Log              *slog.Logger
	Telemetry        *telemetry.Telemetry // nil: nothing is shown
	FastDecode       bool                 // the features of Predict are decoded straight into tensors where they are plainly right

	MaxRequest     time.Duration // requests without a deadline, or with a later one, get this; 0 is none
	MaxOutputBytes int64         // of one request's outputs; 0 is MaxMessageBytes

	// Of one connection; 0 is the default.
	MaxConcurrentStreams, MaxHeaderBytes int
	// MaxConnectionAge is when a connection is told to go, and ConnectionGrace how long what runs on it may then take. 0 is never.
	MaxConnectionAge, ConnectionGrace time.Duration
}

// Server serves a repository over gRPC.
type Server struct {
	options  Options
	log      *slog.Logger
	grpc     *grpc.Server
	draining atomic.Bool
	limits   atomic.Pointer[Limits]
}

// New makes a server; Serve starts it.
func New(options Options) *Server {
	s := bare(options)
	s.register(&inferencev1.InferenceService_ServiceDesc, &inference{server: s})
	s.register(&inferencev1.ModelInference_ServiceDesc, &tensorInference{server: s})
	s.register(&inferencev1.ModelCatalogService_ServiceDesc, &catalog{server: s})
	s.register(&healthpb.Health_ServiceDesc, options.Health)
	if options.Reflection {
		reflection.Register(registrar{s})
	}
	return s
}

// bare is a server without services.
func bare(options Options) *Server {
	s := &Server{options: options, log: options.Log}
	s.Apply(Limits{MaxBatchRequests: options.MaxBatchRequests, MaxRequest: options.MaxRequest, MaxOutputBytes: options.MaxOutputBytes})
	limit := options.MaxMessageBytes
	settings := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(min(limit+libraryMargin(limit), math.MaxInt32)),
		grpc.MaxSendMsgSize(math.MaxInt32), // checkSize is stricter
		grpc.MaxConcurrentStreams(uint32(cmp.Or(options.MaxConcurrentStreams, defaultStreams))),
		grpc.MaxHeaderListSize(uint32(cmp.Or(options.MaxHeaderBytes, defaultHeaderBytes))),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: pingEvery, Timeout: pingTimeout,
			// gRPC spreads the age by a tenth itself, and takes a grace of 0 for endless.
			MaxConnectionAge: options.MaxConnectionAge, MaxConnectionAgeGrace: max(options.ConnectionGrace, time.Millisecond),
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPingEvery, PermitWithoutStream: true}),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.UnknownServiceHandler(s.guardStream("an unserved method", options.Telemetry.Unserved(), unimplemented)),
	}
	if options.TLS != nil {
		settings = append(settings, grpc.Creds(credentials.NewTLS(options.TLS)))
	}
	s.grpc = grpc.NewServer(settings...)
	return s
}

// registrar lets the reflection services be guarded like ours, and their streams end when the server shuts down: a caller who keeps one open
// would hold up the drain.
type registrar struct{ server *Server }

func (r registrar) RegisterService(desc *grpc.ServiceDesc, implementation any) {
	ending := *desc
	ending.Streams = slices.Clone(desc.Streams)
	for i, stream := range desc.Streams {
		ending.Streams[i].Handler = func(implementation any, s grpc.ServerStream) error {
			return stream.Handler(implementation, endingStream{s, r.server.options.Health.ended})
		}
	}
	r.server.register(&ending, implementation)
}

// endingStream is a stream from which nothing more is received once it is ended.
type endingStream struct {
	grpc.ServerStream
	ended <-chan struct{}
}

func (e endingStream) RecvMsg(message any) error {
	received := make(chan error, 1)
	go func() { received <- e.ServerStream.RecvMsg(message) }() // at the latest until the handler has returned
	select {
	case err := <-received:
		return err
	case <-e.ended:
		return draining()
	}
}

func (r registrar) GetServiceInfo() map[string]grpc.ServiceInfo {
	return r.server.grpc.GetServiceInfo()
}

// unimplemented answers every method that is not served.
func unimplemented(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	name := fault.Shown(strings.ToValidUTF8(strings.TrimPrefix(method, "/"), "?"))
	return fault.New(fault.MethodUnimplemented, "%s is not served here", name)
}

// Serve answers on a listener until Drain or Stop.
func (s *Server) Serve(listener net.Listener) error { return s.grpc.Serve(listener) }

// Stop ends everything at once.
func (s *Server) Stop() { s.grpc.Stop() }

// Drain shuts down without losing a request: health says so first, after the delay new calls are refused, and what is under way has the
// grace to finish. It tells whether all finished. When ctx ends, so does the waiting.
func (s *Server) Drain(ctx context.Context, delay, grace time.Duration) bool {
	s.options.Health.Stop()
	wait(ctx, delay)
	s.draining.Store(true)
	s.options.Health.end()
	finished := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(finished)
	}()
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	select {
	case <-finished:
		return true
	case <-ctx.Done():
		// Work may have finished at the very last moment.
		select {
		case <-finished:
			return true
		default:
		}
		go s.grpc.Stop()
		return false
	}
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
