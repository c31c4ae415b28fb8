// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/concord-inference/concord/go/internal/generate"
	"golang.org/x/sys/unix"
)

// Mode is the first argument of a program that is to be the child of a trial: then it calls Child and nothing else.
const Mode = "trial-load"

const (
	maxWordBytes   = 4 << 10
	maxStderrBytes = 4 << 10
)

// outOfMemory is what failed allocations leave in messages: of ONNX Runtime, of C++ and of Go's runtime.
var outOfMemory = regexp.MustCompile(`bad_alloc|Failed to allocate memory|out of memory|annot allocate memory|pthread_create failed`)

// Trials runs trials: each loads a model in a child process, so that whatever the model does there, this process goes on.
type Trials struct {
	// Library is the ONNX Runtime, Threads the number of threads within an operator, IntegerDivision the rules' option.
	Library         string
	Threads         int
	IntegerDivision bool
	// GenAI is onnxruntime-genai, which text generators need; empty where there is none.
	GenAI string
	// Timeout is the longest a trial may take.
	Timeout time.Duration
	// MemoryBytes is how much address space it may take, beyond what the child has mapped before it looks at the model.
	MemoryBytes int64
	Log         *slog.Logger
}

// task is what the child is told: a line of JSON, then the bytes of the graph and of the files, one after the other.
type task struct {
	Library         string `json:"library"`
	Threads         int    `json:"threads"`
	IntegerDivision bool   `json:"integer_division"`
	MemoryBytes     int64  `json:"memory_bytes"`
	GenAI           string `json:"genai,omitempty"`     // for a text generator
	Tokenizer       string `json:"tokenizer,omitempty"` // the directory of its tokenizer's files
	Settings        []byte `json:"settings,omitempty"`  // its genai_config.json
	Graph           int    `json:"graph"`
	Files           []file `json:"files"`
}

type file struct {
	Name string `json:"name"`
	Size int    `json:"size"`
}

// word is what the child says: one of the three.
type word struct {
	Admitted bool   `json:"admitted,omitempty"`
	Refused  string `json:"refused,omitempty"`
	Memory   bool   `json:"memory,omitempty"`
}

// outcome is what came of a trial.
type outcome struct {
	refused string // why; empty where the model is admitted
	said    bool   // by the child itself, by the rules or in ONNX Runtime's words; else it is what became of the child
}

// run has a child judge a model and load it once. The error is ctx's.
func (t *Trials) run(ctx context.Context, m Model) (outcome, error) {
	tokenizer := ""
	if m.Generator != nil {
		// Not the child, which may end at any time and leave them, nor write as much.
		directory, err := generate.WriteTokenizer(m.Generator.Files)
		switch {
		case errors.Is(err, generate.ErrUnwritten):
			return t.failed(err, ""), nil
		case err != nil:
			return outcome{refused: err.Error(), said: true}, nil
		}
		defer os.RemoveAll(directory)
		tokenizer = directory
	}
	given, err := t.give(m, tokenizer)
	if err != nil {
		return t.failed(errors.New("the process could not be started"), err.Error()), nil
	}
	defer given.Close()
	limited, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	said, stderr := head{most: maxWordBytes + 1}, head{most: maxStderrBytes}
	child := exec.CommandContext(limited, "/proc/self/exe", Mode)
	child.Stdin, child.Stdout, child.Stderr = given, &said, &stderr
	// One arena, so that each of the child's threads does not reserve address space of its own. Nothing else of our environment is its concern.
	child.Env = []string{"ORT_DISABLE_TELEMETRY=1", "MALLOC_ARENA_MAX=1", "GOTRACEBACK=none", "LD_LIBRARY_PATH=" + os.Getenv("LD_LIBRARY_PATH")}
	// A group of its own: a Ctrl-C at the terminal is ours to handle.
	child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// The child dies with the thread that started it, which must not end earlier than the trial.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := child.Start(); err != nil {
		if ctx.Err() != nil {
			return outcome{}, ctx.Err()
		}
		return t.failed(errors.New("the process could not be started"), err.Error()), nil
	}
	_ = child.Wait() // its state says all
	switch {
	case ctx.Err() != nil:
		return outcome{}, ctx.Err()
	case limited.Err() != nil:
		return t.failed(fmt.Errorf("did not finish in %.6g s", t.Timeout.Seconds()), stderr.String()), nil
	}
	return t.hear(said.Bytes(), child.ProcessState.Sys().(syscall.WaitStatus), stderr.String()), nil
}

