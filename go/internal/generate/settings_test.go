// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"math"
	"reflect"
	"strings"
	"testing"
)

const plainSettings = `{"model":{"context_length":512,"vocab_size":259,"eos_token_id":[2,0],"decoder":{"head_size":16,"num_hidden_layers":2,` +
	`"num_key_value_heads":3,"inputs":{"past_key_names":"past.%d.k"}}},"search":{"top_k":50}}`

func TestSettings(t *testing.T) {
	got, err := ParseSettings([]byte(plainSettings))
	want := &Settings{
		Context: 512, Vocabulary: 259, EndTokens: []int32{2, 0}, HeadSize: 16, Layers: 2, Heads: 3,
		InputIDs: "input_ids", AttentionMask: "attention_mask", PositionIDs: "position_ids", Logits: "logits", PastKey: "past.%d.k",
		PastValue: "past_key_values.%d.value", PresentKey: "present.%d.key", PresentVal: "present.%d.value",
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if name := LayerName(got.PastKey, 17); name != "past.17.k" {
		t.Errorf("got %q", name)
	}
	if bytes := got.CacheBytes(4); bytes != 2*2*3*16*4 {
		t.Errorf("got %d bytes", bytes)
	}
	for _, c := range []struct {
		slots int
		most  int64
		want  int
	}{{1, 1 << 30, 512}, {2, 768 * 10, 5}, {1, 767, 0}, {10, 768 * 9, 0}, {math.MaxInt, math.MaxInt64, 0}, {0, 1 << 30, 0}, {1, -1, 0}} {
		if fit := got.Fit(c.slots, c.most, 4); fit != c.want {
			t.Errorf("%d slots in %d bytes: got %d tokens, want %d", c.slots, c.most, fit, c.want)
		}
	}
}

func TestBadSettings(t *testing.T) {
	for _, c := range []struct{ old, replaced, want string }{
		{plainSettings, "", "expected JSON"},
		{plainSettings, plainSettings + "{}", "expected JSON"},
		{plainSettings, "[]", "model.context_length: expected 1 to 16777216, got nothing"},
		{`512`, `0`, "model.context_length: expected 1 to 16777216, got 0"},
		{`512`, `16777217`, "model.context_length: expected 1 to 16777216, got 16777217"},
		{`512`, `512.5`, "model.context_length: expected 1 to 16777216, got 512.5"},
		{`512`, `1e3`, "model.context_length: expected 1 to 16777216, got 1e3"},
		{`512`, `"512"`, `model.context_length: expected 1 to 16777216, got "512"`},
		{`512`, `99999999999999999999`, "model.context_length: expected 1 to 16777216, got 99999999999999999999"},
		{`259`, `null`, "model.vocab_size: expected 1 to 16777216, got nothing"},
		{`"num_hidden_layers":2`, `"num_hidden_layers":1025`, "model.decoder.num_hidden_layers: expected 1 to 1024, got 1025"},
		{`"num_key_value_heads":3`, `"num_key_value_heads":-3`, "model.decoder.num_key_value_heads: expected 1 to 4096, got -3"},
		{`"head_size":16`, `"head_size":true`, "model.decoder.head_size: expected 1 to 4096, got true"},
		{`[2,0]`, `259`, "model.eos_token_id: expected tokens from 0 to 258, got 259"},
		{`[2,0]`, `[2,-1]`, "model.eos_token_id: expected tokens from 0 to 258, got -1"},
		{`[2,0]`, `[[2]]`, "model.eos_token_id: expected tokens from 0 to 258, got a list"},
		{`[2,0]`, `[]`, "model.eos_token_id: expected 1 to 256 tokens, got 0"},
		{`[2,0]`, `{}`, "model.eos_token_id: expected tokens from 0 to 258, got an object"},
		{`past.%d.k`, `past.k`, `model.decoder.inputs.past_key_names: expected a name with one %d, got "past.k"`},
		{`past.%d.k`, `past.%d%s`, `model.decoder.inputs.past_key_names: expected a name with one %d, got "past.%d%s"`},
		{`past.%d.k`, ``, `model.decoder.inputs.past_key_names: expected a name of at most 256 bytes, got ""`},
	} {
		_, err := ParseSettings([]byte(strings.Replace(plainSettings, c.old, c.replaced, 1)))
		if err == nil || err.Error() != SettingsName+": "+c.want {
			t.Errorf("%s -> %.40s: got %v", c.old, c.replaced, err)
		}
	}
}
