// SPDX-License-Identifier: Apache-2.0

package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/concord-inference/concord/go/internal/admission"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/tensor"
)

const patience = 10 * time.Second // far more than anything here takes

// followed is a repository whose graphs are texts: a session answers with its graph, "bad" is refused.
type followed struct {
	*Repository
	t         *testing.T
	directory string
	log       *bytes.Buffer

	mu      sync.Mutex
	changes []string
	loads   []string
	gate    chan struct{} // where not nil: a load waits for it
	entered chan struct{} // a run that asks to wait has begun
	leave   chan struct{} // lets such runs end
	open    atomic.Int64  // sessions
}

func follow(t *testing.T, prepare func(*followed)) *followed {
	t.Helper()
	f := &followed{t: t, directory: t.TempDir(), log: &bytes.Buffer{}, entered: make(chan struct{}, 10), leave: make(chan struct{})}
	if prepare != nil {
		prepare(f)
	}
	note := func(what string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.changes = append(f.changes, what)
	}
	r, err := Open(f.directory, Options{
		Load:    f.load,
		Changed: func(id string, ready bool) { note(fmt.Sprint(id, " ", ready)) },
		Gone:    func(id string) { note(id + " gone") },
		Log:     slog.New(slog.NewJSONHandler(f.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	f.Repository = r
	if err := r.List(); err != nil {
		t.Fatal(err)
	}
	r.Load(context.Background())
	t.Cleanup(func() {
		r.Close()
		f.wait("sessions are freed", func() bool { return f.open.Load() == 0 })
	})
	return f
}

func (f *followed) load(graph []byte, _ map[string][]byte) (model.Session, error) {
	f.mu.Lock()
	f.loads = append(f.loads, string(graph))
	gate := f.gate
	f.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if bytes.HasPrefix(graph, []byte("bad")) {
		return nil, errors.New("it is " + string(graph))
	}
	f.open.Add(1)
	spec := []tensor.Spec{{Name: "x", DType: tensor.String, Shape: []int64{}}}
	return &closing{Session: modeltest.Session{In: spec, Out: spec, Do: func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
		if in[0].Strings[0] == "wait" {
			f.entered <- struct{}{}
			<-f.leave
		}
		return []tensor.Tensor{{DType: tensor.String, Strings: []string{string(graph)}}}, nil
	}}, open: &f.open}, nil
}

// closing counts itself down, once.
type closing struct {
	modeltest.Session
	open *atomic.Int64
}

func (c *closing) Close() {
	if !c.Closed.Swap(true) {
		c.open.Add(-1)
	}
}

func (f *followed) path(parts ...string) string {
	return filepath.Join(append([]string{f.directory}, parts...)...)
}

func (f *followed) write(id, number, graph string) {
	f.t.Helper()
	modeltest.WriteFile(f.t, f.path(id, number, "model.onnx"), []byte(graph))
}

// look scans so many times, each time until what that began has ended.
func (f *followed) look(times int) {
	f.t.Helper()
	for range times {
		f.Scan(context.Background())
		f.wait("loads end", func() bool {
			f.Repository.mu.Lock()
			defer f.Repository.mu.Unlock()
			return f.Repository.loads == 0
		})
	}
}

func (f *followed) wait(what string, is func() bool) {
	f.t.Helper()
	for end := time.Now().Add(patience); !is(); {
		if time.Now().After(end) {
			f.t.Fatalf("%s: not within %s", what, patience)
		}
		// A look at a condition, not a wait for time.
		time.Sleep(time.Millisecond)
	}
}

// states is "1 READY, 2 FAILED".
func (f *followed) states(id string) string {
	entry, bad := f.Entry(id)
	if bad != nil {
		return string(bad.Reason)
	}
	var list []string
	for _, v := range entry.Versions {
		list = append(list, v.Number+" "+strings.TrimPrefix(v.State.String(), "MODEL_STATE_"))
	}
	return strings.Join(list, ", ")
}

// ask is the answer to a request, or the reason that there is none.
func (f *followed) ask(id, version string) string {
	m, bad := f.Resolve(id, version)
	if bad != nil {
		return string(bad.Reason)
	}
	defer m.Release()
	return answer(m, "")
}

func answer(m *model.Model, text string) string {
	out, _, err := m.Run(context.Background(), []tensor.Tensor{{DType: tensor.String, Strings: []string{text}}}, []int{0})
	if err != nil {
		return err.Error()
	}
	return out[0].Strings[0]
}

func (f *followed) want(id, states, answer string) {
	f.t.Helper()
	if got := f.states(id); got != states {
		f.t.Errorf("states %q, want %q", got, states)
	}
	if got := f.ask(id, ""); got != answer {
		f.t.Errorf("answer %q, want %q", got, answer)
	}
}

func (f *followed) wantChanges(want ...string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.changes, want) {
		f.t.Errorf("changes %q, want %q", f.changes, want)
	}
	f.changes = nil
}

func (f *followed) wantLoads(want ...string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(f.loads) // several load at a time
	if slices.Sort(want); !slices.Equal(f.loads, want) {
		f.t.Errorf("loads %q, want %q", f.loads, want)
	}
	f.loads = nil
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestNewVersion(t *testing.T) {
	f := follow(t, func(f *followed) { f.write("m", "1", "one") })
	f.want("m", "1 READY", "one")
	f.write("m", "2", "two")
	f.look(1)
	f.want("m", "1 READY, 2 LOADING", "one")
	if got := f.ask("m", "2"); got != string(fault.ModelLoading) {
		t.Errorf("got %s", got)
	}
	f.look(1)
	f.want("m", "1 READY, 2 READY", "two")
	f.look(3)
	f.wantLoads("one", "two")
	f.wantChanges("m false", "m true")
}

func TestModelAppearsAndVanishes(t *testing.T) {
	f := follow(t, nil)
	f.write("m", "1", "one")
	f.look(1)
	f.wantChanges("m false")
	f.look(1)
	f.wantChanges("m true")
	check(t, os.RemoveAll(f.path("m")))
	f.look(1)
	f.wantChanges()
	f.look(1)
	f.wantChanges("m gone")
	f.want("m", "MODEL_NOT_FOUND", "MODEL_NOT_FOUND")
	f.write("m", "1", "again")
	f.look(2)
	f.want("m", "1 READY", "again")
	f.wantChanges("m false", "m true")
}

func TestHalfCopied(t *testing.T) {
	f := follow(t, nil)
	for length := range len("whole") {
		f.write("m", "1", "whole"[:length])
		f.look(1)
		f.want("m", "1 LOADING", "MODEL_LOADING")
	}
	f.wantLoads()
	f.write("m", "1", "whole")
	f.look(2)
	f.want("m", "1 READY", "whole")
	f.wantLoads("whole")

	// A copy that stands still for a while is loaded in vain, and again when it goes on.
	check(t, os.MkdirAll(f.path("m", "2"), 0o755))
	f.look(2)
	f.want("m", "1 READY, 2 FAILED", "whole")
	f.write("m", "2", "late")
	f.look(1)
	f.want("m", "1 READY, 2 LOADING", "whole")
	f.look(1)
	f.want("m", "1 READY, 2 READY", "late")
}

func TestChangedVersion(t *testing.T) {
	f := follow(t, func(f *followed) { f.write("m", "1", "one") })
	f.write("m", "1", "two")
	f.look(1)
	f.want("m", "1 READY", "one")
	f.look(1)
	f.want("m", "1 READY", "two")
	f.wantChanges("m false", "m true")
	f.wait("the old one is freed", func() bool { return f.open.Load() == 1 })

	f.write("m", "1", "bad")
	f.look(2)
	f.want("m", "1 READY", "two")
	f.look(2)
	f.wantLoads("one", "two", "bad")
	if !strings.Contains(f.log.String(), `"msg":"model version failed to change, the old one goes on","model_id":"m","model_version":"1"`) {
		t.Errorf("log: %s", f.log)
	}
	check(t, os.Remove(f.path("m", "1", "model.onnx")))
	f.look(2)
	f.want("m", "1 READY", "two")
	f.write("m", "1", "three")
	f.look(2)
	f.want("m", "1 READY", "three")
}

// TestSameSizeAndTime changes what only the inode and its change time show.
func TestSameSizeAndTime(t *testing.T) {
	f := follow(t, func(f *followed) { f.write("m", "1", "one") })
	info, err := os.Stat(f.path("m", "1", "model.onnx"))
	check(t, err)
	f.write("m", "1", "two")
	check(t, os.Chtimes(f.path("m", "1", "model.onnx"), info.ModTime(), info.ModTime()))
	f.look(2)
	f.want("m", "1 READY", "two")
}

func TestFailedIsTriedAgain(t *testing.T) {
	f := follow(t, func(f *followed) { f.write("m", "1", "bad") })
	f.want("m", "1 FAILED", "MODEL_FAILED")
	f.look(3)
	f.wantLoads("bad")
	f.write("m", "1", "good")
	f.look(1)
	f.want("m", "1 LOADING", "MODEL_LOADING")
	f.look(1)
	f.want("m", "1 READY", "good")
	f.wantLoads("good")
}

func TestBadNewVersionLeavesTheOld(t *testing.T) {
	f := follow(t, func(f *followed) { f.write("m", "1", "one") })
	f.write("m", "2", "bad")
	f.look(2)
	f.want("m", "1 READY, 2 FAILED", "one")
	if got := f.ask("m", "2"); got != string(fault.ModelFailed) {
		t.Errorf("got %s", got)
	}
}

func TestMovedAwayAndBack(t *testing.T) {
	f := follow(t, func(f *followed) { f.write("m", "1", "one") })
	check(t, os.Rename(f.path("m", "1"), f.path("m", ".1")))
	f.look(1)
	f.want("m", "1 READY", "one") // one scan may fall between the two renames of a replacement
	check(t, os.Rename(f.path("m", ".1"), f.path("m", "1")))
	f.look(1)
	check(t, os.Rename(f.path("m", "1"), f.path("m", ".1")))
	f.look(1)
	f.want("m", "1 READY", "one")
	f.look(1)
	f.wait("it is freed", func() bool { return f.states("m") == "" })
	f.want("m", "", "VERSION_NOT_FOUND")
	check(t, os.Rename(f.path("m", ".1"), f.path("m", "1")))
	f.look(2)
	f.want("m", "1 READY", "one")
}

func TestRemovedWhileRunning(t *testing.T) {
	f := follow(t, func(f *followed) { f.write("m", "1", "one"); f.write("m", "2", "two") })
	m, bad := f.Resolve("m", "2")
	if bad != nil {
		t.Fatal(bad)
	}
	done := make(chan string)
	go func() {
		defer m.Release()
		done <- answer(m, "wait")
	}()
	<-f.entered
	check(t, os.RemoveAll(f.path("m", "2")))
	f.look(3)
	f.want("m", "1 READY, 2 DRAINING", "one")
	if got := f.ask("m", "2"); got != string(fault.VersionNotFound) {
		t.Errorf("got %s", got)
	}
	if f.open.Load() != 2 {
		t.Error("it was freed while it ran")
	}
	f.leave <- struct{}{}
	if got := <-done; got != "two" {
		t.Errorf("got %q", got)
	}
	f.wait("it is freed", func() bool { return f.states("m") == "1 READY" && f.open.Load() == 1 })

	// Back while the old one still runs: the new one is another.
	f.write("m", "1", "one")
	f.look(2)
	old, _ := f.Resolve("m", "1")
	check(t, os.RemoveAll(f.path("m", "1")))
	f.look(2)
	f.want("m", "1 DRAINING", "VERSION_NOT_FOUND")
	f.write("m", "1", "new")
	f.look(1)
	f.want("m", "1 LOADING", "MODEL_LOADING")
	f.look(1)
	f.want("m", "1 READY", "new")
	if got := answer(old, ""); got != "one" {
		t.Errorf("got %q", got)
	}
	old.Release()
	f.wait("the old one is freed", func() bool { return f.open.Load() == 1 })
	f.want("m", "1 READY", "new")
}

func TestRemovedWhileLoading(t *testing.T) {
	f := follow(t, nil)
	f.write("m", "1", "one")
	f.Scan(context.Background())
	f.gate = make(chan struct{})
	f.Scan(context.Background())
	f.wait("the load has begun", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.loads) == 1
	})
	check(t, os.RemoveAll(f.path("m", "1")))
	f.Scan(context.Background())
	f.Scan(context.Background())
	f.want("m", "", "VERSION_NOT_FOUND")
	close(f.gate)
	f.wait("what was loaded is freed", func() bool { return f.open.Load() == 0 })
	f.look(2)
	f.want("m", "", "VERSION_NOT_FOUND")
}

// TestChangedWhileLoading changes a version while it is loaded: what fails then is no failure, since it is loaded again.
func TestChangedWhileLoading(t *testing.T) {
	f := follow(t, nil)
	f.write("m", "1", "bad")
	f.Scan(context.Background())
	gate := make(chan struct{})
	f.gate = gate
	f.Scan(context.Background())
	f.wait("the load has begun", func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.loads) == 1
	})
	f.write("m", "1", "good")
	f.Scan(context.Background())
	f.mu.Lock()
	f.gate = nil
	f.mu.Unlock()
	close(gate)
	f.wait("the load ends", func() bool {
		f.Repository.mu.Lock()
		defer f.Repository.mu.Unlock()
		return f.Repository.loads == 0
	})
	f.want("m", "1 LOADING", "MODEL_LOADING")
	f.look(1)
	f.want("m", "1 READY", "good")
}

