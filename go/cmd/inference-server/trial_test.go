// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/concord-inference/concord/go/internal/admission"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/ort"
)

// spoil changes the files of a package.
type spoil func(t *testing.T, files map[string][]byte)

func replace(name, old, with string) spoil {
	return func(t *testing.T, files map[string][]byte) {
		if !strings.Contains(string(files[name]), old) {
			t.Fatalf("%s has no %s", name, old)
		}
		files[name] = []byte(strings.Replace(string(files[name]), old, with, 1))
	}
}

func whole(name, data string) spoil {
	return func(_ *testing.T, files map[string][]byte) { files[name] = []byte(data) }
}

// template puts a chat template in the place of the package's own; nothing leaves it without one.
func template(text string) spoil {
	return func(t *testing.T, files map[string][]byte) {
		var config map[string]any
		if err := json.Unmarshal(files["tokenizer_config.json"], &config); err != nil {
			t.Fatal(err)
		}
		delete(config, "chat_template")
		data, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		files["tokenizer_config.json"] = data
		delete(files, "chat_template.jinja")
		if text != "" {
			files["chat_template.jinja"] = []byte(text)
		}
	}
}

// TestHostileGenerators has each kind of bad tokenizer, template and settings refused with a clear reason, by a child of its own.
func TestHostileGenerators(t *testing.T) {
	const (
		took    = "trial load: (did not finish in 1 s|needs more than 1073741824 bytes of memory)"
		any     = "trial load: .*"
		invalid = "chat template: Invalid or unsupported chat template."
		numbers = `tokenizer: \[json.exception.type_error.302\] type must be .*`
	)
	times := func(text string, n int) string { return strings.Repeat(text, n) }
	for _, c := range []struct {
		name, want string // want is a pattern of the whole reason; empty where it is admitted
		spoil      spoil
	}{
		{"good", "", func(*testing.T, map[string][]byte) {}},
		{"no template", "", template("")},
		{"template of its own file", "", template("{{ messages[0].content }}")},
		{"template that says nothing", "", template("{{ '' }}")},
		{"template that is no UTF-8", "", template("\xff\xfe{{ messages[0].content }}\xff")},

		{"endless template", took, template("{% for i in range(9999) %}" + times("{% for j in range(9999) %}", 3) + times("{% endfor %}", 4))},
		{"huge output", took, template("{% for i in range(1000000000) %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}")},
		{"huge text", took, template("{{ 'aaaaaaaaaa' * 10000000000 }}")},
		{"endless recursion", `trial load: the process died \(SIGSEGV\)`, template("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}")},
		{"deep expression", any, template("{{ " + times("(", 200000) + "1" + times(")", 200000) + " }}")},
		{"deep template", any, template(times("{% if true %}", 100000) + times("{% endif %}", 100000))},
		{"template that is none", invalid, template("{% if %}")},
		{"template that does not end", invalid, template("{{ messages")},
		{"template that refuses", "chat template: not at <...> at row 1, column 19:", template("{{ raise_exception('not at /home/somebody') }}")},
		{"template of unknown names", "chat template: 'nothing' is not defined at .*", template("{{ nothing.at.all() }}")},
		{"template that is a number", numbers, replace("tokenizer_config.json", `"chat_template": "`, `"chat_template": 5, "x": "`)},

		{"missing tokenizer.json", "expected tokenizer.json, got none", whole("tokenizer.json", "")},
		{"missing tokenizer_config.json", "expected tokenizer_config.json, got none", whole("tokenizer_config.json", "")},
		{"tokenizer that is no JSON", "tokenizer.json: expected JSON", whole("tokenizer.json", "{")},
		{"tokenizer that is null", "tokenizer.json: model: expected an object, got nothing", whole("tokenizer.json", "null")},
		{"deep tokenizer", "tokenizer.json: expected JSON", whole("tokenizer.json", times("[", 1000000)+times("]", 1000000))},
		{"deep tokenizer_config", "tokenizer: Failed to parse config json.", whole("tokenizer_config.json", times(`{"a":`, 1000000))},
		{"tokenizer that is no UTF-8", "tokenizer: .*ill-formed UTF-8 byte.*", replace("tokenizer.json", `"H": 75`, "\"H\xff\xfe\": 75")},
		{"no merges", "tokenizer.json: model.merges: expected a list, got nothing", replace("tokenizer.json", `"merges"`, `"none"`)},
		{"bad merges", "tokenizer: .*", replace("tokenizer.json", `"merges": []`, `"merges": [5]`)},
		{"vocabulary that is a list", "tokenizer.json: model.vocab: expected an object, got a list",
			replace("tokenizer.json", `"vocab": {`, `"vocab": [], "none": {`)},
		{"no vocabulary", "tokenizer: expected tokens from 0 to 258, got -1", replace("tokenizer.json", `"vocab": {`, `"vocab": {}, "none": {`)},
		{"huge vocabulary", "tokenizer.json: model.vocab: expected tokens from 0 to 16777215, got 2147483646",
			replace("tokenizer.json", `"Ā": 3`, `"Ā": 2147483646`)},
		{"token that is text", `tokenizer.json: model.vocab: expected tokens from 0 to 16777215, got "3"`,
			replace("tokenizer.json", `"Ā": 3`, `"Ā": "3"`)},
		{"token beyond the vocabulary", "tokenizer: expected tokens from 0 to 258, got 300", replace("tokenizer.json", `"H": 75`, `"H": 300`)},
		{"negative token", "tokenizer.json: added_tokens: expected tokens from 0 to 16777215, got -5", replace("tokenizer.json", `"id": 1,`, `"id": -5,`)},
		{"unknown class", "tokenizer: Unsupported tokenizer class: NoSuchTokenizer", replace("tokenizer_config.json", "GPT2Tokenizer", "NoSuchTokenizer")},
		{"unknown splitter", "tokenizer: Unsupported pretokenizer type!Nothing", replace("tokenizer.json", `"type": "ByteLevel",`, `"type": "Nothing",`)},
		{"bad pattern", `tokenizer: Invalid regex: \(\(\(`, replace("tokenizer.json", `"type": "ByteLevel",`, `"type": "Split", "pattern": {"Regex": "((("},`)},

		{"no settings", "genai_config.json: expected JSON", whole("genai_config.json", "")},
		{"huge settings", "genai_config.json: model.decoder.num_hidden_layers: expected 1 to 1024, got 1000000000000",
			replace("genai_config.json", `"num_hidden_layers": 2`, `"num_hidden_layers": 1000000000000`)},
		{"too many layers", `input "past_key_values.2.key": expected float \[-1, 2, -1, 16\], got nothing`,
			replace("genai_config.json", `"num_hidden_layers": 2`, `"num_hidden_layers": 1000`)},
		{"too many heads", `input "past_key_values.0.key": expected float or float16 \[-1, 4096, -1, 16\], got float \[-1, 2, -1, 16\]`,
			replace("genai_config.json", `"num_key_value_heads": 2`, `"num_key_value_heads": 4096`)},
		{"too large a vocabulary", `output "logits": expected float or float16 \[-1, -1, 16777216\], got float \[-1, 1, 259\]`,
			replace("genai_config.json", `"vocab_size": 259`, `"vocab_size": 16777216`)},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := tinyChat(t)
			c.spoil(t, m.Generator.Files)
			timeout := time.Minute
			if c.want == took || c.want == any {
				timeout = time.Second
			}
			got := ""
			if err := admit(t, m, timeout); err != nil {
				got = err.Error()
			}
			if !regexp.MustCompile("^(" + c.want + ")$").MatchString(got) {
				t.Errorf("got %q, want %s", got, c.want)
			}
		})
	}
}

