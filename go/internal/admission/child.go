// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/generate"
	"golang.org/x/sys/unix"
)

// maxOutputBytes bounds what the child may write to any file.
const maxOutputBytes = 1 << 20

// Libraries are what a trial loads before it looks at the model.
type Libraries struct {
	Runtime string // ONNX Runtime's
	Threads int    // within an operator
	GenAI   string // onnxruntime-genai's, for a text generator alone; else empty
}

// Opener opens the libraries of a trial.
type Opener func(Libraries) (Maker, error)

// Maker makes of a model what the server makes of it. A trial may leave it open.
type Maker interface {
	Session(graph []byte, files map[string][]byte) error
	// Tokenizer reads what generate.WriteTokenizer wrote.
	Tokenizer(directory string) (generate.Tokenizer, error)
	Decoder(graph []byte, files map[string][]byte, settings *generate.Settings, sizes generate.Sizes) (generate.Decoder, error)
}

// Child is the child process of a trial: it does what it is told on stdin, says one line of JSON on stdout, and gives its exit code.
func Child(open Opener) int {
	c, err := confine()
	if err == nil {
		err = c.try(open)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// child says one word, whoever is the first to say it.
type child struct {
	said *os.File
	mu   sync.Mutex
	err  error
	done bool
}

func (c *child) say(what word) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done {
		c.done = true
		c.err = json.NewEncoder(c.said).Encode(what)
	}
	return c.err
}

// confine takes away what a trial does not need. What is printed from then on is no word of ours.
func confine() (*child, error) {
	fd, err := unix.FcntlInt(os.Stdout.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Dup3(int(null.Fd()), int(os.Stdout.Fd()), 0); err != nil {
		return nil, err
	}
	for resource, most := range map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: maxOutputBytes} {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return nil, err
		}
	}
	// Where cores go to a program instead of a file, their size limit does not count.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, err
	}
	for _, signal := range []unix.Signal{unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGBUS, unix.SIGFPE, unix.SIGSEGV, unix.SIGSYS} {
		if err := byDefault(signal); err != nil {
			return nil, err
		}
	}
	return &child{said: os.NewFile(uintptr(fd), "word")}, nil
}

// byDefault lets a signal end the process, so that the parent sees which one it was. Go's runtime would print it and exit.
func byDefault(signal unix.Signal) error {
	var action [64]byte // a kernel's sigaction of zeros: the default handler, no flags, an empty mask
	const maskSize = 8
	if _, _, code := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(signal), uintptr(unsafe.Pointer(&action)), 0, maskSize, 0, 0); code != 0 {
		return code
	}
	return nil
}

func (c *child) try(open Opener) error {
	told, graph, files, err := take(os.Stdin)
	if err != nil {
		return err
	}
	maker, err := open(Libraries{Runtime: told.Library, Threads: told.Threads, GenAI: told.GenAI})
	if err != nil {
		return err
	}
	// From here on it is the model that takes memory.
	mapped, err := memory("VmSize")
	if err != nil {
		return err
	}
	most := mapped + told.MemoryBytes
	if most < mapped {
		most = math.MaxInt64
	}
	go c.watch(most)
	what, err := judge(told, graph, files, maker)
	if err != nil {
		return err
	}
	// What was taken and given back between two looks counts as well.
	if peak, err := memory("VmPeak"); err != nil {
		return err
	} else if peak > most {
		what = word{Memory: true}
	}
	return c.say(what)
}

func judge(told task, graph []byte, files map[string][]byte, maker Maker) (word, error) {
	names := make(map[string]bool, len(files))
	for name := range files {
		names[name] = true
	}
	options := Options{IntegerDivision: told.IntegerDivision, Generator: told.GenAI != "", ExternalFiles: names}
	if err := Check(graph, options); err != nil {
		return word{Refused: err.Error()}, nil
	}
	var err error
	if told.GenAI == "" {
		err = maker.Session(graph, files)
	} else {
		err = rehearse(told, graph, files, maker)
	}
	if err != nil {
		if outOfMemory.MatchString(err.Error()) {
			return word{Memory: true}, nil
		}
		return word{Refused: fault.Scrub(err.Error())}, nil
	}
	return word{Admitted: true}, nil
}

// take maps what the parent gave.
func take(given *os.File) (told task, graph []byte, files map[string][]byte, err error) {
	info, err := given.Stat()
	if err != nil {
		return told, nil, nil, err
	}
	all, err := unix.Mmap(int(given.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return told, nil, nil, err
	}
	line, rest, _ := bytes.Cut(all, []byte{'\n'})
	if err := json.Unmarshal(line, &told); err != nil {
		return told, nil, nil, err
	}
	next := func(size int) []byte {
		part := rest[:size:size]
		rest = rest[size:]
		return part
	}
	graph = next(told.Graph)
	files = make(map[string][]byte, len(told.Files))
	for _, f := range told.Files {
		files[f.Name] = next(f.Size)
	}
	return told, graph, files, nil
}

// watchEvery is the time between two looks at memory. What is mapped must be written before it costs anything, at some GB/s.
const watchEvery = time.Millisecond

// watch ends the process when it has mapped more than it may. A limit of the system would not do: allocations beyond it fail, ONNX Runtime does
// without what it wanted to compute in advance, and computes it later, where there is no limit.
func (c *child) watch(most int64) {
	for range time.Tick(watchEvery) {
		if mapped, err := memory("VmSize"); err != nil || mapped > most {
			_ = c.say(word{Memory: true}) // without it the exit code speaks
			os.Exit(0)
		}
	}
}

// memory is a number of bytes in /proc/self/status: what is mapped, or the most that ever was.
func memory(name string) (int64, error) {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+":")); ok {
			var kibibytes int64
			_, err := fmt.Sscan(string(rest), &kibibytes)
			return kibibytes << 10, err
		}
	}
	return 0, fmt.Errorf("the system does not tell %s", name)
}
