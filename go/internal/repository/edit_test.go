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
	"testing"
	"time"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"golang.org/x/sys/unix"
)

// editing is an editor of a repository with its staging directory.
type editing struct {
	*Editor
	t   *testing.T
	log *bytes.Buffer
}

func edit(t *testing.T) *editing {
	t.Helper()
	log := &bytes.Buffer{}
	return &editing{&Editor{Models: t.TempDir(), Staging: t.TempDir(), Log: slog.New(slog.NewJSONHandler(log, nil))}, t, log}
}

func (e *editing) model(parts ...string) string {
	return filepath.Join(append([]string{e.Models}, parts...)...)
}
func (e *editing) staged(parts ...string) string {
	return filepath.Join(append([]string{e.Staging}, parts...)...)
}

// names are those in a directory, sorted.
func names(t *testing.T, directory string) string {
	t.Helper()
	items, err := os.ReadDir(directory)
	if err != nil {
		return "none"
	}
	var list []string
	for _, item := range items {
		list = append(list, item.Name())
	}
	return strings.Join(list, " ")
}

func wantFault(t *testing.T, err error, reason fault.Reason, message string) {
	t.Helper()
	var f *fault.Fault
	if !errors.As(err, &f) || f.Reason != reason || f.Message != message {
		t.Errorf("got %v\nwant %s %s", err, reason, message)
	}
}

func TestLoadModel(t *testing.T) {
	e := edit(t)
	tabular(t).Write(t, e.staged("m", "1"))
	check(t, e.Load(context.Background(), "m", "1"))
	if got := names(t, e.model("m")); got != ".lock 1" {
		t.Errorf("got %q", got)
	}
	if got := names(t, e.model("m", "1")); got != "golden.binpb manifest.json model.onnx" {
		t.Errorf("got %q", got)
	}
	if got := names(t, e.staged("m")); got != "" {
		t.Errorf("staging has %q", got)
	}
	r, _ := load(t, e.Models, Options{})
	if m, f := r.Resolve("m", "1"); f != nil {
		t.Error(f)
	} else {
		m.Release()
	}
	if !strings.Contains(e.log.String(), `"msg":"model loaded from staging","model_id":"m","model_version":"1"`) {
		t.Errorf("log: %s", e.log)
	}
}

// TestLoadModelAcrossFileSystems has the rename say that it cannot.
func TestLoadModelAcrossFileSystems(t *testing.T) {
	e := edit(t)
	e.rename = func(*os.File, string, *os.File, string) error { return unix.EXDEV }
	p := tabular(t)
	p.Extra = map[string][]byte{"model.onnx.data": bytes.Repeat([]byte("weights"), 1<<16)}
	p.Write(t, e.staged("m", "1"))
	check(t, e.Load(context.Background(), "m", "1"))
	if got := names(t, e.model("m")); got != ".lock 1" {
		t.Errorf("got %q", got)
	}
	if got := names(t, e.staged("m")); got != "" {
		t.Errorf("staging has %q", got)
	}
	r, _ := load(t, e.Models, Options{})
	if m, f := r.Resolve("m", "1"); f != nil {
		t.Error(f)
	} else {
		m.Release()
	}

	// What cannot be copied whole does not appear, and staging keeps it.
	modeltest.WriteFile(t, e.staged("bare", "1", "model.onnx"), []byte("tabular"))
	modeltest.WriteFile(t, e.staged("bare", "1", "more", "file"), nil)
	if err := e.Load(context.Background(), "bare", "1"); err == nil || !strings.Contains(err.Error(), "more is no regular file") {
		t.Errorf("got %v", err)
	}
	if got := names(t, e.model("bare")) + "/" + names(t, e.staged("bare", "1")); got != "/model.onnx more" {
		t.Errorf("got %q", got)
	}
}

