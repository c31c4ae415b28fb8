// SPDX-License-Identifier: Apache-2.0

package model

import (
	"context"
	"fmt"

	"github.com/concord-inference/concord/go/internal/tensor"
)

// TooLargeError is the error of a run whose outputs are larger than its caller takes.
type TooLargeError struct {
	Bytes, Most int64 // Bytes as tensor.Tensor.Bytes counts them
}

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the outputs hold %d bytes, more than %d", e.Bytes, e.Most)
}

// Session runs one ONNX graph. Several goroutines may run it at once.
type Session interface {
	// Inputs are the graph's inputs, in its order. All are tensors of types that are served.
	Inputs() []tensor.Spec
	// Outputs are the graph's outputs, in its order. All are tensors of types that are served.
	Outputs() []tensor.Spec
	// Run takes a tensor for each input, in order, and gives the outputs whose indices are wanted, in that order. The tensors given are
	// the caller's own. When ctx ends, the run is ended as soon as ONNX Runtime can and the error is ctx's. Where most is not 0 and the
	// outputs hold more bytes than that, nothing of them is copied and the error is a *TooLargeError. Every other error is ONNX
	// Runtime's on these inputs.
	Run(ctx context.Context, inputs []tensor.Tensor, wanted []int, most int64) ([]tensor.Tensor, error)
	// Close frees the session once the runs under way have ended. It must not be run afterwards.
	Close()
}
