// SPDX-License-Identifier: Apache-2.0

// Package server is the gRPC side: services, the one table from faults to statuses, health, and the drain.
package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/repository"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
)

// Limits of one connection. No honest client comes near them.
const (
	maxConcurrentStreams = 1024
	maxHeaderBytes       = 64 << 10

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
}

// Server serves a repository over gRPC.
type Server struct {
	options  Options
	log      *slog.Logger
	grpc     *grpc.Server
	draining atomic.Bool
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
	limit := options.MaxMessageBytes
	settings := []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(min(limit+libraryMargin(limit), math.MaxInt32)),
		grpc.MaxSendMsgSize(math.MaxInt32), // checkSize is stricter
		grpc.MaxConcurrentStreams(maxConcurrentStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPingEvery, PermitWithoutStream: true}),
		grpc.UnknownServiceHandler(unimplemented),
	}
	if options.TLS != nil {
		settings = append(settings, grpc.Creds(credentials.NewTLS(options.TLS)))
	}
	s.grpc = grpc.NewServer(settings...)
	return s
}

// registrar lets the reflection services be guarded like ours.
type registrar struct{ server *Server }

func (r registrar) RegisterService(desc *grpc.ServiceDesc, implementation any) {
	r.server.register(desc, implementation)
}

func (r registrar) GetServiceInfo() map[string]grpc.ServiceInfo {
	return r.server.grpc.GetServiceInfo()
}

// unimplemented answers every method that is not served.
func unimplemented(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	name := fault.Shown(strings.ToValidUTF8(strings.TrimPrefix(method, "/"), "?"))
	return grpcError(fault.New(fault.MethodUnimplemented, "%s is not served here", name))
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
