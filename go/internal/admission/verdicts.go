// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	maxVerdictBytes   = 4 << 10
	writableForOthers = 0o022
)

// Admission judges models: by a verdict that is kept, else by a trial. It may be asked from several goroutines.
type Admission struct {
	trials    *Trials
	runtime   string
	machine   string
	directory string // of the verdicts; empty: none are kept
	log       *slog.Logger
	genai     func() (string, error) // sha256 of the library, read once
}

// verdict is one that is kept.
type verdict struct {
	Key      string `json:"key"`
	Admitted bool   `json:"admitted,omitempty"`
	Refused  string `json:"refused,omitempty"`
}

// New makes an admission that keeps its verdicts in a directory, which is made where it is missing; an empty name keeps none. The runtime is
// the release of ONNX Runtime.
func New(trials *Trials, runtime, directory string) *Admission {
	a := &Admission{trials: trials, runtime: runtime, machine: machine(), directory: directory, log: trials.Log}
	a.genai = sync.OnceValues(func() (string, error) { return digest(trials.GenAI) })
	if directory == "" {
		return a
	}
	if err := claim(directory); err != nil {
		a.log.Warn("verdicts of admission are not kept", "cause", err.Error())
		a.directory = ""
	}
	return a
}

// Admit says why a model must not be loaded here, or nil. Where ctx ends, the error is ctx's.
func (a *Admission) Admit(ctx context.Context, m Model) error {
	key, err := a.key(m)
	if err != nil {
		return err
	}
	if known := a.find(key); known != nil {
		return known.err()
	}
	o, err := a.trials.run(ctx, m)
	if err != nil {
		return err
	}
	v := &verdict{Key: key, Admitted: o.refused == "", Refused: o.refused}
	if o.said {
		a.keep(v)
	}
	return v.err()
}

func (v *verdict) err() error {
	if v.Admitted {
		return nil
	}
	return errors.New(v.Refused)
}

// errNoGenAI is the refusal of text generators where there is no library for them.
var errNoGenAI = errors.New("kind generator: this server has no onnxruntime-genai")

// key is what a verdict depends on, hashed; docs/admission.md shows the lines.
func (a *Admission) key(m Model) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "concord-admission %d\nonnxruntime %s\nmachine %s\nintra_op_threads %d\nallow_integer_division %t\n",
		rules, a.runtime, a.machine, a.trials.threads(m), a.trials.IntegerDivision)
	names := slices.Collect(maps.Keys(m.Files))
	if m.Generator != nil {
		genai, err := a.genai()
		if err != nil {
			return "", errNoGenAI
		}
		fmt.Fprintf(h, "onnxruntime-genai %s\n", genai)
		names = slices.AppendSeq(names, maps.Keys(m.Generator.Files))
	}
	fmt.Fprintf(h, "model.onnx %s\n", m.Sums["model.onnx"])
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(h, "%s %s\n", name, m.Sums[name])
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// digest is the sha256 of a file, in lower-case hexadecimal.
func digest(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	h := sha256.New()
	_, err = io.Copy(h, file)
	return hex.EncodeToString(h.Sum(nil)), err
}

// find is the verdict that is kept under a key, or nil. What is damaged or could be somebody else's is as good as none.
func (a *Admission) find(key string) *verdict {
	if a.directory == "" {
		return nil
	}
	data, err := readOwn(filepath.Join(a.directory, key))
	if err != nil {
		return nil
	}
	v := &verdict{}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if decoder.Decode(v) != nil || decoder.More() || v.Key != key || v.Admitted == (v.Refused != "") {
		return nil
	}
	return v
}

// keep writes a verdict for the next start. Trouble with it costs a trial, never a model.
func (a *Admission) keep(v *verdict) {
	if a.directory == "" {
		return
	}
	var data bytes.Buffer
	encoder := json.NewEncoder(&data)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(v) != nil || data.Len() > maxVerdictBytes {
		return
	}
	beside := filepath.Join(a.directory, "."+v.Key+"."+rand.Text())
	err := write(beside, data.Bytes())
	if err == nil {
		err = os.Rename(beside, filepath.Join(a.directory, v.Key))
	}
	if err != nil {
		os.Remove(beside)
		a.log.Warn("a verdict of admission cannot be kept", "cause", err.Error())
	}
}

func write(name string, data []byte) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}

// claim makes the directory of the verdicts, and refuses one in which others could write.
func claim(directory string) error {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(directory)
	switch {
	case err != nil:
		return err
	case !own(info):
		return errors.New("their directory belongs to somebody else")
	case info.Mode()&writableForOthers != 0:
		return errors.New("their directory is writable for others")
	}
	return nil
}

// readOwn reads a small regular file that is ours and that nobody else can write.
func readOwn(name string) ([]byte, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || !own(info) || info.Mode()&writableForOthers != 0 || info.Size() > maxVerdictBytes {
		return nil, fs.ErrPermission
	}
	return io.ReadAll(io.LimitReader(file, maxVerdictBytes))
}

func own(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

// machine is what uname calls this kind of machine.
func machine() string {
	name := unix.Utsname{}
	if unix.Uname(&name) != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Machine[:])
}
