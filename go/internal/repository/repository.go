// SPDX-License-Identifier: Apache-2.0

// Package repository turns model directories into models that are ready to run. It reads what lies on disk, believes nothing of it, follows
// its changes, and knows at any time which versions are loading, ready, failed or draining. Its Editor changes what lies on disk.
package repository

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/admission"
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/model"
)

// State is the state of a version.
type State = inferencev1.ModelState

// The states that a version passes through.
const (
	Loading  = inferencev1.ModelState_MODEL_STATE_LOADING
	Ready    = inferencev1.ModelState_MODEL_STATE_READY
	Failed   = inferencev1.ModelState_MODEL_STATE_FAILED
	Draining = inferencev1.ModelState_MODEL_STATE_DRAINING
)

// Loader makes a session of a verified graph; external initializers come from files alone.
type Loader func(graph []byte, files map[string][]byte) (model.Session, error)

// Options say how a repository loads.
type Options struct {
	Load Loader
	// LoaderOf is the loader of a model at the time of a load; nil is Load for all.
	LoaderOf func(modelID string) Loader
	// Generate is how a model's text generators are opened at the time of a load; nil, or without an Open: none is served.
	Generate func(modelID string) Generate
	// Device is where Load puts sessions: "cpu", also where it is empty, or "cuda:N".
	Device string
	// RequireManifest refuses versions without a manifest.
	RequireManifest bool
	// Admit judges a model before Load sees it; nil admits all.
	Admit func(context.Context, admission.Model) error
	// Batching is what the configuration says of how a model's requests come to executions; nil says nothing.
	Batching func(modelID string) batch.Settings
	// Watch makes who sees what becomes of a version's rows; nil watches nothing.
	Watch func(modelID, version string) batch.Watcher
	// WatchGenerations makes who sees what becomes of a version's generations, whose keys and values take so much memory; nil watches nothing.
	WatchGenerations func(modelID, version string, cacheBytes int64) generate.Watcher
	// Changed is called when a model appears, and when it becomes ready or stops being so. It may be nil.
	Changed func(modelID string, ready bool)
	// Gone is called when a model has left the repository. It may be nil.
	Gone func(modelID string)
	// State is called with each new state of a version, in order; Left is that it is there no more. It may be nil.
	State func(modelID, version string, state State)
	Log   *slog.Logger
}

// Repository is a directory of models. Its methods may be called from several goroutines.
type Repository struct {
	directory string
	options   Options
	current   atomic.Pointer[map[string]*Entry] // what callers see, made of models

	scanning sync.Mutex        // one scan at a time
	troubles map[string]string // what the last scan left out, and why

	mu     sync.Mutex
	models map[string]*known
	looks  uint64         // scans so far
	turns  chan struct{}  // loads under way
	work   sync.WaitGroup // loads under way
	loads  int            // loads that have begun and not ended
}

// known is what the repository knows of a model.
type known struct {
	labels   map[string]string   // as they are on disk
	waiting  map[string]string   // labels that are to name a version that is not ready yet, and that version
	versions map[string]*version // by number
	missed   bool                // the last scan did not find it
}

// version is what the repository knows of a version.
type version struct {
	Version
	seen     fingerprint        // of its files at the last scan
	tried    fingerprint        // of its files when it was last loaded; none before
	glimpsed fingerprint        // of its files at the last glance
	cancel   context.CancelFunc // of the load under way, or nil
	gone     bool               // it has left the repository
	came     uint64             // the scan that it came with or before, or before which it changed after it had failed
	found    uint64             // the scan that found it last
	missed   bool               // the last scan did not find it
	kept     bool               // it is not found any more and goes on: what came in its place is not ready
}

// Entry is one model of the repository at one time. It does not change.
type Entry struct {
	ID       string
	Labels   map[string]string // label -> version
	Versions []Version         // by ascending number
	def      *Version          // highest ready, or nil
}

// Version is one version of a model at one time.
type Version struct {
	Number string
	State  State
	Fault  *fault.Fault // set where it failed
	About  *About       // set where it is ready or draining
	Model  *model.Model // set where it is ready or draining
}

// About is what the catalog tells of a version that is ready.
type About struct {
	Description  string
	Verified     bool
	Parity       *inferencev1.ParityRecord
	Quality      []*inferencev1.Metric
	MaxBatchRows int32
	ReadyTime    time.Time
}

