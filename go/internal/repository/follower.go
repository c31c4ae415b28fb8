// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"time"
)

// Follower follows a repository's directory: it looks at it in a period and, where the operating system tells of changes, soon after each. The
// looks alone decide what is true.
type Follower struct {
	repository *Repository
	periods    chan time.Duration
}

// NewFollower makes a follower that scans at least once in each period; 0 is never, whatever changes.
func NewFollower(r *Repository, period time.Duration) *Follower {
	f := &Follower{repository: r, periods: make(chan time.Duration, 1)}
	f.periods <- period
	return f
}

// SetPeriod changes the period of a follower. It may be called from one goroutine at a time.
func (f *Follower) SetPeriod(period time.Duration) {
	select {
	case <-f.periods: // one that was not seen yet
	default:
	}
	f.periods <- period
}

// Run follows until ctx ends, and so do the loads that it has begun.
func (f *Follower) Run(ctx context.Context) {
	r := f.repository
	var rhythm rhythm
	var w *watch
	defer func() { w.close() }()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var due <-chan time.Time
		scan := false
		if rhythm.period > 0 {
			var at time.Time
			at, scan = rhythm.next()
			timer.Reset(time.Until(at))
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case period := <-f.periods:
			if period == rhythm.period {
				continue
			}
			rhythm = newRhythm(period, time.Now())
			if period == 0 {
				w.close()
				w = nil
			} else if w == nil {
				w = newWatch(r.directory, r.options.Log)
				// What has changed between the last look and the watch was not heard.
				rhythm.changed(time.Now())
			}
		case <-w.changes():
			w.forget()
			rhythm.changed(time.Now())
		case <-due:
			begin := time.Now()
			if scan {
				r.Scan(ctx)
				rhythm.scanned(time.Now())
			} else {
				r.Glance(ctx)
				rhythm.glanced(time.Now(), time.Since(begin))
			}
			if w.update(r.directories()) {
				rhythm.changed(time.Now())
			}
		}
	}
}

// directories are the root, those of the models, and those of their versions.
func (r *Repository) directories() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := []string{r.directory}
	for id, m := range r.models {
		list = append(list, filepath.Join(r.directory, id))
		for number, v := range m.versions {
			if !v.gone {
				list = append(list, filepath.Join(r.directory, id, number))
			}
		}
	}
	return list
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
