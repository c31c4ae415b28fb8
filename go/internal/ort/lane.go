// SPDX-License-Identifier: Apache-2.0

package ort

/*
#include "lane.h"
*/
import "C"

import (
	"math"
	"runtime"
	"unsafe"

	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// lane is a model.Lane. Its memory is C's, so that nothing needs to be pinned.
type lane struct {
	session *session
	c       C.concord_lane
	row     []tensor.Tensor
	outputs []tensor.Tensor
	bytes   C.size_t // of the last run's outputs
}

// Lane implements model.LaneMaker.
func (s *session) Lane(shapes [][]int64, wanted []int) (model.Lane, error) {
	// A GPU has memory of its own, which a run is bound to.
	if s.c.pinned != nil || len(wanted) == 0 || len(shapes) == 0 {
		return nil, nil
	}
	var pinner runtime.Pinner
	defer pinner.Unpin()
	l := &lane{session: s, row: make([]tensor.Tensor, len(shapes)), outputs: make([]tensor.Tensor, len(wanted))}
	in := make([]C.concord_in, len(shapes))
	for i, shape := range shapes {
		dtype := s.inputs[i].DType
		if dtype == tensor.String {
			return nil, nil
		}
		elements, _ := tensor.Elements(shape)
		in[i] = C.concord_in{dtype: C.int32_t(dtype), rank: C.size_t(len(shape)), size: C.size_t(elements) * C.size_t(dtype.Size())}
		if len(shape) > 0 {
			pinner.Pin(&shape[0])
			in[i].dims = (*C.int64_t)(unsafe.Pointer(&shape[0]))
		}
	}
	indices := make([]C.size_t, len(wanted))
	for i, index := range wanted {
		indices[i] = C.size_t(index)
	}
	if err := failure(C.concord_lane_new(&s.c, &in[0], &indices[0], C.size_t(len(indices)), &l.c)); err != nil {
		return nil, err
	}
	data := unsafe.Slice(l.c.data, len(shapes))
	for i, shape := range shapes {
		l.row[i] = tensor.Tensor{DType: s.inputs[i].DType, Shape: shape, Data: unsafe.Slice((*byte)(data[i]), in[i].size)}
	}
	return l, nil
}

func (l *lane) Row() []tensor.Tensor { return l.row }

func (l *lane) Run(most int64) ([]tensor.Tensor, error) {
	l.session.mu.RLock()
	defer l.session.mu.RUnlock()
	limit := uint64(math.MaxUint64)
	if most > 0 {
		limit = uint64(most)
	}
	if text := C.concord_lane_run(&l.c, tensor.FramedString, C.size_t(limit), &l.bytes); text != nil {
		err := failure(text)
		if uint64(l.bytes) > limit {
			return nil, &model.TooLargeError{Bytes: int64(l.bytes), Most: most}
		}
		return nil, err
	}
	for i, out := range unsafe.Slice(l.c.out, len(l.outputs)) {
		t := &l.outputs[i]
		t.DType, t.Data, t.Strings = tensor.DType(out.dtype), nil, nil
		t.Shape = append(t.Shape[:0], unsafe.Slice((*int64)(unsafe.Pointer(out.dims)), out.rank)...)
		if t.DType == tensor.String {
			*t = take(&out)
		} else if out.size > 0 {
			t.Data = unsafe.Slice((*byte)(out.data), out.size)
		}
	}
	return l.outputs, nil
}

func (l *lane) Terminate() { C.concord_ort_options_terminate(l.c.options) }

func (l *lane) Close() { C.concord_lane_free(&l.c) }
