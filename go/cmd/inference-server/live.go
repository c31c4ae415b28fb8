// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/concord-inference/concord/go/internal/config"
	"github.com/fsnotify/fsnotify"
)

const (
	configPoll   = 5 * time.Second       // where the operating system tells nothing
	configSettle = 50 * time.Millisecond // from a change to reading: an editor may still write
)

// live is the configuration of a running server, and follows its file.
type live struct {
	args    []string
	file    string // none: empty
	seen    []byte
	hups    chan os.Signal
	current atomic.Pointer[config.Config]
	apply   func(*config.Config)
	log     *slog.Logger
}

// newLive remembers the file as it was read at the start. Nothing is applied before follow.
func newLive(args []string, settings config.Config, log *slog.Logger) *live {
	l := &live{args: args, file: config.File(args), hups: make(chan os.Signal, 1), log: log}
	l.current.Store(&settings)
	l.seen, _ = os.ReadFile(l.file)
	signal.Notify(l.hups, syscall.SIGHUP)
	return l
}

// follow reads the file again when it changes, and at SIGHUP whether it has or not, until ctx ends.
func (l *live) follow(ctx context.Context, apply func(*config.Config)) {
	l.apply = apply
	defer signal.Stop(l.hups)
	var events <-chan fsnotify.Event
	var poll <-chan time.Time
	if l.file != "" {
		ticker := time.NewTicker(configPoll)
		defer ticker.Stop()
		poll = ticker.C
		// The directory: files are replaced, and a link in it may lead elsewhere.
		if watcher, err := fsnotify.NewWatcher(); err != nil {
			l.log.Warn("the configuration file is not watched, only polled", "cause", err.Error())
		} else {
			defer watcher.Close()
			if err := watcher.Add(filepath.Dir(l.file)); err != nil {
				l.log.Warn("the configuration file is not watched, only polled", "cause", err.Error())
			}
			events = watcher.Events
		}
	}
	settle, settling := time.NewTimer(0), true // what has changed since the start
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.hups:
			l.reread(true)
		case <-events:
			if !settling {
				settle.Reset(configSettle)
				settling = true
			}
		case <-settle.C:
			settling = false
			l.reread(false)
		case <-poll:
			l.reread(false)
		}
	}
}

// reread takes over what can be taken over of the file as it is now.
func (l *live) reread(anyway bool) {
	data, err := os.ReadFile(l.file)
	if !anyway && (err != nil || bytes.Equal(data, l.seen)) {
		return // a file that is being replaced is not there for a moment
	}
	l.seen = data
	change, err := config.Reread(l.args, *l.current.Load())
	if err != nil {
		l.log.Error("the configuration is bad, the old one goes on", "error", err.Error())
		return
	}
	l.current.Store(&change.Config)
	l.apply(&change.Config)
	if len(change.Applied) > 0 || anyway {
		l.log.Info("the configuration has changed", "fields", append([]string{}, change.Applied...))
	}
	if len(change.Restart) > 0 {
		l.log.Warn("the configuration needs a restart to change", "fields", change.Restart)
	}
}