// threads is how many a model has within an operator.
func (t *Trials) threads(m Model) int {
	switch {
	case m.Generator == nil:
		return t.Threads
	case m.Generator.Threads == 0:
		return runtime.GOMAXPROCS(0)
	default:
		return m.Generator.Threads
	}
}

// give writes what the child is told into memory that it can map.
func (t *Trials) give(m Model, tokenizer string) (*os.File, error) {
	told := task{Library: t.Library, Threads: t.threads(m), IntegerDivision: t.IntegerDivision, MemoryBytes: t.MemoryBytes, Graph: len(m.Graph)}
	if m.Generator != nil {
		told.GenAI, told.Tokenizer, told.Settings = t.GenAI, tokenizer, m.Generator.Files[generate.SettingsName]
	}
	parts := [][]byte{nil, m.Graph}
	for name, data := range m.Files {
		told.Files = append(told.Files, file{name, len(data)})
		parts = append(parts, data)
	}
	line, err := json.Marshal(told)
	if err != nil {
		return nil, err
	}
	parts[0] = append(line, '\n')
	fd, err := unix.MemfdCreate("trial", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	given := os.NewFile(uintptr(fd), "trial")
	for _, part := range parts {
		if _, err := given.Write(part); err != nil {
			given.Close()
			return nil, err
		}
	}
	return given, nil
}

// hear takes the child's word, or else what became of it. A child that a model has taken over may say anything.
func (t *Trials) hear(said []byte, state syscall.WaitStatus, stderr string) outcome {
	died := state.Signaled()
	if (died && state.Signal() == syscall.SIGABRT || state.ExitStatus() == goFatal) && outOfMemory.MatchString(stderr) {
		return t.memory(stderr)
	}
	if died {
		name := unix.SignalName(state.Signal())
		if name == "" {
			name = fmt.Sprintf("signal %d", int(state.Signal()))
		}
		return t.failed(fmt.Errorf("the process died (%s)", name), stderr)
	}
	heard := word{}
	decoder := json.NewDecoder(bytes.NewReader(said))
	decoder.DisallowUnknownFields()
	if len(said) > maxWordBytes || decoder.Decode(&heard) != nil {
		heard = word{}
	}
	switch {
	case heard.Memory:
		return t.memory(stderr)
	case heard.Refused != "":
		return outcome{refused: strings.ToValidUTF8(heard.Refused, "?"), said: true}
	case heard.Admitted:
		return outcome{said: true}
	default:
		return t.failed(fmt.Errorf("the process ended with exit code %d", state.ExitStatus()), stderr)
	}
}

// goFatal is the exit code with which Go's runtime gives up.
const goFatal = 2

func (t *Trials) memory(stderr string) outcome {
	return t.failed(fmt.Errorf("needs more than %d bytes of memory", t.MemoryBytes), stderr)
}

func (t *Trials) failed(why error, stderr string) outcome {
	o := outcome{refused: "trial load: " + why.Error()}
	t.Log.Warn("trial load failed", "reason", o.refused, "stderr", strings.ToValidUTF8(stderr, "?"))
	return o
}

// head keeps the first bytes that are written to it.
type head struct {
	bytes.Buffer
	most int
}

func (h *head) Write(p []byte) (int, error) {
	h.Buffer.Write(p[:min(len(p), h.most-h.Len())])
	return len(p), nil
}
