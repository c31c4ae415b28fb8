// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/concord-inference/concord/go/internal/fault"
)

// SettingsName is the file of a package that says what its decoder is.
const SettingsName = "genai_config.json"

// Most that a decoder may say of itself. Real ones lie far below; products of these stay far below what overflows.
const (
	maxContext    = 1 << 24
	maxLayers     = 1 << 10
	maxHeads      = 1 << 12
	maxHeadSize   = 1 << 12
	maxVocabulary = 1 << 24
	maxEndTokens  = 1 << 8
	maxNameBytes  = 1 << 8
)

// Settings are a decoder's facts, as genai_config.json tells them: the layout of onnxruntime-genai's own model builder.
type Settings struct {
	Context    int     // most tokens of one generation, its prompt among them; 1 to 2^24
	Layers     int     // 1 to 1,024
	Heads      int     // of keys and values, in each layer; 1 to 4,096
	HeadSize   int     // numbers in one head; 1 to 4,096
	Vocabulary int     // 1 to 2^24
	EndTokens  []int32 // 1 to 256 of them, each below Vocabulary

	// Names of the graph's inputs and outputs. Those of keys and values hold one %d, for the layer.
	InputIDs, AttentionMask, PositionIDs       string
	PastKey, PastValue, PresentKey, PresentVal string
	Logits                                     string
}

// ParseSettings reads genai_config.json. The error says what was expected and what came.
func ParseSettings(data []byte) (*Settings, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var root any
	if err := decoder.Decode(&root); err != nil || decoder.More() {
		return nil, fmt.Errorf("%s: expected JSON", SettingsName)
	}
	r := &settingsReader{root: root}
	s := &Settings{
		Context:    r.number("model.context_length", maxContext),
		Vocabulary: r.number("model.vocab_size", maxVocabulary),
		Layers:     r.number("model.decoder.num_hidden_layers", maxLayers),
		Heads:      r.number("model.decoder.num_key_value_heads", maxHeads),
		HeadSize:   r.number("model.decoder.head_size", maxHeadSize),

		InputIDs:      r.name("model.decoder.inputs.input_ids", "input_ids"),
		AttentionMask: r.name("model.decoder.inputs.attention_mask", "attention_mask"),
		PositionIDs:   r.name("model.decoder.inputs.position_ids", "position_ids"),
		PastKey:       r.layered("model.decoder.inputs.past_key_names", "past_key_values.%d.key"),
		PastValue:     r.layered("model.decoder.inputs.past_value_names", "past_key_values.%d.value"),
		Logits:        r.name("model.decoder.outputs.logits", "logits"),
		PresentKey:    r.layered("model.decoder.outputs.present_key_names", "present.%d.key"),
		PresentVal:    r.layered("model.decoder.outputs.present_value_names", "present.%d.value"),
	}
	s.EndTokens = r.tokens("model.eos_token_id", s.Vocabulary)
	if r.err != nil {
		return nil, r.err
	}
	return s, nil
}

// settingsReader keeps the first thing that is wrong.
type settingsReader struct {
	root any
	err  error
}

func (r *settingsReader) wrong(path, expected, got string) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: %s: expected %s, got %s", SettingsName, path, expected, got)
	}
}

// at is the value at a path, nil where there is none or a null.
func (r *settingsReader) at(path string) any {
	value := r.root
	for member := range strings.SplitSeq(path, ".") {
		object, ok := value.(map[string]any)
		if !ok {
			return nil
		}
		value = object[member]
	}
	return value
}

func (r *settingsReader) number(path string, most int) int {
	value := r.at(path)
	n, ok := integer(value)
	if !ok || n < 1 || n > int64(most) {
		r.wrong(path, fmt.Sprintf("1 to %d", most), settingShown(value))
		return 1
	}
	return int(n)
}

func (r *settingsReader) name(path, usual string) string {
	value := r.at(path)
	if value == nil {
		return usual
	}
	name, ok := value.(string)
	if !ok || name == "" || len(name) > maxNameBytes || strings.ContainsRune(name, 0) {
		r.wrong(path, fmt.Sprintf("a name of at most %d bytes", maxNameBytes), settingShown(value))
	}
	return name
}

func (r *settingsReader) layered(path, usual string) string {
	name := r.name(path, usual)
	if r.err == nil && (strings.Count(name, "%") != 1 || strings.Count(name, "%d") != 1) {
		r.wrong(path, "a name with one %d", fault.Quote(name))
	}
	return name
}

// tokens reads one token, or a list of them.
func (r *settingsReader) tokens(path string, vocabulary int) []int32 {
	value := r.at(path)
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	if len(list) < 1 || len(list) > maxEndTokens {
		r.wrong(path, fmt.Sprintf("1 to %d tokens", maxEndTokens), strconv.Itoa(len(list)))
		return nil
	}
	tokens := make([]int32, len(list))
	for i, item := range list {
		n, ok := integer(item)
		if !ok || n < 0 || n >= int64(vocabulary) {
			r.wrong(path, fmt.Sprintf("tokens from 0 to %d", vocabulary-1), settingShown(item))
			return nil
		}
		tokens[i] = int32(n)
	}
	return tokens
}

func integer(value any) (int64, bool) {
	number, ok := value.(json.Number)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(number.String(), 10, 64)
	return n, err == nil
}

// settingShown shows a value in a message.
func settingShown(value any) string {
	switch v := value.(type) {
	case nil:
		return "nothing"
	case json.Number:
		return fault.Shown(v.String())
	case string:
		return fault.Quote(v)
	case bool:
		return strconv.FormatBool(v)
	case []any:
		return "a list"
	default:
		return "an object"
	}
}

// LayerName is the name of a layer's input or output, from 0.
func LayerName(pattern string, layer int) string {
	return strings.Replace(pattern, "%d", strconv.Itoa(layer), 1)
}

// CacheBytes is what the keys and values of one token take, in numbers of that many bytes.
func (s *Settings) CacheBytes(numberBytes int) int64 {
	return 2 * int64(s.Layers) * int64(s.Heads) * int64(s.HeadSize) * int64(numberBytes)
}

// Fit is how many tokens a slot can hold where all slots together have that much memory: at most Context, and 0 where there is room for none.
func (s *Settings) Fit(slots int, most int64, numberBytes int) int {
	one := s.CacheBytes(numberBytes)
	if slots < 1 || most < one || math.MaxInt64/one < int64(slots) {
		return 0
	}
	return int(min(int64(s.Context), most/(one*int64(slots))))
}
