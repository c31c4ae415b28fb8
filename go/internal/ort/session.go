// SPDX-License-Identifier: Apache-2.0

package ort

/*
#include "api.h"
*/
import "C"

import (
	"context"
	"math"
	"runtime"
	"sync"
	"unsafe"

	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/tensor"
)

type session struct {
	// Runs hold it shared, Close alone: nothing is freed under a run.
	mu              sync.RWMutex
	c               C.concord_session
	inputs, outputs []tensor.Spec
}

func (s *session) Inputs() []tensor.Spec  { return s.inputs }
func (s *session) Outputs() []tensor.Spec { return s.outputs }

func (s *session) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	C.concord_ort_unload(&s.c)
}

func (s *session) Run(ctx context.Context, inputs []tensor.Tensor, wanted []int, most int64) ([]tensor.Tensor, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(wanted) == 0 {
		return nil, nil
	}
	options, release, err := terminable(ctx)
	if err != nil {
		return nil, err
	}
	defer release()

	var pinner runtime.Pinner
	defer pinner.Unpin()
	in := make([]C.concord_in, len(inputs))
	for i := range inputs {
		pass(&pinner, &inputs[i], &in[i])
	}
	indices := make([]C.size_t, len(wanted))
	for i, index := range wanted {
		indices[i] = C.size_t(index)
	}
	out := make([]C.concord_out, len(wanted))
	limit := uint64(math.MaxUint64)
	if most > 0 {
		limit = uint64(most)
	}
	var bytes C.size_t
	if err := failure(C.concord_ort_run(&s.c, options, unsafe.SliceData(in), C.size_t(len(in)),
		&indices[0], C.size_t(len(indices)), tensor.FramedString, C.size_t(limit), &bytes, &out[0])); err != nil {
		if ended := ctx.Err(); ended != nil {
			return nil, ended
		}
		if uint64(bytes) > limit {
			return nil, &model.TooLargeError{Bytes: int64(bytes), Most: most}
		}
		return nil, err
	}
	defer C.concord_ort_release(&out[0], C.size_t(len(out)))
	outputs := make([]tensor.Tensor, len(out))
	for i := range out {
		outputs[i] = take(&out[i])
	}
	return outputs, nil
}

// terminable makes the run options that end a run when ctx does. The release waits until nothing uses them any more.
func terminable(ctx context.Context) (options unsafe.Pointer, release func(), err error) {
	if ctx.Done() == nil {
		return nil, func() {}, nil
	}
	if err := failure(C.concord_ort_options_new(&options)); err != nil {
		return nil, nil, err
	}
	terminated := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		C.concord_ort_options_terminate(options)
		close(terminated)
	})
	return options, func() {
		if !stop() {
			<-terminated
		}
		C.concord_ort_options_free(options)
	}, nil
}

// pass hands a tensor's memory to C for as long as the pinner holds it.
func pass(pinner *runtime.Pinner, t *tensor.Tensor, in *C.concord_in) {
	in.dtype = C.int32_t(t.DType)
	in.rank = C.size_t(len(t.Shape))
	if len(t.Shape) > 0 {
		pinner.Pin(&t.Shape[0])
		in.dims = (*C.int64_t)(unsafe.Pointer(&t.Shape[0]))
	}
	if t.DType == tensor.String {
		in.size = C.size_t(len(t.Strings))
		bytes, offsets := flatten(t.Strings)
		pinner.Pin(&bytes[0])
		in.data = unsafe.Pointer(&bytes[0])
		pinner.Pin(&offsets[0])
		in.offsets = &offsets[0]
		return
	}
	in.size = C.size_t(len(t.Data))
	if len(t.Data) > 0 {
		pinner.Pin(&t.Data[0])
		in.data = unsafe.Pointer(&t.Data[0])
	}
}

// flatten puts strings one after the other; neither slice is empty.
func flatten(texts []string) ([]byte, []C.size_t) {
	total := 0
	for _, text := range texts {
		total += len(text)
	}
	bytes := make([]byte, 0, total+1)
	offsets := make([]C.size_t, 1, len(texts)+1)
	for _, text := range texts {
		bytes = append(bytes, text...)
		offsets = append(offsets, C.size_t(len(bytes)))
	}
	return bytes[:total+1], offsets
}

// take copies a tensor out of ONNX Runtime's memory.
func take(out *C.concord_out) tensor.Tensor {
	t := tensor.Tensor{DType: tensor.DType(out.dtype), Shape: make([]int64, out.rank)}
	copy(t.Shape, unsafe.Slice((*int64)(unsafe.Pointer(out.dims)), out.rank))
	bytes := unsafe.Slice((*byte)(out.data), out.size)
	if t.DType != tensor.String {
		t.Data = make([]byte, len(bytes))
		copy(t.Data, bytes)
		return t
	}
	// One copy of all; the strings share it.
	all := string(bytes)
	offsets := unsafe.Slice(out.offsets, out.count+1)
	t.Strings = make([]string, out.count)
	for i := range t.Strings {
		t.Strings[i] = all[offsets[i]:offsets[i+1]]
	}
	return t
}
