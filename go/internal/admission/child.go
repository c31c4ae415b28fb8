// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"unsafe"

	"github.com/concord-inference/concord/go/internal/fault"
	"golang.org/x/sys/unix"
)

// maxOutputBytes bounds what the child may write to any file.
const maxOutputBytes = 1 << 20

// Opener opens an ONNX Runtime. What it gives makes a session as the server does, and may leave it open.
type Opener func(library string, threads int) (load func(graph []byte, files map[string][]byte) error, err error)

// Child is the child process of a trial: it does what it is told on stdin, says one line of JSON on stdout, and gives its exit code.
func Child(open Opener) int {
	said, err := confine()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	heard, err := try(open)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(said).Encode(heard); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// confine takes away what a trial does not need. What is printed from then on is no word of ours.
func confine() (said *os.File, err error) {
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
	return os.NewFile(uintptr(fd), "word"), nil
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

func try(open Opener) (word, error) {
	told, graph, files, err := take(os.Stdin)
	if err != nil {
		return word{}, err
	}
	load, err := open(told.Library, told.Threads)
	if err != nil {
		return word{}, err
	}
	// From here on it is the model that takes memory.
	if err := limitMemory(told.MemoryBytes); err != nil {
		return word{}, err
	}
	names := make(map[string]bool, len(files))
	for name := range files {
		names[name] = true
	}
	if err := Check(graph, Options{IntegerDivision: told.IntegerDivision, ExternalFiles: names}); err != nil {
		return word{Refused: err.Error()}, nil
	}
	if err := load(graph, files); err != nil {
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

// limitMemory lets the process map so much more than it has.
func limitMemory(more int64) error {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return err
	}
	var pages uint64
	if _, err := fmt.Sscan(string(data), &pages); err != nil {
		return err
	}
	limit := unix.Rlimit{}
	if err := unix.Getrlimit(unix.RLIMIT_AS, &limit); err != nil {
		return err
	}
	limit.Cur = min(pages*uint64(os.Getpagesize())+uint64(more), limit.Max)
	limit.Max = limit.Cur
	return unix.Setrlimit(unix.RLIMIT_AS, &limit)
}
