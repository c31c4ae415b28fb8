// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
)

// List reads which models and versions there are; they are loading from then on.
func (r *Repository) List() error {
	_, err := r.look()
	return err
}

// Load loads all versions that List found, several at a time, and returns when each is ready or has failed, or when ctx ends.
func (r *Repository) Load(ctx context.Context) {
	r.mu.Lock()
	var begun []<-chan struct{}
	for _, id := range slices.Sorted(maps.Keys(r.models)) {
		for _, v := range r.models[id].versions {
			if v.State == Loading && v.cancel == nil {
				begun = append(begun, r.begin(ctx, id, v))
			}
		}
	}
	r.mu.Unlock()
	for _, done := range begun {
		<-done
	}
}

// Scan looks at the directory again. What has changed is noted; a version that has stayed the same since the last scan and is not what
// was loaded begins to load; one that is gone begins to drain.
func (r *Repository) Scan(ctx context.Context) {
	settled, err := r.look()
	if err != nil {
		return // what was there goes on; look has logged it
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, versions := range settled {
		for _, v := range versions {
			if !v.gone && v.cancel == nil && (v.seen != v.tried || v.State == Loading) {
				r.begin(ctx, id, v)
			}
		}
	}
}

// look takes what lies on disk for what is known. It gives the versions that are as they were at the last look.
func (r *Repository) look() (settled map[string][]*version, err error) {
	r.scanning.Lock()
	defer r.scanning.Unlock()
	found, troubles, err := list(r.directory)
	if err != nil {
		troubles = map[string]string{".": plain(err).Error()}
	}
	for _, name := range slices.Sorted(maps.Keys(troubles)) {
		if why := troubles[name]; r.troubles[name] != why {
			r.options.Log.Warn("left out of the repository", "name", fault.Shown(name), "reason", why)
		}
	}
	r.troubles = troubles
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	settled = map[string][]*version{}
	r.looks++
	// Gone is what two scans in a row have not found: replacing a directory takes two renames, and a scan may fall between them.
	for id, m := range r.models {
		switch {
		case found[id] != nil:
			m.missed = false
		case m.missed:
			r.remove(id, m)
		default:
			m.missed = true
		}
	}
	for _, id := range slices.Sorted(maps.Keys(found)) {
		if found[id].versions != nil {
			settled[id] = r.compare(id, found[id])
		}
	}
	return settled, nil
}

// known is what is known of a model; of a new one that is nothing yet.
func (r *Repository) known(id string) (m *known, isNew bool) {
	if m := r.models[id]; m != nil {
		return m, false
	}
	m = &known{versions: map[string]*version{}, labels: map[string]string{}}
	r.models[id] = m
	return m, true
}

// relabel takes over the labels that were found, and tells whether they are others than before.
func (m *known) relabel(found *found) bool {
	if found.labels == nil || maps.Equal(m.labels, found.labels) {
		return false
	}
	m.labels = found.labels
	return true
}

// compare takes what a scan found of a model for what is known of it.
func (r *Repository) compare(id string, found *found) (settled []*version) {
	m, changed := r.known(id)
	if m.relabel(found) {
		changed = true
	}
	for number, seen := range found.versions {
		v := m.versions[number]
		switch {
		case v == nil || v.gone:
			m.versions[number] = arrived(number, r.looks)
			m.versions[number].seen = seen
			changed = true
		case v.seen == seen:
			settled = append(settled, v)
		default:
			v.seen = seen
			if v.State == Failed {
				v.again(r.looks)
				changed = true
			}
		}
	}
	for number, v := range m.versions {
		if _, there := found.versions[number]; there {
			v.missed, v.kept, v.found = false, false, r.looks
			continue
		}
		missed := v.missed
		v.missed = true
		if v.gone || !missed || r.keep(id, v, found) {
			continue
		}
		r.drain(id, v)
		if v.State != Draining {
			delete(m.versions, number)
		}
		changed = true
	}
	if changed {
		r.publish(id)
	}
	return settled
}

// keep tells whether a version that has gone from disk goes on: where another one is loading in its place, until that is ready, so that no request falls
// between the two. Where what came in its place has failed the old one still goes on, unless another is ready; and it goes with the last that is there.
func (r *Repository) keep(id string, v *version, found *found) bool {
	if v.State != Ready {
		return false
	}
	loading, failed, ready := false, false, false
	for number := range found.versions {
		other := r.models[id].versions[number]
		switch other.State {
		case Loading:
			loading = true
		case Ready:
			ready = true
		case Failed:
			failed = failed || other.came > v.found
		}
	}
	kept := loading || failed && !ready
	if kept && !v.kept {
		r.options.Log.Info("model version goes on until another is ready", "model_id", id, "model_version", v.Number)
	}
	v.kept = kept
	return kept
}

// arrived is a version that is new on disk.
func arrived(number string, look uint64) *version {
	return &version{Version: Version{Number: number, State: Loading}, came: look, found: look}
}

// again lets a version that has failed be loading once more: its files have changed.
func (v *version) again(look uint64) {
	v.Version, v.came = Version{Number: v.Number, State: Loading}, look
}

// remove takes a model out whose directory is gone.
func (r *Repository) remove(id string, m *known) {
	for _, v := range m.versions {
		if !v.gone {
			r.drain(id, v)
		}
	}
	delete(r.models, id)
	r.publish(id)
}

// drain takes a version out. It is Draining then if it was ready, until nobody holds it any more.
func (r *Repository) drain(id string, v *version) {
	v.gone = true
	if v.cancel != nil {
		v.cancel()
	}
	r.options.Log.Info("model version removed", "model_id", id, "model_version", v.Number)
	if v.State == Ready {
		v.State = Draining
		r.free(v.Model, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			if m := r.models[id]; m != nil && m.versions[v.Number] == v {
				delete(m.versions, v.Number)
				r.publish(id)
			}
		})
	}
}

