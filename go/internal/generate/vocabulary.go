// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// TokenizerName is the file of a package that says how text becomes tokens.
const TokenizerName = "tokenizer.json"

// CheckTokenizer finds in tokenizer.json what its library takes for granted: without its tables it reads what is not there, and it takes memory for
// each number up to the largest token.
func CheckTokenizer(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var root any
	if err := decoder.Decode(&root); err != nil || decoder.More() {
		return fmt.Errorf("%s: expected JSON", TokenizerName)
	}
	wrong := func(path, expected string, value any) error {
		return fmt.Errorf("%s: %s: expected %s, got %s", TokenizerName, path, expected, settingShown(value))
	}
	token := func(path string, value any) error {
		if n, ok := integer(value); !ok || n < 0 || n >= maxVocabulary {
			return wrong(path, fmt.Sprintf("tokens from 0 to %d", maxVocabulary-1), value)
		}
		return nil
	}
	r := &settingsReader{root: root}
	model, ok := r.at("model").(map[string]any)
	if !ok {
		return wrong("model", "an object", r.at("model"))
	}
	if kind, ok := model["type"]; !ok || kind == "BPE" {
		if _, ok := model["vocab"].(map[string]any); !ok {
			return wrong("model.vocab", "an object", model["vocab"])
		}
		if _, ok := model["merges"].([]any); !ok {
			return wrong("model.merges", "a list", model["merges"])
		}
	}
	switch vocabulary := model["vocab"].(type) {
	case map[string]any:
		for _, id := range vocabulary {
			if err := token("model.vocab", id); err != nil {
				return err
			}
		}
	case []any:
		if len(vocabulary) > maxVocabulary {
			return wrong("model.vocab", fmt.Sprintf("at most %d tokens", maxVocabulary), json.Number(fmt.Sprint(len(vocabulary))))
		}
	default:
		return wrong("model.vocab", "an object or a list", vocabulary)
	}
	added, ok := r.at("added_tokens").([]any)
	if !ok && r.at("added_tokens") != nil {
		return wrong("added_tokens", "a list", r.at("added_tokens"))
	}
	for _, item := range added {
		one, ok := item.(map[string]any)
		if !ok {
			return wrong("added_tokens", "objects", item)
		}
		if err := token("added_tokens", one["id"]); err != nil {
			return err
		}
	}
	return nil
}