// TestReloadUnderLoad swaps a version again and again under requests: none fails, and each is answered by one version.
func TestReloadUnderLoad(t *testing.T) {
	f := follow(t, func(f *followed) { f.write("m", "1", "graph 0") })
	stop := make(chan struct{})
	var group sync.WaitGroup
	var answers atomic.Int64
	for range 4 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				m, bad := f.Resolve("m", "")
				if bad != nil {
					t.Error(bad)
					return
				}
				first, second := answer(m, ""), answer(m, "")
				m.Release()
				if first != second || !strings.HasPrefix(first, "graph ") {
					t.Errorf("got %q, then %q", first, second)
					return
				}
				answers.Add(1)
			}
		})
	}
	for i := 1; i <= 30; i++ {
		f.write("m", "1", fmt.Sprint("graph ", i))
		if i%3 == 0 {
			f.write("m", "2", fmt.Sprint("graph of 2 ", i))
		} else if i%3 == 1 {
			check(t, os.RemoveAll(f.path("m", "2")))
		}
		f.look(2)
		before := answers.Load()
		f.wait("answers come", func() bool { return answers.Load() > before+8 || t.Failed() })
	}
	close(stop)
	group.Wait()
	f.wait("old ones are freed", func() bool { return f.open.Load() == 2 })
}