// TestGeneratorsGraph holds that a text generator's graph is refused as a model of another kind.
func TestGeneratorsGraph(t *testing.T) {
	m := tinyChat(t)
	m.Generator = nil
	if err := admit(t, m, time.Minute); err == nil || err.Error() != "model.onnx: operator com.microsoft.GroupQueryAttention is admitted in text generators alone" {
		t.Errorf("got %v", err)
	}
}

// tinyChat is models/tiny-chat as the repository hands it over.
func tinyChat(t *testing.T) admission.Model {
	t.Helper()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(modeltest.TinyChat(t), name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	m := admission.Model{Graph: read("model.onnx"), Sums: map[string]string{}, Generator: &admission.Generator{Threads: 1, Files: map[string][]byte{}}}
	for _, name := range []string{"genai_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} {
		m.Generator.Files[name] = read(name)
	}
	return m
}

func admit(t *testing.T, m admission.Model, timeout time.Duration) error {
	t.Helper()
	directory := t.TempDir()
	t.Setenv("TMPDIR", directory)
	trials := &admission.Trials{
		Library: modeltest.Library(t), GenAI: modeltest.GenAILibrary(t), Threads: 1, Timeout: timeout, MemoryBytes: 1 << 30,
		Log: slog.New(slog.NewJSONHandler(&bytes.Buffer{}, nil)),
	}
	err := admission.New(trials, ort.Version, "").Admit(context.Background(), m)
	if left, readErr := os.ReadDir(directory); readErr != nil || len(left) > 0 {
		t.Errorf("%d temporary directories are left, %v", len(left), readErr)
	}
	return err
}
