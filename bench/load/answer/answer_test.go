// SPDX-License-Identifier: Apache-2.0

package answer

import (
	"encoding/binary"
	"math"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
)

func TestEveryForm(t *testing.T) {
	expected := &Expected{Classes: []string{"no", "yes"}, Values: []float64{0.25, 0.75}, Output: "p"}
	message, err := proto.Marshal(&inferencev1.PredictResponse{
		RequestId: "x", Predictions: map[string]float32{"yes": 0.75, "no": 0.25}, LatencyMs: 3, ModelVersion: "1",
	})
	if err != nil {
		t.Fatal(err)
	}
	var raw []byte
	for _, v := range []float32{0.25, 0.75} {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	asField := func(number protowire.Number, value []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), value)
	}
	for _, c := range []struct {
		form string
		body []byte
	}{
		{"concord", message},
		{"json", []byte(`{"predictions":{"yes":0.75,"no":0.25}}`)},
		{"v2json", []byte(`{"outputs":[{"name":"label","data":["a"]},{"name":"p","data":[0.25,0.750001]}]}`)},
		{"v2grpc", asField(6, raw)},
		{"v2grpc", asField(5, append(asField(1, []byte("p")), asField(5, asField(6, raw))...))},
		{"any", nil},
	} {
		if err := expected.Check(Readers[c.form], c.body); err != nil {
			t.Errorf("%s: %v", c.form, err)
		}
	}
	for _, c := range []struct{ form, body string }{
		{"json", `{"predictions":{"yes":0.75,"no":0.26}}`},
		{"json", `{"predictions":{"yes":0.75}}`},
		{"json", `nothing`},
		{"v2json", `{"outputs":[{"name":"p","data":[0.25]}]}`},
		{"v2json", `{"outputs":[]}`},
		{"concord", "\xff"},
		{"concord", ""},
		{"v2grpc", ""},
	} {
		if expected.Check(Readers[c.form], []byte(c.body)) == nil {
			t.Errorf("%s: %q is taken", c.form, c.body)
		}
	}
}
