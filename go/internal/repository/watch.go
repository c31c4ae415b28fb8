// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"
)

// watch hears from the operating system that something in a repository has changed. It hears nothing on some file systems, and it may miss
// changes: it only makes the next look come sooner. A nil watch hears nothing.
type watch struct {
	watcher *fsnotify.Watcher
	watched map[string]bool
	full    bool // no more directories can be watched
	log     *slog.Logger
	heard   chan struct{} // something has changed since it was read last

	mu   sync.Mutex
	left []string // directories that were removed or moved away, not yet forgotten
}

// newWatch watches the root, or gives nil where that cannot be watched.
func newWatch(root string, log *slog.Logger) *watch {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("the repository is not watched, only polled", "cause", err.Error())
		return nil
	}
	w := &watch{watcher: watcher, watched: map[string]bool{}, log: log, heard: make(chan struct{}, 1)}
	go w.listen() // until it is closed
	w.update([]string{root})
	return w
}

func (w *watch) close() {
	if w != nil {
		w.watcher.Close()
	}
}

// listen takes what the watcher says, always: while it waits to say something it holds a lock that Add and Remove want, so who calls those
// must not be the one whom it waits for.
func (w *watch) listen() {
	for {
		select {
		case event, open := <-w.watcher.Events:
			if !open {
				return
			}
			if event.Op == fsnotify.Chmod {
				continue
			}
			if event.Has(fsnotify.Remove | fsnotify.Rename) {
				w.mu.Lock()
				w.left = append(w.left, event.Name)
				w.mu.Unlock()
			}
		case _, open := <-w.watcher.Errors: // events were lost
			if !open {
				return
			}
		}
		select {
		case w.heard <- struct{}{}:
		default:
		}
	}
}

// changes is ready when something has changed. It is nil, so never ready, where nothing is watched.
func (w *watch) changes() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.heard
}

// update watches these directories and no others. It tells whether one of them was not watched before: what happened in it so far was not
// heard.
func (w *watch) update(directories []string) (more bool) {
	if w == nil {
		return false
	}
	wanted := map[string]bool{}
	for _, directory := range directories {
		directory = filepath.Clean(directory)
		wanted[directory] = true
		if w.watched[directory] {
			continue
		}
		if err := w.watcher.Add(directory); err != nil {
			if !w.full && !isMissing(err) {
				w.full = true
				w.log.Warn("part of the repository is not watched, only polled", "cause", plain(err).Error())
			}
			continue
		}
		w.watched[directory] = true
		more = true
	}
	for directory := range w.watched {
		if !wanted[directory] {
			delete(w.watched, directory)
			_ = w.watcher.Remove(directory) // it may have gone by itself
		}
	}
	return more
}

// forget notes which directories are not watched any more: they were removed, or moved away.
func (w *watch) forget() {
	w.mu.Lock()
	left := w.left
	w.left = nil
	w.mu.Unlock()
	for _, directory := range left {
		if w.watched[directory] {
			delete(w.watched, directory)
			_ = w.watcher.Remove(directory) // it may have gone by itself
		}
	}
}
