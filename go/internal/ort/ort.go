// SPDX-License-Identifier: Apache-2.0

// Package ort runs ONNX graphs with ONNX Runtime. It binds the C API itself: the session is made from bytes that are already verified, with
// its external data from memory too; tensors may have any served type, rank 0 or no elements; strings may hold NUL; a run ends with its
// context.
package ort

/*
#cgo CFLAGS: -O2 -Wall
#cgo LDFLAGS: -ldl
#include <stdlib.h>
#include "api.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
	"unsafe"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// Version is the release of ONNX Runtime that this server runs: both servers run the very same one, so that their answers are equal.
const Version = "1.31.1"

// LibraryName is the file of that release.
const LibraryName = "libonnxruntime.so." + Version

// Runtime is ONNX Runtime, loaded. A process loads it once.
type Runtime struct {
	threads int
	device  int // the GPU's number, or cpu
}

var opened struct {
	sync.Mutex
	path string
}

// Open loads the library, for sessions with that many threads within an operator. It sends no telemetry. A process that has opened one library
// cannot open another.
func Open(library string, threads int) (*Runtime, error) {
	opened.Lock()
	defer opened.Unlock()
	if opened.path == "" {
		path, want := C.CString(library), C.CString(Version)
		defer C.free(unsafe.Pointer(path))
		defer C.free(unsafe.Pointer(want))
		var version *C.char
		if err := failure(C.concord_ort_open(path, want, &version)); err != nil {
			if version != nil && C.GoString(version) != Version {
				return nil, fmt.Errorf("expected ONNX Runtime %s, got %s", Version, C.GoString(version))
			}
			return nil, err
		}
		opened.path = library
	}
	if opened.path != library {
		return nil, fmt.Errorf("this process has loaded another library already")
	}
	return &Runtime{threads: threads, device: cpu}, nil
}

// WithThreads is the same for sessions with that many threads within an operator.
func (r *Runtime) WithThreads(threads int) *Runtime {
	return &Runtime{threads: threads, device: r.device}
}

func failure(text *C.char) error {
	if text == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(text))
	return fmt.Errorf("%s", strings.TrimSpace(C.GoString(text)))
}

// Load makes a session of a graph. External initializers come from files alone, by name. A graph with inputs or outputs other than tensors of
// served types is refused.
func (r *Runtime) Load(graph []byte, files map[string][]byte) (model.Session, error) {
	if len(graph) == 0 {
		return nil, fmt.Errorf("the graph is empty")
	}
	var pinner runtime.Pinner
	defer pinner.Unpin()
	external := make([]C.concord_file, 0, len(files))
	for name, data := range files {
		file := C.concord_file{name: C.CString(name), size: C.size_t(len(data))}
		defer C.free(unsafe.Pointer(file.name))
		if len(data) > 0 {
			pinner.Pin(&data[0])
			file.data = unsafe.Pointer(&data[0])
		}
		external = append(external, file)
	}
	s := &session{}
	if err := failure(C.concord_ort_load(unsafe.Pointer(&graph[0]), C.size_t(len(graph)), unsafe.SliceData(external),
		C.size_t(len(external)), C.int(r.threads), C.int(r.device), &s.c)); err != nil {
		return nil, err
	}
	var err error
	if s.inputs, err = specs("input", s.c.inputs, s.c.input_count); err == nil {
		s.outputs, err = specs("output", s.c.outputs, s.c.output_count)
	}
	if err == nil && len(s.outputs) == 0 {
		err = fmt.Errorf("the graph has no output")
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

var kinds = map[C.int32_t]string{2: "a sequence", 3: "a map", 4: "opaque", 5: "a sparse tensor", 6: "optional"}

func specs(what string, ios *C.concord_io, count C.size_t) ([]tensor.Spec, error) {
	list := make([]tensor.Spec, 0, count)
	for _, io := range unsafe.Slice(ios, count) {
		spec := tensor.Spec{Name: C.GoString(io.name), DType: tensor.DType(io.dtype), Unranked: io.has_shape == 0}
		// No message can carry another name.
		if !utf8.ValidString(spec.Name) {
			return nil, fmt.Errorf("the name of an %s is not UTF-8", what)
		}
		const tensors = 1
		if io.kind != tensors {
			kind, ok := kinds[io.kind]
			if !ok {
				kind = "of an unknown kind"
			}
			return nil, fmt.Errorf("%s %s is %s; only tensors are served", what, fault.Quote(spec.Name), kind)
		}
		if !spec.DType.Served() {
			return nil, fmt.Errorf("%s %s is of type %s, which is not served", what, fault.Quote(spec.Name), spec.DType)
		}
		spec.Shape = make([]int64, io.rank)
		copy(spec.Shape, unsafe.Slice((*int64)(unsafe.Pointer(io.dims)), io.rank))
		for axis := range spec.Shape {
			spec.Shape[axis] = max(spec.Shape[axis], -1)
		}
		list = append(list, spec)
	}
	return slices.Clip(list), nil
}