func TestLabelsFollow(t *testing.T) {
	f := follow(t, func(f *followed) { f.write("m", "1", "one"); f.write("m", "2", "two") })
	labels := f.path("m", "labels.json")
	put := func(text string) { check(t, os.WriteFile(labels, []byte(text), 0o644)) }
	put(`{"stable": 1}`)
	f.look(1)
	if got := f.ask("m", "stable"); got != "one" {
		t.Errorf("got %s", got)
	}
	for _, broken := range []string{"{", "", "[1]", "null", strings.Repeat(" ", maxLabelsBytes+1)} {
		put(broken)
		f.look(2)
		if got := f.ask("m", "stable"); got != "one" {
			t.Errorf("%.10q: got %s", broken, got)
		}
	}
	check(t, os.Remove(labels), os.Symlink("elsewhere", labels))
	f.look(1)
	if got := f.ask("m", "stable"); got != "one" {
		t.Errorf("a link: got %s", got)
	}
	check(t, os.Remove(labels))
	put(`{"stable": "2"}`)
	f.look(1)
	if got := f.ask("m", "stable"); got != "two" {
		t.Errorf("got %s", got)
	}
	check(t, os.Remove(labels))
	f.look(1)
	if got := f.ask("m", "stable"); got != string(fault.LabelNotFound) {
		t.Errorf("got %s", got)
	}
	f.wantLoads("one", "two")
}

