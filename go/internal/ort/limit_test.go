// SPDX-License-Identifier: Apache-2.0

package ort

import (
	"context"
	"errors"
	"testing"

	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// TestOutputLimit runs with limits just enough and one byte short.
func TestOutputLimit(t *testing.T) {
	for _, c := range []struct {
		graph string
		in    tensor.Tensor
		bytes int64
	}{
		{"identity_double", tensor.Tensor{DType: tensor.Float64, Shape: []int64{2}, Data: make([]byte, 16)}, 16},
		{"identity_string", tensor.Tensor{DType: tensor.String, Shape: []int64{3}, Strings: []string{"", "a\x00\xff", "b"}}, 4 + 3*tensor.FramedString},
	} {
		s := load(t, c.graph, nil)
		if got := c.in.Bytes(); got != c.bytes {
			t.Errorf("%s: Bytes is %d, want %d", c.graph, got, c.bytes)
		}
		for _, most := range []int64{0, c.bytes, c.bytes + 1} {
			if out, err := s.Run(context.Background(), []tensor.Tensor{c.in}, []int{0}, most); err != nil || out[0].Len() != c.in.Len() {
				t.Errorf("%s: at most %d bytes: got %v, %v", c.graph, most, out, err)
			}
		}
		var large *model.TooLargeError
		if _, err := s.Run(context.Background(), []tensor.Tensor{c.in}, []int{0}, c.bytes-1); !errors.As(err, &large) || large.Bytes != c.bytes || large.Most != c.bytes-1 {
			t.Errorf("%s: got %v", c.graph, err)
		}
	}
}
