// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"log/slog"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// watch hears from the operating system that something in a repository has changed. It hears nothing on some file systems, and it may miss
// changes: it only makes the next look come sooner. A nil watch hears nothing.
type watch struct {
	watcher *fsnotify.Watcher
	watched map[string]bool
	full    bool // no more directories can be watched
	log     *slog.Logger
}

// newWatch watches the root, or gives nil where that cannot be watched.
func newWatch(root string, log *slog.Logger) *watch {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("the repository is not watched, only polled", "cause", err.Error())
		return nil
	}
	w := &watch{watcher: watcher, watched: map[string]bool{}, log: log}
	w.update([]string{root})
	return w
}

func (w *watch) close() {
	if w != nil {
		w.watcher.Close()
	}
}

// events and errors are nil, so never ready, where nothing is watched.
func (w *watch) events() <-chan fsnotify.Event {
	if w == nil {
		return nil
	}
	return w.watcher.Events
}

func (w *watch) errors() <-chan error {
	if w == nil {
		return nil
	}
	return w.watcher.Errors
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

// forget notes that a directory is not watched any more: it was removed, or moved away.
func (w *watch) forget(event fsnotify.Event) {
	if w != nil && event.Has(fsnotify.Remove|fsnotify.Rename) && w.watched[event.Name] {
		delete(w.watched, event.Name)
		_ = w.watcher.Remove(event.Name)
	}
}