// TestTroubleIsLoggedOnce has the same things left out at every scan.
func TestTroubleIsLoggedOnce(t *testing.T) {
	f := follow(t, func(f *followed) {
		f.write("not an id", "1", "x")
		modeltest.WriteFile(t, f.path("m", "labels.json"), []byte("{"))
	})
	f.look(3)
	check(t, os.WriteFile(f.path("m", "labels.json"), []byte(`{"Bad": 1}`), 0o644))
	f.look(3)
	for _, name := range []string{`"name":"not an id"`, `"name":"m/labels.json"`, `"name":"m/labels.json label Bad"`} {
		if got := strings.Count(f.log.String(), name); got != 1 {
			t.Errorf("%s is logged %d times", name, got)
		}
	}
}

func TestLinkInAVersionsPlace(t *testing.T) {
	f := follow(t, func(f *followed) { f.write("m", "1", "one") })
	elsewhere := filepath.Join(t.TempDir(), "2")
	modeltest.WriteFile(t, filepath.Join(elsewhere, "model.onnx"), []byte("two"))
	check(t, os.Symlink(elsewhere, f.path("m", "2")))
	f.look(2)
	f.want("m", "1 READY, 2 FAILED", "one")
	check(t, os.Rename(f.path("m", "1"), f.path("m", ".1")), os.Symlink(".1", f.path("m", "1")))
	f.look(2)
	f.want("m", "1 READY, 2 FAILED", "one")
	check(t, os.Remove(f.path("m", "2")))
	f.write("m", "2", "two")
	f.look(2)
	f.want("m", "1 READY, 2 READY", "two")
	f.wantLoads("one", "two")
}