// Open opens a repository. Nothing is in it until List.
func Open(directory string, options Options) (*Repository, error) {
	root, err := os.OpenRoot(directory)
	if err != nil {
		return nil, err
	}
	root.Close()
	r := &Repository{
		directory: directory, options: options, troubles: map[string]string{}, models: map[string]*known{},
		turns: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
	r.current.Store(&map[string]*Entry{})
	return r, nil
}

// batching is what the configuration says of a model.
func (r *Repository) batching(id string) batch.Settings {
	if r.options.Batching == nil {
		return batch.Settings{}
	}
	return r.options.Batching(id)
}

// ApplyBatching has all versions that are ready run as the configuration says now. Those that load meanwhile ask for it by themselves.
func (r *Repository) ApplyBatching() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, m := range r.models {
		for _, v := range m.versions {
			if v.Model != nil && !v.gone {
				v.Model.Apply(r.batching(id))
			}
		}
	}
}

// Close ends the loads under way and lets all models go: each is freed once nobody holds it. Nothing may be called afterwards.
func (r *Repository) Close() {
	r.mu.Lock()
	for _, model := range r.models {
		for _, v := range model.versions {
			v.gone = true
			if v.cancel != nil {
				v.cancel()
			}
			if v.Model != nil && v.State != Draining {
				v.Model.Retire(func() {})
			}
		}
	}
	r.models = nil
	r.mu.Unlock()
	r.work.Wait()
}

// Entries are all models, by id in byte order.
func (r *Repository) Entries() []*Entry {
	return slices.SortedFunc(maps.Values(*r.current.Load()), func(a, b *Entry) int { return cmp.Compare(a.ID, b.ID) })
}

// Entry is the model of an id, or a fault.
func (r *Repository) Entry(id string) (*Entry, *fault.Fault) {
	if entry := (*r.current.Load())[id]; entry != nil {
		return entry, nil
	}
	return nil, fault.New(fault.ModelNotFound, "model %s not found", fault.Quote(id)).At(id, "")
}

// Resolve is the ready version that a request names: a number, a label, or nothing for the highest that is ready. Both names must
// have passed model.CheckName. The caller holds the model and must Release it once it has run.
func (r *Repository) Resolve(id, version string) (*model.Model, *fault.Fault) {
	for {
		entry, f := r.Entry(id)
		if f != nil {
			return nil, f
		}
		m, f := entry.resolve(version)
		if f != nil {
			return nil, f
		}
		if m.Hold() {
			return m, nil
		}
		// It was freed since; what took its place was published before.
	}
}

func (e *Entry) resolve(version string) (*model.Model, *fault.Fault) {
	if version == "" {
		return e.highest()
	}
	number := version
	if !model.IsVersion(version) {
		labelled, ok := e.Labels[version]
		if !ok {
			return nil, fault.New(fault.LabelNotFound, "model %s has no label %s", fault.Quote(e.ID), fault.Quote(version)).At(e.ID, "")
		}
		number = labelled
	}
	at := slices.IndexFunc(e.Versions, func(v Version) bool { return v.Number == number && v.State != Draining })
	if at < 0 {
		return nil, noVersion(e.ID, number)
	}
	return e.Versions[at].ready(e.ID)
}

func (e *Entry) highest() (*model.Model, *fault.Fault) {
	if e.def != nil {
		return e.def.Model, nil
	}
	// None is ready: one that is loading gives hope, else the highest says why.
	var why *Version
	for i := range e.Versions {
		version := &e.Versions[i]
		if version.State == Loading || version.State == Failed && (why == nil || why.State == Failed) {
			why = version
		}
	}
	if why == nil {
		return nil, fault.New(fault.VersionNotFound, "model %s has no versions", fault.Quote(e.ID)).At(e.ID, "")
	}
	return why.ready(e.ID)
}

func (v *Version) ready(id string) (*model.Model, *fault.Fault) {
	switch v.State {
	case Ready:
		return v.Model, nil
	case Failed:
		return nil, v.Fault
	default:
		return nil, fault.New(fault.ModelLoading, "model %s version %s is loading", fault.Quote(id), fault.Shown(v.Number)).At(id, v.Number)
	}
}

// DefaultVersion is the number that answers a request without a version, or nothing.
func (e *Entry) DefaultVersion() string {
	if e.def == nil {
		return ""
	}
	return e.def.Number
}

// IsReady tells whether a version of the model is ready.
func (e *Entry) IsReady() bool { return e.def != nil }

func noVersion(id, number string) *fault.Fault {
	return fault.New(fault.VersionNotFound, "model %s has no version %s", fault.Quote(id), fault.Shown(number)).At(id, fault.Shown(number))
}
