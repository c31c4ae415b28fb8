// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/http"
	"slices"
	"sync"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

type servingStatus = healthpb.HealthCheckResponse_ServingStatus

const (
	serving    = healthpb.HealthCheckResponse_SERVING
	notServing = healthpb.HealthCheckResponse_NOT_SERVING
	unknown    = healthpb.HealthCheckResponse_SERVICE_UNKNOWN
)

// serviceNames are the names of the server and of what it serves.
var serviceNames = []string{
	"", "InferenceService",
	inferencev1.InferenceService_ServiceDesc.ServiceName, inferencev1.ModelInference_ServiceDesc.ServiceName,
	inferencev1.ModelCatalogService_ServiceDesc.ServiceName,
}

// Health is the health of the server, its services and its models, and the grpc.health.v1 service. Unlike grpc-go's own it lists any number
// of names and ends its watches when the server shuts down, so that they do not hold up the drain.
type Health struct {
	healthpb.UnimplementedHealthServer

	mu       sync.Mutex
	services []string // the names that follow the server
	statuses map[string]servingStatus
	changed  chan struct{} // closed at the next change
	stopped  bool
	ending   sync.Once
	ended    chan struct{} // closed when watches are to end
}

// NewHealth is the health of a server that is starting: nothing is serving.
func NewHealth() *Health {
	h := &Health{services: slices.Clone(serviceNames), statuses: map[string]servingStatus{}, changed: make(chan struct{}), ended: make(chan struct{})}
	h.setServices(notServing)
	return h
}

// AddService lists another service, before the server is serving.
func (h *Health) AddService(name string) {
	h.set(func() {
		h.services = append(h.services, name)
		h.statuses[name] = notServing
	})
}

// SetModel says whether a version of a model is ready.
func (h *Health) SetModel(id string, ready bool) {
	status := notServing
	if ready {
		status = serving
	}
	h.set(func() { h.statuses["models/"+id] = status })
}

// RemoveModel says that a model has left the repository.
func (h *Health) RemoveModel(id string) {
	h.set(func() { delete(h.statuses, "models/"+id) })
}

// SetServing says that the server and its services answer.
func (h *Health) SetServing() { h.setServices(serving) }

func (h *Health) setServices(status servingStatus) {
	h.set(func() {
		for _, name := range h.services {
			h.statuses[name] = status
		}
	})
}

// Stop says for good that nothing is serving.
func (h *Health) Stop() {
	h.set(func() {
		for name := range h.statuses {
			h.statuses[name] = notServing
		}
		h.stopped = true
	})
}

// end ends the watches, after Stop.
func (h *Health) end() { h.ending.Do(func() { close(h.ended) }) }

// set changes statuses under the lock; nothing changes after Stop.
func (h *Health) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		return
	}
	change()
	close(h.changed)
	h.changed = make(chan struct{})
}

// get is a name's status, and what is closed when it may have changed.
func (h *Health) get(name string) (servingStatus, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	status, ok := h.statuses[name]
	if !ok {
		status = unknown
	}
	return status, h.changed
}

// Check implements grpc.health.v1.
func (h *Health) Check(_ context.Context, request *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	status, _ := h.get(request.GetService())
	if status == unknown {
		return nil, fault.New(fault.ServiceNotFound, "no service or model %s here", fault.Quote(request.GetService()))
	}
	return &healthpb.HealthCheckResponse{Status: status}, nil
}

// List implements grpc.health.v1.
func (h *Health) List(context.Context, *healthpb.HealthListRequest) (*healthpb.HealthListResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	statuses := make(map[string]*healthpb.HealthCheckResponse, len(h.statuses))
	for name, status := range h.statuses {
		statuses[name] = &healthpb.HealthCheckResponse{Status: status}
	}
	return &healthpb.HealthListResponse{Statuses: statuses}, nil
}

// Watch implements grpc.health.v1: the status at once, then each change.
func (h *Health) Watch(request *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	last := servingStatus(-1)
	for {
		status, changed := h.get(request.GetService())
		if status != last {
			if err := stream.Send(&healthpb.HealthCheckResponse{Status: status}); err != nil {
				return err
			}
			last = status
			continue // it may have changed while it was sent
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return fault.Ended(stream.Context())
		case <-h.ended:
			// The last change is sent: it came before ended was closed.
			if now, _ := h.get(request.GetService()); now == last {
				return draining()
			}
		}
	}
}

// Handler serves /healthz, which answers while the process lives, and /readyz, which tells whether the server is serving.
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if status, _ := h.get(""); status == serving {
			plain(w, http.StatusOK, "ok")
		} else {
			plain(w, http.StatusServiceUnavailable, "not serving")
		}
	})
	return mux
}

func plain(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // the client may have gone
}

func draining() *fault.Fault { return fault.New(fault.ServerDraining, "the server is shutting down") }
