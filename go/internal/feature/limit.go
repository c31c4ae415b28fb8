// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"errors"
	"fmt"
	"slices"

	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
	"google.golang.org/protobuf/proto"
)

// Limit is the graph's inputs with the greatest lengths that a manifest gives their open axes. The error says which limit does not fit
// the graph.
func Limit(limits []*modelpackagev1.AxisLimit, inputs []tensor.Spec) ([]tensor.Spec, error) {
	limited := slices.Clone(inputs)
	for _, l := range limits {
		i := slices.IndexFunc(limited, func(s tensor.Spec) bool { return s.Name == l.GetInput() })
		if i < 0 {
			return nil, fmt.Errorf("axis_limits: the graph has no input %s", fault.Quote(l.GetInput()))
		}
		if err := limitAxis(&limited[i], int(l.GetAxis()), l.GetMaxLength()); err != nil {
			return nil, fmt.Errorf("axis_limits: input %s: %w", fault.Quote(l.GetInput()), err)
		}
	}
	return limited, nil
}

func limitAxis(spec *tensor.Spec, axis int, length int64) error {
	if axis < 0 || axis >= len(spec.Shape) || spec.Shape[axis] != -1 {
		return fmt.Errorf("expected an open axis, got axis %d of %s", axis, spec.Describe())
	}
	if length < 1 || length > maxElements {
		return fmt.Errorf("expected a max_length from 1 to %d, got %d", int64(maxElements), length)
	}
	if spec.Max == nil {
		spec.Max = make([]int64, len(spec.Shape))
	}
	if spec.Max[axis] != 0 {
		return fmt.Errorf("axis %d is limited twice", axis)
	}
	spec.Max[axis] = length
	return nil
}

// limit takes over the greatest length of the axis that a feature leaves open, and shows it to clients.
func (p *Plan) limit(f *source) error {
	if f.public.GetMaxLength() != 0 {
		return errors.New("max_length: expected 0, since axis_limits tells it")
	}
	in := &p.inputs[f.input]
	if f.count >= 0 || in.open < 0 || in.spec.Max == nil {
		return nil
	}
	if f.most = in.spec.Max[in.open]; f.most > 0 {
		f.public = proto.CloneOf(f.public)
		f.public.MaxLength = f.most
	}
	return nil
}