// TestRootComesAndGoes takes the whole directory away, and puts another in its place.
func TestRootComesAndGoes(t *testing.T) {
	f := follow(t, func(f *followed) { f.write("m", "1", "one") })
	away := f.directory + ".away"
	check(t, os.Rename(f.directory, away))
	defer os.RemoveAll(away)
	f.look(3)
	f.want("m", "1 READY", "one")
	if got := strings.Count(f.log.String(), `"name":"."`); got != 1 {
		t.Errorf("it is logged %d times", got)
	}
	f.write("n", "1", "other")
	f.look(2)
	f.want("m", "MODEL_NOT_FOUND", "MODEL_NOT_FOUND")
	f.want("n", "1 READY", "other")
}

// TestClose ends the loads under way.
func TestClose(t *testing.T) {
	f := follow(t, nil)
	admitting := make(chan struct{})
	f.options.Admit = func(ctx context.Context, _ admission.Model) error {
		close(admitting)
		<-ctx.Done()
		return ctx.Err()
	}
	f.write("m", "1", "one")
	f.Scan(context.Background())
	f.Scan(context.Background())
	<-admitting
	f.Repository.Close()
	f.want("m", "1 LOADING", "MODEL_LOADING")
	f.Repository.mu.Lock()
	f.models = map[string]*known{} // Close again is the test's own
	f.Repository.mu.Unlock()
}

// TestAdmission sees the very bytes that are loaded, and their hashes.
func TestAdmission(t *testing.T) {
	directory := t.TempDir()
	p := tabular(t)
	p.Extra = map[string][]byte{"model.onnx.data": []byte("weights")}
	p.Write(t, filepath.Join(directory, "package", "1"))
	modeltest.WriteFile(t, filepath.Join(directory, "bare", "1", "model.onnx"), []byte("tabular"))
	modeltest.WriteFile(t, filepath.Join(directory, "bare", "1", "model.onnx.data"), []byte("weights"))
	var mu sync.Mutex
	admitted := 0
	r, _ := load(t, directory, Options{Admit: func(_ context.Context, m admission.Model) error {
		mu.Lock()
		defer mu.Unlock()
		admitted++
		if string(m.Graph) != "tabular" || string(m.Files["model.onnx.data"]) != "weights" || len(m.Files) != 1 || len(m.Sums) != 2 ||
			m.Sums["model.onnx"] != sum(m.Graph) || m.Sums["model.onnx.data"] != sum([]byte("weights")) {
			t.Errorf("got %+v", m)
		}
		return nil
	}})
	if admitted != 2 {
		t.Errorf("%d admissions", admitted)
	}
	if _, f := r.Resolve("bare", ""); f != nil {
		t.Error(f)
	}
}

func TestEachModelHasItsLoader(t *testing.T) {
	directory := t.TempDir()
	for _, id := range []string{"a", "b"} {
		modeltest.WriteFile(t, filepath.Join(directory, id, "1", "model.onnx"), []byte(id))
	}
	var mu sync.Mutex
	var asked []string
	r, err := Open(directory, Options{Log: slog.New(slog.DiscardHandler), LoaderOf: func(id string) Loader {
		return func(graph []byte, _ map[string][]byte) (model.Session, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, id+string(graph))
			return nil, errors.New("none")
		}
	}})
	check(t, err)
	defer r.Close()
	check(t, r.List())
	r.Load(context.Background())
	if slices.Sort(asked); !slices.Equal(asked, []string{"aa", "bb"}) {
		t.Errorf("got %q", asked)
	}
}
