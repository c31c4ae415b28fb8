// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/concord-inference/concord/go/internal/generate"
	"golang.org/x/sys/unix"
)

// TestMain lets the test binary be the child of a trial too. What its fake ONNX Runtime does, a file of the model says.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Mode {
		os.Exit(Child(act))
	}
	os.Exit(m.Run())
}

// maker is the fake.
type maker struct{ Libraries }

func act(l Libraries) (Maker, error) {
	if l.Runtime != "library" {
		return nil, errors.New("there is no such library")
	}
	return maker{l}, nil
}

func (maker) Tokenizer(string) (generate.Tokenizer, error) { return nil, errors.New("no tokenizer") }

func (maker) Decoder([]byte, map[string][]byte, *generate.Settings, generate.Sizes) (generate.Decoder, error) {
	return nil, errors.New("no decoder")
}

func (m maker) Session(graph []byte, files map[string][]byte) error {
	fmt.Println("{\"admitted\":true}") // not the child's word
	for name := range files {
		what, argument, _ := strings.Cut(name, " ")
		switch what {
		case "die":
			number := syscall.Signal(0)
			fmt.Sscan(argument, &number)
			if err := syscall.Kill(os.Getpid(), number); err != nil {
				return err
			}
			return unix.Pause()
		case "exit":
			os.Exit(3)
		case "hang":
			return unix.Pause()
		case "say":
			return errors.New(argument)
		case "threads":
			return fmt.Errorf("%d threads", m.Threads)
		case "allocate":
			much, err := unix.Mmap(-1, 0, 2<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			if err != nil || argument == "and hold" {
				return errors.Join(err, unix.Pause())
			}
			return unix.Munmap(much)
		case "allocate-less":
			much, err := unix.Mmap(-1, 0, 800<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
			return errors.Join(err, unix.Munmap(much))
		case "echo":
			return fmt.Errorf("%d bytes, %q", len(graph), files[name])
		case "core":
			limit := unix.Rlimit{}
			if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil || limit.Max != 0 {
				return fmt.Errorf("cores of %d bytes, %v", limit.Max, err)
			}
		case "environment":
			return fmt.Errorf("%d variables, secret %q", len(os.Environ()), os.Getenv("SECRET"))
		}
	}
	return nil
}

func graph(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folder, name+".onnx"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// model is a good graph with a file that says what the fake does.
func subject(t testing.TB, what string) Model {
	return Model{Graph: graph(t, "identity"), Files: map[string][]byte{what: []byte("data")}, Sums: map[string]string{"model.onnx": "1", what: "2"}}
}

func trials(log *bytes.Buffer) *Trials {
	return &Trials{
		Library: "library", Threads: 3, Timeout: time.Minute, MemoryBytes: 1 << 30, Log: slog.New(slog.NewJSONHandler(log, nil)),
	}
}

func TestTrials(t *testing.T) {
	t.Setenv("SECRET", "of the server")
	for _, c := range []struct {
		what, refused string
		said          bool
	}{
		{"nothing", "", true},
		{"core", "", true},
		{"threads", "3 threads", true},
		{"environment", `4 variables, secret ""`, true},
		{"echo", fmt.Sprintf(`%d bytes, "data"`, len(graph(t, "identity"))), true},
		{"say at /build/session.cc it is no good", "at <...> it is no good", true},
		{"say std::bad_alloc", "trial load: needs more than 1073741824 bytes of memory", false},
		{"allocate-less", "", true},
		{"allocate and hold", "trial load: needs more than 1073741824 bytes of memory", false},
		{"allocate", "trial load: needs more than 1073741824 bytes of memory", false},
		{"die 8", "trial load: the process died (SIGFPE)", false},
		{"die 9", "trial load: the process died (SIGKILL)", false},
		{"die 11", "trial load: the process died (SIGSEGV)", false},
		{"die 6", "trial load: the process died (SIGABRT)", false},
		{"exit", "trial load: the process ended with exit code 3", false},
	} {
		t.Run(c.what, func(t *testing.T) {
			log := &bytes.Buffer{}
			got, err := trials(log).run(context.Background(), subject(t, c.what))
			if err != nil || got.refused != c.refused || got.said != c.said {
				t.Errorf("got %+v, %v; log %s", got, err, log)
			}
			if said := strings.Contains(log.String(), "trial load failed"); said == c.said {
				t.Errorf("log: %s", log)
			}
		})
	}
}

func TestRulesComeFirst(t *testing.T) {
	for name, want := range map[string]string{
		"block-size-huge": "model.onnx: DepthToSpace: expected a blocksize from 1 to 65536, got 4294967296",
		"garbage":         "model.onnx: expected an ONNX model, got 22 bytes that are none",
		"empty":           "model.onnx: expected an ONNX model with a graph, got none",
	} {
		m := subject(t, "die 9")
		m.Graph = graph(t, name)
		if got, err := trials(&bytes.Buffer{}).run(context.Background(), m); err != nil || got.refused != want || !got.said {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
}

func TestTimeout(t *testing.T) {
	limited := trials(&bytes.Buffer{})
	limited.Timeout = 500 * time.Millisecond
	got, err := limited.run(context.Background(), subject(t, "hang"))
	if err != nil || got.refused != "trial load: did not finish in 0.5 s" || got.said {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestEndedTrial(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel) // before or after the child began: it ends either way
	if _, err := trials(&bytes.Buffer{}).run(ctx, subject(t, "hang")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestNoLibrary(t *testing.T) {
	without := trials(&bytes.Buffer{})
	without.Library = "none"
	got, err := without.run(context.Background(), subject(t, "nothing"))
	if err != nil || got.refused != "trial load: the process ended with exit code 1" || got.said {
		t.Errorf("got %+v, %v", got, err)
	}
}

// TestHear takes words that no honest child says, and rare deaths.
func TestHear(t *testing.T) {
	for stderr, want := range map[string]string{
		"":                  "trial load: the process died (SIGABRT)",
		"what(): bad_alloc": "trial load: needs more than 1073741824 bytes of memory",
	} {
		if got := trials(&bytes.Buffer{}).hear(nil, syscall.WaitStatus(syscall.SIGABRT), stderr); got.said || got.refused != want {
			t.Errorf("got %+v", got)
		}
	}
	if got := trials(&bytes.Buffer{}).hear(nil, goFatal<<8, "fatal error: runtime: out of memory"); got.said || !strings.Contains(got.refused, "needs more than") {
		t.Errorf("got %+v", got)
	}
	if got := trials(&bytes.Buffer{}).hear([]byte(`{"admitted":true}`), 42, ""); got.said || got.refused != "trial load: the process died (signal 42)" {
		t.Errorf("got %+v", got)
	}
	for _, said := range []string{
		"", "{", "null", "[]", `{"admitted":false}`, `{"refused":""}`, `{"admitted":true,"more":1}`, `{"refused":"` + strings.Repeat("x", maxWordBytes) + `"}`,
	} {
		if got := trials(&bytes.Buffer{}).hear([]byte(said), 0, ""); got.said || got.refused != "trial load: the process ended with exit code 0" {
			t.Errorf("%.40q: got %.80q", said, got.refused)
		}
	}
}

func TestVerdictsAreKept(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "a", "cache")
	log := &bytes.Buffer{}
	for round, want := range []bool{false, true} {
		for _, what := range []string{"nothing", "say no", "die 8"} {
			a := New(trials(log), "1.31.1", directory)
			m := subject(t, what)
			if kept := a.find(keyOf(t, a, m)) != nil; kept != (want && what != "die 8") {
				t.Errorf("round %d, %s: kept %v", round, what, kept)
			}
			if round == 1 && what != "die 8" {
				a.trials.Library = "none" // a child would say so
			}
			got := "admitted"
			if err := a.Admit(context.Background(), m); err != nil {
				got = err.Error()
			}
			if want := map[string]string{"nothing": "admitted", "say no": "no", "die 8": "trial load: the process died (SIGFPE)"}[what]; got != want {
				t.Errorf("round %d, %s: got %q", round, what, got)
			}
		}
	}
	info, err := os.Stat(directory)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	items, err := os.ReadDir(directory)
	if err != nil || len(items) != 2 {
		t.Errorf("%v, %v", items, err)
	}
	for _, item := range items {
		if info, err := item.Info(); err != nil || info.Mode().Perm() != 0o600 || len(item.Name()) != 64 {
			t.Errorf("%s: %v, %v", item.Name(), info.Mode(), err)
		}
	}
}

func keyOf(t testing.TB, a *Admission, m Model) string {
	t.Helper()
	key, err := a.key(m)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestKey has each thing that a verdict depends on change the key; the first key is the one that docs/admission.md makes.
func TestKey(t *testing.T) {
	keys := map[string]string{}
	add := func(name string, change func(*Admission, *Model)) {
		a := New(trials(&bytes.Buffer{}), "1.31.1", "")
		a.machine = "x86_64"
		m := Model{Files: map[string][]byte{"b": nil, "a": nil}, Sums: map[string]string{"model.onnx": "0", "a": "1", "b": "2"}}
		change(a, &m)
		key := keyOf(t, a, m)
		if other, ok := keys[key]; ok {
			t.Errorf("%s has the key of %s", name, other)
		}
		keys[key] = name
	}
	add("plain", func(*Admission, *Model) {})
	add("threads", func(a *Admission, _ *Model) { a.trials.Threads = 1 })
	add("division", func(a *Admission, _ *Model) { a.trials.IntegerDivision = true })
	add("runtime", func(a *Admission, _ *Model) { a.runtime = "1.31.2" })
	add("machine", func(a *Admission, _ *Model) { a.machine = "aarch64" })
	add("graph", func(_ *Admission, m *Model) { m.Sums["model.onnx"] = "9" })
	add("data", func(_ *Admission, m *Model) { m.Sums["b"] = "9" })
	add("no data", func(_ *Admission, m *Model) { delete(m.Files, "b") })
	library := filepath.Join(t.TempDir(), "library")
	if err := os.WriteFile(library, []byte("genai"), 0o600); err != nil {
		t.Fatal(err)
	}
	generator := func(change func(*Admission, *Model)) func(*Admission, *Model) {
		return func(a *Admission, m *Model) {
			a.trials.GenAI = library
			m.Generator = &Generator{Files: map[string][]byte{"aa": nil}, Threads: 2}
			m.Sums["aa"] = "3"
			change(a, m)
		}
	}
	add("generator", generator(func(*Admission, *Model) {}))
	add("generator's threads", generator(func(_ *Admission, m *Model) { m.Generator.Threads = 4 }))
	add("generator's file", generator(func(_ *Admission, m *Model) { m.Sums["aa"] = "9" }))
	add("another genai", generator(func(a *Admission, _ *Model) { a.genai = func() (string, error) { return "0", nil } }))
	// printf 'concord-admission 2\nonnxruntime 1.31.1\nmachine x86_64\nintra_op_threads 3\nallow_integer_division false\nmodel.onnx 0\na 1\nb 2\n' | sha256sum
	if keys["6c5d1e78d8ba1a1f9d6c2e1bd8b2f61b7363f085a56f145d6e7160ff7155138d"] != "plain" {
		t.Errorf("keys: %v", keys)
	}
	// printf 'concord-admission 2\nonnxruntime 1.31.1\nmachine x86_64\nintra_op_threads 2\nallow_integer_division false\nonnxruntime-genai %s\nmodel.onnx 0\na 1\naa 3\nb 2\n' "$(printf genai | sha256sum | cut -c1-64)" | sha256sum
	if keys["1a318ffb9149bd647e6ec79155c6245444405e3c87498985a8c665befd906723"] != "generator" {
		t.Errorf("keys: %v", keys)
	}
	a := New(trials(&bytes.Buffer{}), "1.31.1", "")
	if err := a.Admit(context.Background(), Model{Generator: &Generator{}}); err == nil || err.Error() != "kind generator: this server has no onnxruntime-genai" {
		t.Errorf("without a library: %v", err)
	}
}

func TestVerdictsThatDoNotCount(t *testing.T) {
	log := &bytes.Buffer{}
	directory := t.TempDir()
	if err := os.Chmod(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	a := New(trials(log), "1.31.1", directory)
	key := keyOf(t, a, subject(t, "nothing"))
	name := filepath.Join(directory, key)
	good := `{"key":"` + key + `","refused":"no"}` + "\n"
	put := func(data string, mode os.FileMode) {
		t.Helper()
		os.RemoveAll(name)
		if err := errors.Join(os.WriteFile(name, []byte(data), mode), os.Chmod(name, mode)); err != nil {
			t.Fatal(err)
		}
	}
	put(good, 0o600)
	if v := a.find(key); v == nil || v.Refused != "no" {
		t.Fatalf("got %+v", v)
	}
	for _, bad := range []string{
		"", "{", "null", `{"key":"` + key + `"}`, `{"key":"x","admitted":true}`, `{"admitted":true}`, `{"key":"` + key + `","admitted":true,"refused":"no"}`,
		`{"key":"` + key + `","admitted":false}`, `{"key":"` + key + `","admitted":true,"more":1}`, good + good, strings.Repeat(" ", maxVerdictBytes) + good,
	} {
		put(bad, 0o600)
		if v := a.find(key); v != nil {
			t.Errorf("%.80q: got %+v", bad, v)
		}
	}
	put(good, 0o620)
	if v := a.find(key); v != nil {
		t.Errorf("writable for others: got %+v", v)
	}
	os.RemoveAll(name)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := errors.Join(os.WriteFile(elsewhere, []byte(good), 0o600), os.Symlink(elsewhere, name)); err != nil {
		t.Fatal(err)
	}
	if v := a.find(key); v != nil {
		t.Errorf("a link: got %+v", v)
	}
	os.RemoveAll(name)
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	if v := a.find(key); v != nil {
		t.Errorf("a pipe: got %+v", v)
	}
	os.RemoveAll(name)
	// What does not count is written anew.
	put("damaged", 0o600)
	if err := a.Admit(context.Background(), subject(t, "nothing")); err != nil {
		t.Fatal(err)
	}
	if v := a.find(key); v == nil || !v.Admitted {
		t.Errorf("got %+v; log %s", v, log)
	}
}

func TestNoCache(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o777)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, directory := range []string{"", open, file} {
		log := &bytes.Buffer{}
		a := New(trials(log), "1.31.1", directory)
		if err := a.Admit(context.Background(), subject(t, "nothing")); err != nil || a.directory != "" {
			t.Errorf("%q: %v", directory, err)
		}
		if logged := strings.Contains(log.String(), "verdicts of admission are not kept"); logged != (directory != "") {
			t.Errorf("%q: log %s", directory, log)
		}
	}
	if items, err := os.ReadDir(open); err != nil || len(items) > 0 {
		t.Errorf("%v, %v", items, err)
	}
}

// TestSideBySide has many trials at once write the same verdicts.
func TestSideBySide(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "cache")
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			a := New(trials(&bytes.Buffer{}), "1.31.1", directory)
			if err := a.Admit(context.Background(), subject(t, fmt.Sprint("nothing ", i%2))); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if items, err := os.ReadDir(directory); err != nil || len(items) != 2 {
		t.Errorf("%v, %v", items, err)
	}
}
