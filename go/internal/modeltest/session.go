// SPDX-License-Identifier: Apache-2.0

// Package modeltest helps the tests of the other rooms: a Session without ONNX Runtime, tiny graphs, and packages made of them.
package modeltest

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// Session is a model.Session whose run is a Go function.
type Session struct {
	In, Out []tensor.Spec
	// Do is Run; nil gives back the inputs, of which there must then be as many as outputs.
	Do     func(ctx context.Context, inputs []tensor.Tensor) ([]tensor.Tensor, error)
	Runs   atomic.Int64
	Closed atomic.Bool
}

// Inputs implements model.Session.
func (s *Session) Inputs() []tensor.Spec { return s.In }

// Outputs implements model.Session.
func (s *Session) Outputs() []tensor.Spec { return s.Out }

// Close implements model.Session.
func (s *Session) Close() { s.Closed.Store(true) }

// Run implements model.Session.
func (s *Session) Run(ctx context.Context, inputs []tensor.Tensor, wanted []int, most int64) ([]tensor.Tensor, error) {
	s.Runs.Add(1)
	if s.Closed.Load() {
		return nil, errors.New("the session is closed")
	}
	all := inputs
	if s.Do != nil {
		var err error
		if all, err = s.Do(ctx, inputs); err != nil {
			return nil, err
		}
	}
	outputs := make([]tensor.Tensor, len(wanted))
	bytes := int64(0)
	for at, index := range wanted {
		outputs[at] = all[index]
		bytes += outputs[at].Bytes()
	}
	if most > 0 && bytes > most {
		return nil, &model.TooLargeError{Bytes: bytes, Most: most}
	}
	return outputs, nil
}

// Lane implements model.LaneMaker: a lane whose runs are the session's.
func (s *Session) Lane(shapes [][]int64, wanted []int) (model.Lane, error) {
	l := &lane{session: s, wanted: wanted}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	for i, shape := range shapes {
		l.row = append(l.row, tensor.Make(s.In[i].DType, shape))
	}
	return l, nil
}

type lane struct {
	session *Session
	row     []tensor.Tensor
	wanted  []int
	ctx     context.Context
	cancel  context.CancelFunc
}

func (l *lane) Row() []tensor.Tensor { return l.row }

func (l *lane) Run(most int64) ([]tensor.Tensor, error) {
	return l.session.Run(l.ctx, l.row, l.wanted, most)
}

func (l *lane) Terminate() { l.cancel() }

func (l *lane) Close() { l.cancel() }