func TestLoadModelRefused(t *testing.T) {
	e := edit(t)
	ctx := context.Background()
	write := func(id string, disk func(directory string)) {
		tabular(t).Write(t, e.staged(id, "2"))
		if disk != nil {
			disk(e.staged(id, "2"))
		}
	}
	write("there", nil)
	check(t, os.MkdirAll(e.model("there", "2"), 0o755))
	write("file", nil)
	modeltest.WriteFile(t, e.model("file", "2"), nil)
	write("size", func(d string) { modeltest.WriteFile(t, filepath.Join(d, "model.onnx"), nil) })
	write("hash", func(d string) { modeltest.WriteFile(t, filepath.Join(d, "model.onnx"), []byte("Tabular")) })
	write("unlisted", func(d string) { modeltest.WriteFile(t, filepath.Join(d, "x"), nil) })
	write("generator", func(d string) {
		p := tabular(t)
		p.Manifest.Kind = 3
		p.Write(t, d)
	})
	write("link", func(d string) { check(t, os.Rename(d, d+"0"), os.Symlink("20", d)) })
	check(t, os.Symlink("hash", e.staged("linked")))
	write("modellink", nil)
	check(t, os.Symlink("there", e.model("modellink")))
	modeltest.WriteFile(t, e.staged("nodir", "2"), nil)
	long := strings.Repeat("1", 300)
	for _, c := range []struct {
		id, version string
		reason      fault.Reason
		message     string
	}{
		{"there", "2", fault.VersionExists, `model "there" has version 2 already`},
		{"file", "2", fault.VersionExists, `model "file" has version 2 already`},
		{"size", "2", fault.ModelFailed, `model "size" version 2 failed to load: size of model.onnx is not the manifest's`},
		{"hash", "2", fault.ModelFailed, `model "hash" version 2 failed to load: sha256 of model.onnx is not the manifest's`},
		{"unlisted", "2", fault.ModelFailed, `model "unlisted" version 2 failed to load: x is not listed in manifest.json`},
		{"generator", "2", fault.ModelFailed, `model "generator" version 2 failed to load: files: genai_config.json is not listed`},
		{"link", "2", fault.ModelFailed, `model "link" version 2 failed to load: its directory is a link`},
		{"linked", "2", fault.ModelFailed, `model "linked" version 2 failed to load: its directory is a link`},
		{"modellink", "3", fault.VersionNotFound, `model "modellink" has no version 3 in the staging directory`},
		{"nodir", "2", fault.VersionNotFound, `model "nodir" has no version 2 in the staging directory`},
		{"nodir", long, fault.VersionNotFound, `model "nodir" has no version ` + long[:64] + `... in the staging directory`},
		{"nobody", "1", fault.VersionNotFound, `model "nobody" has no version 1 in the staging directory`},
	} {
		wantFault(t, e.Load(ctx, c.id, c.version), c.reason, c.message)
	}
	if got := names(t, e.Models); got != "file modellink there" {
		t.Errorf("the repository has %q", got)
	}
	tabular(t).Write(t, e.staged("modellink", "5"))
	wantFault(t, e.Load(ctx, "modellink", "5"), fault.ModelFailed, `model "modellink" version 5 failed to load: its directory is a link`)
	if got := names(t, e.model("there")); got != "2" {
		t.Errorf("behind the link: %q", got)
	}
	e.RequireManifest = true
	modeltest.WriteFile(t, e.staged("bare", "1", "model.onnx"), []byte("tabular"))
	wantFault(t, e.Load(ctx, "bare", "1"), fault.ModelFailed, `model "bare" version 1 failed to load: manifest.json is missing, and this server requires it`)
	e.Staging = ""
	wantFault(t, e.Load(ctx, "size", "2"), fault.StagingUnset, "the server has no staging directory")
}

// TestLoadModelGoesBack lets the place be taken, or the call end, after the package has left staging.
func TestLoadModelGoesBack(t *testing.T) {
	for _, copies := range []bool{false, true} {
		e := edit(t)
		take := true
		e.rename = func(from *os.File, name string, to *os.File, as string) error {
			if take {
				check(t, os.Mkdir(e.model("m", "1"), 0o755))
			}
			if copies {
				return unix.EXDEV
			}
			return renameTo(from, name, to, as)
		}
		tabular(t).Write(t, e.staged("m", "1"))
		wantFault(t, e.Load(context.Background(), "m", "1"), fault.VersionExists, `model "m" has version 1 already`)
		if got := names(t, e.model("m")) + "/" + names(t, e.model("m", "1")) + "/" + names(t, e.staged("m", "1")); got != ".lock 1//golden.binpb manifest.json model.onnx" {
			t.Errorf("got %q", got)
		}
		take = false
		check(t, os.Remove(e.model("m", "1")))
		directory, err := os.Open(e.model("m"))
		check(t, err)
		unlock, err := lock(context.Background(), directory)
		check(t, err)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		wantFault(t, e.Load(ctx, "m", "1"), fault.DeadlineExceeded, "the deadline passed")
		cancel()
		if got := names(t, e.model("m")) + "/" + names(t, e.staged("m", "1")); got != ".lock/golden.binpb manifest.json model.onnx" {
			t.Errorf("got %q", got)
		}
		unlock()
		check(t, directory.Close(), e.Load(context.Background(), "m", "1"))
	}
}

