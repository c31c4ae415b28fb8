// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestReread(t *testing.T) {
	models := t.TempDir()
	file := filepath.Join(t.TempDir(), "c.yaml")
	write(t, file, "max_batch_requests: 3\nmax_queue_rows: 5\n")
	args := []string{"--models", models, "--config", file, "--max-queue-rows=9"}
	running, err := Parse(args)
	if err != nil || File(args) != file || File(args[:2]) != "" {
		t.Fatal(err, File(args))
	}
	same, err := Reread(args, running)
	if err != nil || same.Applied != nil || same.Restart != nil {
		t.Errorf("got %+v, %v", same, err)
	}
	write(t, file, "max_batch_requests: 4\nmax_queue_rows: 6\nlisten: localhost:1\nmax_message_bytes: 4096\ngeneration_slots: 3\nmodel_settings: {m: {batching: inline}}\n")
	change, err := Reread(args, running)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(change.Applied, []string{"max_batch_requests", "model_settings"}) || !slices.Equal(change.Restart, []string{"listen", "max_message_bytes", "generation_slots"}) {
		t.Errorf("got %+v, %+v", change.Applied, change.Restart)
	}
	next := change.Config
	if next.MaxBatchRequests != 4 || next.Batching.MaxQueueRows != 9 || next.BatchingOf("m").Policy != Inline || next.Listen != running.Listen ||
		next.Generation != running.Generation || next.MaxMessageBytes != running.MaxMessageBytes || next.MaxOutputBytes != running.MaxOutputBytes {
		t.Errorf("got %+v", next)
	}
	write(t, file, "listen: localhost:1\n") // a field that is taken away has its default again
	change, err = Reread(args, next)
	if err != nil || change.Config.MaxBatchRequests != 10000 || len(change.Config.ModelSettings) != 0 || !slices.Equal(change.Restart, []string{"listen"}) {
		t.Errorf("got %+v, %v", change, err)
	}
	for text, want := range map[string]string{
		"max_batch_requests: 0": "max_batch_requests: expected 1 to 2147483647, got 0",
		"listen: nowhere":       `listen: expected HOST:PORT, got "nowhere"`,
		"surprise: 1":           `"surprise": there is no such field`,
		"":                      "expected fields and their values",
	} {
		write(t, file, text)
		if _, err := Reread(args, next); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", text, err)
		}
	}
}