// free frees a model once nobody holds it.
func (r *Repository) free(m *model.Model, then func()) {
	m.Retire(func() {
		then()
		debug.FreeOSMemory()
	})
}

// begin starts a load. What it gives is closed when the load has ended and what came of it is published.
func (r *Repository) begin(ctx context.Context, id string, v *version) <-chan struct{} {
	ctx, v.cancel = context.WithCancel(ctx)
	v.tried = v.seen
	r.loads++
	r.work.Add(1)
	done := make(chan struct{})
	go func() {
		defer r.work.Done()
		defer close(done)
		var loaded Version
		begin := time.Now()
		select {
		case r.turns <- struct{}{}:
			begin = time.Now()
			loaded = r.load(ctx, id, v.Number)
			<-r.turns
		case <-ctx.Done():
		}
		if r.end(ctx, id, v, loaded, time.Since(begin)) == 0 {
			// Loading leaves the files' bytes behind.
			debug.FreeOSMemory()
		}
	}()
	return done
}

// load makes one version ready or says why it is not; it never panics, whatever lies on disk.
func (r *Repository) load(ctx context.Context, id, number string) (loaded Version) {
	defer func() {
		if p := recover(); p != nil {
			loaded = failed(id, number, errors.New("internal error"), fmt.Errorf("panic: %v", p))
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

// end publishes what came of a load. It tells how many loads are still under way.
func (r *Repository) end(ctx context.Context, id string, v *version, loaded Version, took time.Duration) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.loads--
	ended := ctx.Err() != nil
	v.cancel()
	v.cancel = nil
	old := v.Version
	switch {
	case v.gone || ended:
		// Nobody waits for it, or the server stops.
		v.tried = ""
		if loaded.Model != nil {
			loaded.Model.Close()
		}
	case loaded.State == Ready:
		loaded.Model.Apply(r.batching(id)) // it may have changed while the version loaded
		v.Version = loaded
		r.report(id, loaded, took)
		r.publish(id)
		if old.Model != nil {
			r.free(old.Model, func() {})
		}
	case old.State == Ready:
		r.options.Log.Error("model version failed to change, the old one goes on", "model_id", id, "model_version", v.Number,
			"error", loaded.Fault.Message)
	case v.seen != v.tried:
		// Its files have changed meanwhile: it is still loading.
	default:
		v.Version = loaded
		r.report(id, loaded, took)
		r.publish(id)
	}
	return r.loads
}

// publish shows callers what is known of a model.
func (r *Repository) publish(id string) {
	entries := maps.Clone(*r.current.Load())
	before := entries[id]
	m := r.models[id]
	if m == nil {
		delete(entries, id)
		r.current.Store(&entries)
		r.tellStates(id, before, nil)
		if r.options.Gone != nil && before != nil {
			r.options.Gone(id)
		}
		return
	}
	entry := &Entry{ID: id, Labels: r.labels(id, m, before), Versions: make([]Version, 0, len(m.versions))}
	for _, v := range m.versions {
		entry.Versions = append(entry.Versions, v.Version)
	}
	slices.SortFunc(entry.Versions, func(a, b Version) int { return model.CompareVersions(a.Number, b.Number) })
	for i := range entry.Versions {
		if entry.Versions[i].State == Ready {
			entry.def = &entry.Versions[i]
		}
	}
	entries[id] = entry
	r.current.Store(&entries)
	r.tellStates(id, before, entry)
	if r.options.Changed != nil && (before == nil || before.IsReady() != entry.IsReady()) {
		r.options.Changed(id, entry.IsReady())
	}
}

// labels are those that requests may name: a label moves once the version that it is to name is ready, and until then stays with the one before.
func (r *Repository) labels(id string, m *known, before *Entry) map[string]string {
	isReady := func(number string) bool {
		v := m.versions[number]
		return v != nil && v.State == Ready
	}
	labels, waiting := maps.Clone(m.labels), map[string]string{}
	for label, number := range m.labels {
		if before == nil || isReady(number) {
			continue
		}
		if old, was := before.Labels[label]; was && old != number && isReady(old) {
			labels[label], waiting[label] = old, number
			if m.waiting[label] != number {
				r.options.Log.Info("label goes on until its new version is ready", "model_id", id, "label", label, "model_version", old,
					"new_version", fault.Shown(number))
			}
		}
	}
	m.waiting = waiting
	return labels
}

func (r *Repository) report(id string, v Version, took time.Duration) {
	if v.State == Failed {
		r.options.Log.Error("model version failed", "model_id", id, "model_version", v.Number, "error", v.Fault.Message)
		return
	}
	r.options.Log.Info("model version ready", "model_id", id, "model_version", v.Number,
		"kind", model.KindText(v.Model.Kind), "verified", v.About.Verified, "load_ms", took.Milliseconds())
}