func TestUnloadModel(t *testing.T) {
	e := edit(t)
	ctx := context.Background()
	tabular(t).Write(t, e.model("m", "1"))
	tabular(t).Write(t, e.model("m", "2"))
	check(t, os.Symlink("2", e.model("m", "3")), os.Symlink("m", e.model("link")))
	modeltest.WriteFile(t, e.model("m", "4"), nil)
	check(t, e.Unload(ctx, "m", "1"), e.Unload(ctx, "m", "3"))
	if got := names(t, e.model("m")) + "/" + names(t, e.model("m", "2")); got != ".lock 2 4/golden.binpb manifest.json model.onnx" {
		t.Errorf("got %q", got)
	}
	wantFault(t, e.Unload(ctx, "m", "1"), fault.VersionNotFound, `model "m" has no version 1`)
	wantFault(t, e.Unload(ctx, "m", "4"), fault.VersionNotFound, `model "m" has no version 4`)
	wantFault(t, e.Unload(ctx, "m", strings.Repeat("1", 300)), fault.VersionNotFound, `model "m" has no version `+strings.Repeat("1", 64)+"...")
	wantFault(t, e.Unload(ctx, "link", "2"), fault.ModelNotFound, `model "link" not found`)
	wantFault(t, e.Unload(ctx, "nobody", "1"), fault.ModelNotFound, `model "nobody" not found`)
	if got := strings.Count(e.log.String(), `"msg":"model unloaded","model_id":"m"`); got != 2 {
		t.Errorf("log: %s", e.log)
	}
}

