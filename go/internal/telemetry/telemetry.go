// SPDX-License-Identifier: Apache-2.0

// Package telemetry shows what the server does: metrics, spans and the lines of request logs, as docs/telemetry.md says. A nil Telemetry shows
// nothing, and so do the nil Methods and Calls that come of it; all may be used like any other.
package telemetry

import (
	"context"
	"errors"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options say what is shown of the server itself.
type Options struct {
	Version       string // the server's
	Runtime       string // ONNX Runtime's version
	Device        string // "cpu" or "cuda:N"
	RequestLogPPM int    // share of calls with a line in the log, 0 to 1000000
	Log           *slog.Logger
}

// Telemetry is what is shown of one server process. Its methods may be called from several goroutines.
type Telemetry struct {
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  metrics
	rejected map[string]prometheus.Counter // by reason; never changes
	none     *Version                      // of calls that no version answered
	logPPM   atomic.Uint32
	traces   *traces // nil where no spans are exported

	mu       sync.Mutex
	methods  map[methodName]*Method
	versions atomic.Pointer[map[versionName]*Version] // copied at each change, under mu
}

type versionName struct{ model, version string }

// New starts telemetry. Close ends it.
func New(options Options) *Telemetry {
	t := &Telemetry{
		log: options.Log, registry: prometheus.NewRegistry(), metrics: newMetrics(),
		rejected: map[string]prometheus.Counter{}, methods: map[methodName]*Method{},
	}
	t.metrics.register(t.registry)
	for _, reason := range reasons() {
		t.rejected[reason] = t.metrics.rejected.WithLabelValues(reason)
	}
	t.none = &Version{telemetry: t}
	t.versions.Store(&map[versionName]*Version{})
	t.SetRequestLogPPM(options.RequestLogPPM)
	registerProcess(t.registry, options.Version, options.Runtime)
	registerGPU(t.registry, options.Device, nvmlLibrary, options.Log)
	t.traces = startTraces(options)
	return t
}

// Close sends the spans that are left, at most until ctx ends.
func (t *Telemetry) Close(ctx context.Context) {
	if t != nil && t.traces != nil {
		t.traces.close(ctx)
	}
}

// SetRequestLogPPM changes the share of calls that get a line in the log, 0 to 1000000.
func (t *Telemetry) SetRequestLogPPM(ppm int) {
	if t != nil {
		t.logPPM.Store(uint32(ppm))
	}
}

// Handler answers a scrape, in the format that the scraper asks for.
func (t *Telemetry) Handler() http.Handler {
	if t == nil {
		return http.NotFoundHandler()
	}
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true,
		ErrorHandling:     promhttp.ContinueOnError, // what can be told is told
		ErrorLog:          scrapeLog{slog.NewLogLogger(t.log.Handler(), slog.LevelWarn)},
	})
}

// scrapeLog hears of what goes wrong in a scrape. A scraper that has hung up is not worth a line for each metric.
type scrapeLog struct{ log *log.Logger }

// Println is promhttp.Logger's.
func (l scrapeLog) Println(v ...any) {
	for _, one := range v {
		if err, ok := one.(error); ok {
			if _, left := errors.AsType[*net.OpError](err); left {
				return
			}
		}
	}
	l.log.Println(v...)
}

// Rejected counts an error by its reason, the name of an ErrorReason without its prefix.
func (t *Telemetry) Rejected(reason string) {
	if t == nil {
		return
	}
	counter, ok := t.rejected[reason]
	if !ok {
		counter = t.rejected[unspecified]
	}
	counter.Inc()
}

// State says which state a version is in; MODEL_STATE_UNSPECIFIED is that it has left, and its series with it.
func (t *Telemetry) State(id, version string, state inferencev1.ModelState) {
	if t == nil {
		return
	}
	if state == inferencev1.ModelState_MODEL_STATE_UNSPECIFIED {
		t.remove(versionName{id, version})
		return
	}
	t.add(versionName{id, version}).setState(state)
}

// Version is what is shown of a version that State has told of; of any other nothing is shown, so that neither callers nor late comers bring series.
func (t *Telemetry) Version(id, version string) *Version {
	if t == nil {
		return nil
	}
	name := versionName{id, version}
	if v := (*t.versions.Load())[name]; v != nil {
		return v
	}
	return &Version{telemetry: t, name: name, left: true}
}

func (t *Telemetry) add(name versionName) *Version {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := *t.versions.Load()
	if v := known[name]; v != nil {
		return v
	}
	v := &Version{telemetry: t, name: name}
	more := make(map[versionName]*Version, len(known)+1)
	maps.Copy(more, known)
	more[name] = v
	t.versions.Store(&more)
	return v
}

func (t *Telemetry) remove(name versionName) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := *t.versions.Load()
	v := known[name]
	if v == nil {
		return
	}
	fewer := maps.Clone(known)
	delete(fewer, name)
	t.versions.Store(&fewer)
	v.leave()
}
