// SPDX-License-Identifier: Apache-2.0

package feature

import (
	"testing"

	modelpackagev1 "github.com/concord-inference/concord/go/gen/modelpackage/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

func atMost(input string, axis int32, length int64) *modelpackagev1.AxisLimit {
	return &modelpackagev1.AxisLimit{Input: input, Axis: axis, MaxLength: length}
}

func TestLimitOfAnOpenAxis(t *testing.T) {
	graph := specs(spec("x", tensor.Float32, -1, -1, 2))
	limited, err := Limit([]*modelpackagev1.AxisLimit{atMost("x", 1, 3)}, graph)
	if err != nil || graph[0].Max != nil {
		t.Fatal(err, graph[0].Max)
	}
	bound := bind("a", FLOAT, []int64{-1, 2}, "x", 0)
	for name, make := range map[string]func() (*Plan, error){
		"manifest": func() (*Plan, error) { return FromManifest(manifest(bound), limited, anyOutput) },
		"graph":    func() (*Plan, error) { return FromGraph(limited, anyOutput) },
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := make()
			if err != nil {
				t.Fatal(err)
			}
			public := plan.Features()[0]
			if public.GetMaxLength() != 3 || bound.GetFeature().GetMaxLength() != 0 {
				t.Errorf("shown as %v, and in the manifest as %v", public, bound.GetFeature())
			}
			if _, f := plan.Decode(values{public.GetName(): floats(1, 2, 3, 4, 5, 6)}); f != nil {
				t.Error(f)
			}
			_, f := plan.Decode(values{public.GetName(): floats(1, 2, 3, 4, 5, 6, 7, 8)})
			want := `feature "` + public.GetName() + `": expected at most 6 values, got 8`
			if f == nil || f.Reason != fault.FeatureShapeMismatch || f.Message != want {
				t.Errorf("got %v, want %s", f, want)
			}
		})
	}
}

func TestLimitsThatDoNotFit(t *testing.T) {
	graph := specs(spec("x", tensor.Float32, -1, -1, 2), tensor.Spec{Name: "any", DType: tensor.Float32, Unranked: true})
	for _, c := range []struct {
		limits []*modelpackagev1.AxisLimit
		want   string
	}{
		{[]*modelpackagev1.AxisLimit{atMost("y", 0, 1)}, `axis_limits: the graph has no input "y"`},
		{[]*modelpackagev1.AxisLimit{atMost("x", 2, 1)}, `axis_limits: input "x": expected an open axis, got axis 2 of float [-1, -1, 2]`},
		{[]*modelpackagev1.AxisLimit{atMost("x", 3, 1)}, `axis_limits: input "x": expected an open axis, got axis 3 of float [-1, -1, 2]`},
		{[]*modelpackagev1.AxisLimit{atMost("x", -1, 1)}, `axis_limits: input "x": expected an open axis, got axis -1 of float [-1, -1, 2]`},
		{[]*modelpackagev1.AxisLimit{atMost("any", 0, 1)}, `axis_limits: input "any": expected an open axis, got axis 0 of float of unknown rank`},
		{[]*modelpackagev1.AxisLimit{atMost("x", 1, 0)}, `axis_limits: input "x": expected a max_length from 1 to 2147483648, got 0`},
		{[]*modelpackagev1.AxisLimit{atMost("x", 1, 1<<31+1)}, `axis_limits: input "x": expected a max_length from 1 to 2147483648, got 2147483649`},
		{[]*modelpackagev1.AxisLimit{atMost("x", 1, 5), atMost("x", 1, 5)}, `axis_limits: input "x": axis 1 is limited twice`},
	} {
		if _, err := Limit(c.limits, graph); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	limited, err := Limit([]*modelpackagev1.AxisLimit{atMost("x", 1, 3)}, graph[:1])
	if err != nil {
		t.Fatal(err)
	}
	_, err = FromManifest(manifest(bind("a", FLOAT, []int64{4, 2}, "x", 0)), limited, anyOutput)
	if want := `input "x": expected at most 3 on axis 1, got [1, 4, 2]`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	told := bind("a", FLOAT, []int64{-1, 2}, "x", 0)
	told.Feature.MaxLength = 3
	_, err = FromManifest(manifest(told), limited, anyOutput)
	if want := `feature "a": max_length: expected 0, since axis_limits tells it`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