func TestSetLabel(t *testing.T) {
	e := edit(t)
	ctx := context.Background()
	tabular(t).Write(t, e.model("m", "1"))
	tabular(t).Write(t, e.model("m", "2"))
	check(t, os.Symlink("m", e.model("link")))
	set := func(label, version, want string) {
		t.Helper()
		labels, err := e.SetLabel(ctx, "m", label, version)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(labels); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	file := e.model("m", "labels.json")
	set("gone", "", "map[]")
	set("stable", "1", "map[stable:1]")
	set("canary", "2", "map[canary:2 stable:1]")
	if got, _ := os.ReadFile(file); string(got) != "{\n  \"canary\": \"2\",\n  \"stable\": \"1\"\n}\n" {
		t.Errorf("got %s", got)
	}
	set("stable", "2", "map[canary:2 stable:2]")
	set("canary", "", "map[stable:2]")
	if got := names(t, e.model("m")); got != ".lock 1 2 labels.json" {
		t.Errorf("got %q", got)
	}
	// What a person wrote stays.
	check(t, os.WriteFile(file, []byte(`{"Odd": {"a": [1, 2]}, "<b>": 1e0, "old": 1}`), 0o644))
	set("stable", "1", "map[old:1 stable:1]")
	want := "{\n  \"\\u003cb\\u003e\": 1e0,\n  \"Odd\": {\"a\": [1, 2]},\n  \"old\": 1,\n  \"stable\": \"1\"\n}\n"
	if got, _ := os.ReadFile(file); string(got) != want {
		t.Errorf("got %s", got)
	}
	_, err := e.SetLabel(ctx, "m", "stable", "7")
	wantFault(t, err, fault.VersionNotFound, `model "m" has no version 7`)
	_, err = e.SetLabel(ctx, "nobody", "stable", "")
	wantFault(t, err, fault.ModelNotFound, `model "nobody" not found`)
	_, err = e.SetLabel(ctx, "link", "stable", "1")
	wantFault(t, err, fault.ModelNotFound, `model "link" not found`)
	for _, broken := range []string{"{", "", "[]", "null"} {
		check(t, os.WriteFile(file, []byte(broken), 0o644))
		_, err := e.SetLabel(ctx, "m", "stable", "1")
		wantFault(t, err, fault.ModelFailed, `model "m": labels.json: expected a JSON object from label to version`)
		if got, _ := os.ReadFile(file); string(got) != broken {
			t.Errorf("%q became %q", broken, got)
		}
	}
	check(t, os.Remove(file), os.Symlink("elsewhere", file))
	_, err = e.SetLabel(ctx, "m", "stable", "1")
	wantFault(t, err, fault.ModelFailed, `model "m": labels.json is a link`)
	for _, line := range []string{`"msg":"label set","model_id":"m","model_version":"2","label":"canary"`, `"msg":"label removed","model_id":"m","model_version":"","label":"canary"`} {
		if !strings.Contains(e.log.String(), line) {
			t.Errorf("%s is not in the log: %s", line, e.log)
		}
	}
}

// TestSetLabelsAtOnce has several editors, as several processes are, set labels of one model: none is lost.
func TestSetLabelsAtOnce(t *testing.T) {
	e := edit(t)
	tabular(t).Write(t, e.model("m", "1"))
	var group sync.WaitGroup
	const editors, labels = 4, 10
	for i := range editors {
		group.Go(func() {
			own := &Editor{Models: e.Models, Log: slog.New(slog.DiscardHandler)}
			for j := range labels {
				if _, err := own.SetLabel(context.Background(), "m", fmt.Sprintf("l%d-%d", i, j), "1"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	data, err := os.ReadFile(e.model("m", "labels.json"))
	check(t, err)
	if got, bad, err := parseLabels(data); len(got) != editors*labels || len(bad) > 0 || err != nil {
		t.Errorf("%d labels, %v, %v", len(got), bad, err)
	}
}

func TestLock(t *testing.T) {
	directory, err := os.Open(t.TempDir())
	check(t, err)
	defer directory.Close()
	unlock, err := lock(context.Background(), directory)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = lock(ctx, directory)
	wantFault(t, err, fault.Cancelled, "the caller cancelled")
	unlock()
	again, err := lock(context.Background(), directory)
	check(t, err)
	again()
	check(t, os.Remove(filepath.Join(directory.Name(), ".lock")), os.Symlink("elsewhere", filepath.Join(directory.Name(), ".lock")))
	if _, err := lock(context.Background(), directory); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link: %v", err)
	}
}

// FuzzDocument writes what it reads: members that are kept as they are.
func FuzzDocument(f *testing.F) {
	for _, seed := range []string{`{"stable": "1", "canary": 2}`, `{}`, `{"a": {"b": [1, null]}, "\u00e9\n": "x"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		labels, bad, err := parseLabels(data)
		if err != nil {
			return
		}
		directory, err := os.MkdirTemp(t.TempDir(), "")
		check(t, err)
		check(t, os.Mkdir(filepath.Join(directory, "m"), 0o755), os.WriteFile(filepath.Join(directory, "m", labelsName), data, 0o644))
		members, err := (&Editor{Models: directory}).members("m")
		check(t, err)
		labels2, bad2, err := parseLabels(document(members))
		if err != nil || fmt.Sprint(labels) != fmt.Sprint(labels2) || !slices.Equal(bad, bad2) {
			t.Errorf("%q became %q (%v)", data, document(members), err)
		}
	})
}

// TestSweep removes what a crash in the middle of an unload has left, once nobody can be at it any more.
func TestSweep(t *testing.T) {
	e := edit(t)
	modeltest.WriteFile(t, e.model("m", ".unload-1-AAAA", "model.onnx"), []byte("old"))
	modeltest.WriteFile(t, e.model("m", ".load-2-AAAA", "model.onnx"), []byte("the only copy"))
	modeltest.WriteFile(t, e.model("m", "3", "model.onnx"), []byte("served"))
	modeltest.WriteFile(t, e.model(".hidden", ".unload-1-AAAA", "model.onnx"), []byte("not ours"))
	check(t, os.Symlink(e.staged(), e.model("m", ".unload-link")))
	e.Sweep()
	if got := names(t, e.model("m")); got != ".load-2-AAAA .unload-1-AAAA .unload-link 3" {
		t.Errorf("what is young: %s", got)
	}
	e.sweep(time.Now().Add(time.Minute))
	if got := names(t, e.model("m")); got != ".load-2-AAAA 3" || names(t, e.model(".hidden")) != ".unload-1-AAAA" || names(t, e.staged()) != "" {
		t.Errorf("what is old: %s", got)
	}
}
