// SPDX-License-Identifier: Apache-2.0

// Package repository turns model directories into models that are ready to run. It reads what lies on disk, believes nothing of it, and
// knows at any time which versions are loading, ready or failed.
package repository

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
)

// State is the state of a version.
type State = inferencev1.ModelState

// The states that a version passes through.
const (
	Loading = inferencev1.ModelState_MODEL_STATE_LOADING
	Ready   = inferencev1.ModelState_MODEL_STATE_READY
	Failed  = inferencev1.ModelState_MODEL_STATE_FAILED
)

// Loader makes a session of a verified graph; external initializers come from files alone.
type Loader func(graph []byte, files map[string][]byte) (model.Session, error)

// Options say how a repository loads.
type Options struct {
	Load Loader
	// RequireManifest refuses versions without a manifest.
	RequireManifest bool
	// Admit judges a graph before Load sees it; nil admits all.
	Admit func(ctx context.Context, graph []byte, files map[string][]byte) error
	// Changed is called after each change of a model: whether a version of it is ready. It may be nil.
	Changed func(modelID string, ready bool)
	Log     *slog.Logger
}

// Repository is a directory of models. Its methods may be called from several goroutines; Scan once.
type Repository struct {
	root    *os.Root
	options Options

	mu      sync.Mutex // writers of current
	current atomic.Pointer[map[string]*Entry]
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
	About  *About       // set where it is ready
	Model  *model.Model // set where it is ready
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

// Open opens the directory of a repository. Nothing is in it until Scan.
func Open(directory string, options Options) (*Repository, error) {
	root, err := os.OpenRoot(directory)
	if err != nil {
		return nil, err
	}
	r := &Repository{root: root, options: options}
	r.current.Store(&map[string]*Entry{})
	return r, nil
}

// Close frees all models. No request may be under way.
func (r *Repository) Close() {
	for _, entry := range *r.current.Load() {
		for _, version := range entry.Versions {
			if version.Model != nil {
				version.Model.Close()
			}
		}
	}
	r.root.Close()
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
// have passed model.CheckName.
func (r *Repository) Resolve(id, version string) (*model.Model, *fault.Fault) {
	entry, f := r.Entry(id)
	if f != nil {
		return nil, f
	}
	if version == "" {
		return entry.highest()
	}
	number := version
	if !model.IsVersion(version) {
		labelled, ok := entry.Labels[version]
		if !ok {
			return nil, fault.New(fault.LabelNotFound, "model %s has no label %s", fault.Quote(id), fault.Quote(version)).At(id, "")
		}
		number = labelled
	}
	at := slices.IndexFunc(entry.Versions, func(v Version) bool { return v.Number == number })
	if at < 0 {
		return nil, fault.New(fault.VersionNotFound, "model %s has no version %s", fault.Quote(id), fault.Shown(number)).At(id, fault.Shown(number))
	}
	return entry.Versions[at].ready(id)
}

func (e *Entry) highest() (*model.Model, *fault.Fault) {
	if e.def != nil {
		return e.def.Model, nil
	}
	if len(e.Versions) == 0 {
		return nil, fault.New(fault.VersionNotFound, "model %s has no versions", fault.Quote(e.ID)).At(e.ID, "")
	}
	// None is ready: one that is loading gives hope, else the highest says why.
	for _, version := range slices.Backward(e.Versions) {
		if version.State == Loading {
			return version.ready(e.ID)
		}
	}
	return e.Versions[len(e.Versions)-1].ready(e.ID)
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

// List reads which models and versions there are; they are loading from then on.
func (r *Repository) List() error {
	entries, err := r.list()
	if err != nil {
		return err
	}
	r.current.Store(&entries)
	for id, entry := range entries {
		r.changed(id, entry.IsReady())
	}
	return nil
}

// Load loads all versions that List found, several at a time, and returns when each is ready or has failed, or when ctx ends.
func (r *Repository) Load(ctx context.Context) {
	var group sync.WaitGroup
	turns := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, entry := range r.Entries() {
		for _, version := range entry.Versions {
			if version.State != Loading {
				r.report(entry.ID, version, 0)
				continue
			}
			turns <- struct{}{}
			if ctx.Err() != nil {
				<-turns
				break
			}
			group.Go(func() {
				defer func() { <-turns }()
				begin := time.Now()
				loaded := r.load(ctx, entry.ID, version.Number)
				r.replace(entry.ID, loaded)
				r.report(entry.ID, loaded, time.Since(begin))
			})
		}
	}
	group.Wait()
}

// load makes one version ready or says why it is not; it never panics, whatever lies on disk.
func (r *Repository) load(ctx context.Context, id, number string) (version Version) {
	defer func() {
		if p := recover(); p != nil {
			version = failed(id, number, errors.New("internal error"), fmt.Errorf("panic: %v", p))
		}
	}()
	m, about, err := r.loadVersion(ctx, id, number)
	if err != nil {
		return failed(id, number, err, err)
	}
	return Version{Number: number, State: Ready, Model: m, About: about}
}

func failed(id, number string, why, cause error) Version {
	f := fault.New(fault.ModelFailed, "model %s version %s failed to load: %s", fault.Quote(id), fault.Shown(number), why)
	f.Cause = cause
	return Version{Number: number, State: Failed, Fault: f.At(id, number)}
}

// replace publishes a version in the place of the one with its number.
func (r *Repository) replace(id string, version Version) {
	r.mu.Lock()
	defer r.mu.Unlock()
	entries := maps.Clone(*r.current.Load())
	entry := *entries[id]
	entry.Versions = slices.Clone(entry.Versions)
	entry.def = nil
	for i := range entry.Versions {
		if entry.Versions[i].Number == version.Number {
			entry.Versions[i] = version
		}
		if entry.Versions[i].State == Ready {
			entry.def = &entry.Versions[i]
		}
	}
	entries[id] = &entry
	r.current.Store(&entries)
	r.changed(id, entry.IsReady())
}

func (r *Repository) changed(id string, ready bool) {
	if r.options.Changed != nil {
		r.options.Changed(id, ready)
	}
}

func (r *Repository) report(id string, version Version, took time.Duration) {
	if version.State == Failed {
		r.options.Log.Error("model version failed", "model_id", id, "model_version", version.Number, "error", version.Fault.Message)
		return
	}
	r.options.Log.Info("model version ready", "model_id", id, "model_version", version.Number,
		"kind", model.KindText(version.Model.Kind), "verified", version.About.Verified, "load_ms", took.Milliseconds())
}
