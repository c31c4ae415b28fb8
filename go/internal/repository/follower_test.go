// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/concord-inference/concord/go/internal/modeltest"
)

// run follows in the background until the test ends.
func (f *followed) run(period time.Duration) *Follower {
	f.t.Helper()
	follower := NewFollower(f.Repository, period)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		follower.Run(ctx)
	}()
	f.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return follower
}

func TestFollowerScansInItsPeriod(t *testing.T) {
	f := follow(t, nil)
	f.run(time.Millisecond)
	f.write("m", "1", "one")
	f.wait("it is ready", func() bool { return f.states("m") == "1 READY" })
}

// TestFollowerIsWoken has a period in which the test would end.
func TestFollowerIsWoken(t *testing.T) {
	f := follow(t, nil)
	f.run(time.Hour)
	p := tabular(t)
	place := func(number string) {
		t.Helper()
		beside := filepath.Join(f.directory, ".beside-"+number)
		p.Write(t, beside)
		check(t, os.MkdirAll(filepath.Join(f.directory, "p"), 0o755))
		check(t, os.Rename(beside, filepath.Join(f.directory, "p", number)))
	}
	place("1")
	f.wait("the first version is tried", func() bool { return f.states("p") == "1 FAILED" }) // its session answers otherwise
	place("2")
	f.wait("the second version is tried", func() bool { return f.states("p") == "1 FAILED, 2 FAILED" })
	modeltest.WriteFile(t, filepath.Join(f.directory, "p", "labels.json"), []byte(`{"stable": "2"}`))
	f.wait("the label is there", func() bool {
		entry, _ := f.Entry("p")
		return entry.Labels["stable"] == "2"
	})
	f.write("bare", "1", "one") // complete or not: who knows, so a scan finds it
	f.wait("the bare model is ready", func() bool { return f.states("bare") == "1 READY" })
	check(t, os.RemoveAll(filepath.Join(f.directory, "p")))
	f.wait("it is gone", func() bool {
		_, fault := f.Entry("p")
		return fault != nil
	})
}

// TestFollowerOutlivesMoves renames versions away again and again: the watcher of a directory that moves complains about it, and must find
// somebody who listens.
func TestFollowerOutlivesMoves(t *testing.T) {
	f := follow(t, nil)
	f.run(10 * time.Millisecond)
	f.write("m", "1", "one")
	for range 20 {
		f.write("m", "2", "two")
		f.wait("both are ready", func() bool { return f.states("m") == "1 READY, 2 READY" })
		aside := filepath.Join(t.TempDir(), "2")
		check(t, os.Rename(filepath.Join(f.directory, "m", "2"), aside))
		check(t, os.RemoveAll(aside))
		f.wait("the second is gone", func() bool { return f.states("m") == "1 READY" })
	}
}

func TestFollowerOfPeriodZeroNeverLooks(t *testing.T) {
	f := follow(t, nil)
	follower := f.run(0)
	f.write("m", "1", "one")
	other := follow(t, nil)
	other.run(time.Millisecond)
	other.write("m", "1", "one")
	other.wait("another is ready", func() bool { return other.states("m") == "1 READY" })
	if _, fault := f.Entry("m"); fault == nil {
		t.Error("it was looked at")
	}
	follower.SetPeriod(time.Hour)
	f.wait("it is ready", func() bool { return f.states("m") == "1 READY" })
}

// TestGlancesLeaveWhatIsWritten holds a package whose files are not all there.
func TestGlancesLeaveWhatIsWritten(t *testing.T) {
	f := follow(t, nil)
	tabular(t).Write(t, filepath.Join(f.directory, "p", "1"))
	graph := filepath.Join(f.directory, "p", "1", graphName)
	data, err := os.ReadFile(graph)
	check(t, err)
	check(t, os.Truncate(graph, int64(len(data)-1)))
	ctx := context.Background()
	for range 5 {
		f.Glance(ctx)
	}
	if got := f.states("p"); got != "1 LOADING" || len(f.loads) != 0 {
		t.Errorf("got %s, %d loads", got, len(f.loads))
	}
	check(t, os.WriteFile(graph, data, 0o600))
	f.Glance(ctx)
	f.Glance(ctx)
	f.wait("it is tried", func() bool { return f.states("p") == "1 FAILED" })
}
