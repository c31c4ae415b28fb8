// SPDX-License-Identifier: Apache-2.0

package ort

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/concord-inference/concord/go/internal/generate"
	"github.com/concord-inference/concord/go/internal/modeltest"
)

// openGenAI opens onnxruntime-genai where it lies beside ONNX Runtime, as it does beside the server.
func openGenAI(t testing.TB) *GenAI {
	t.Helper()
	g, err := open(t).OpenGenAI(modeltest.GenAILibrary(t))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// tinyFiles are the tokenizer's files of models/tiny-chat, changed by hand where a test wants to.
func tinyFiles(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, name := range []string{generate.SettingsName, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} {
		data, err := os.ReadFile(filepath.Join(modeltest.TinyChat(t), name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = data
	}
	return files
}

func tinyTokenizer(t testing.TB) generate.Tokenizer {
	t.Helper()
	tokenizer, err := openGenAI(t).Tokenizer(tinyFiles(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tokenizer.Close)
	return tokenizer
}

const question = `[{"role":"user","content":"What is the capital of France?"}]`

func TestTokenizer(t *testing.T) {
	tok := tinyTokenizer(t)
	prompt, err := tok.Template(question)
	if want := "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"; err != nil || prompt != want {
		t.Fatalf("got %q, %v", prompt, err)
	}
	tokens, err := tok.Encode("<|im_start|>user\nGrüße 🐒<|im_end|>")
	want := []int32{1}
	for _, b := range []byte("user\nGrüße 🐒") {
		want = append(want, int32(b)+3)
	}
	if want = append(want, 2); err != nil || len(tokens) != len(want) {
		t.Fatalf("got %v, %v; want %d tokens", tokens, err, len(want))
	}
	if empty, err := tok.Encode(""); err != nil || len(empty) != 0 {
		t.Errorf("nothing: %v, %v", empty, err)
	}
	stream, err := tok.Stream()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	var parts []string
	for _, token := range tokens {
		part, err := stream.Add(token)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, part)
	}
	if text := strings.Join(parts, ""); text != "user\nGrüße 🐒" {
		t.Errorf("got %q", parts)
	}
	if len(parts) != len(tokens) || slices.Contains(parts, "\ufffd") {
		t.Errorf("a character that is not complete was given: %q", parts)
	}
}

func TestNUL(t *testing.T) {
	tok := tinyTokenizer(t)
	if _, err := tok.Encode("a\x00b"); err == nil || err.Error() != "a NUL character has no tokens" {
		t.Errorf("got %v", err)
	}
	if _, err := tok.Template(`[{"role":"user","content":"a\u0000b"}]`); err == nil || err.Error() != "a NUL character has no tokens" {
		t.Errorf("got %v", err)
	}
	if prompt, err := tok.Template(`[{"role":"user","content":"a\\u0000b"}]`); err != nil || !strings.Contains(prompt, `a\u0000b`) {
		t.Errorf("got %q, %v", prompt, err)
	}
}

// TestStreamOfAnything adds tokens that make no text: unknown ones, special ones, bytes that are no UTF-8.
func TestStreamOfAnything(t *testing.T) {
	tok := tinyTokenizer(t)
	stream, err := tok.Stream()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	text := ""
	for token := int32(-300); token < 600; token++ {
		part, err := stream.Add(token)
		if err != nil {
			t.Fatalf("token %d: %v", token, err)
		}
		if !utf8.ValidString(part) {
			t.Errorf("token %d: got %q", token, part)
		}
		text += part
	}
	ascii := make([]byte, 127)
	for i := range ascii {
		ascii[i] = byte(i + 1) // not NUL: its text is none
	}
	if text != string(ascii) {
		t.Errorf("got %q", text)
	}
}

func TestTemplateRefuses(t *testing.T) {
	files := tinyFiles(t)
	setTemplate(t, files, "{% if messages[0]['role'] != 'user' %}{{ raise_exception('roles must alternate user/assistant') }}{% endif %}x")
	tok, err := openGenAI(t).Tokenizer(files)
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	if prompt, err := tok.Template(question); err != nil || prompt != "x" {
		t.Errorf("got %q, %v", prompt, err)
	}
	_, err = tok.Template(strings.Replace(question, `"user"`, `"tool"`, 1))
	if err == nil || !strings.Contains(err.Error(), "roles must alternate user/assistant") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

// setTemplate writes a chat template where the library looks for it first.
func setTemplate(t testing.TB, files map[string][]byte, template string) {
	t.Helper()
	var config map[string]any
	if err := json.Unmarshal(files["tokenizer_config.json"], &config); err != nil {
		t.Fatal(err)
	}
	config["chat_template"] = template
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	files["tokenizer_config.json"] = data
	files["chat_template.jinja"] = []byte(template)
}

func TestTokenizerRefused(t *testing.T) {
	g := openGenAI(t)
	for name, change := range map[string]func(map[string][]byte){
		"no tokenizer.json":        func(f map[string][]byte) { delete(f, "tokenizer.json") },
		"no tokenizer_config.json": func(f map[string][]byte) { delete(f, "tokenizer_config.json") },
		"not JSON":                 func(f map[string][]byte) { f["tokenizer.json"] = []byte("{") },
		"no model":                 func(f map[string][]byte) { f["tokenizer.json"] = []byte("{}") },
	} {
		files := tinyFiles(t)
		change(files)
		directory := t.TempDir()
		t.Setenv("TMPDIR", directory)
		tok, err := g.Tokenizer(files)
		if err == nil {
			tok.Close()
			t.Errorf("%s: it was made", name)
			continue
		}
		if strings.ContainsAny(err.Error(), "\n/") {
			t.Errorf("%s: got %v", name, err)
		}
		if left, err := os.ReadDir(directory); err != nil || len(left) > 0 {
			t.Errorf("%s: %d temporary directories are left, %v", name, len(left), err)
		}
	}
}

// TestTokenizerSideBySide uses one tokenizer from many goroutines at once; each must get what it gets alone. Memory stays as it is.
func TestTokenizerSideBySide(t *testing.T) {
	tok := tinyTokenizer(t)
	texts := make([]string, 16)
	alone := make([]string, len(texts))
	use := func(i int) string {
		prompt, err := tok.Template(fmt.Sprintf(`[{"role":"user","content":%q}]`, texts[i]))
		if err != nil {
			return err.Error()
		}
		tokens, err := tok.Encode(prompt)
		if err != nil {
			return err.Error()
		}
		stream, err := tok.Stream()
		if err != nil {
			return err.Error()
		}
		defer stream.Close()
		var b strings.Builder
		for _, token := range tokens {
			part, err := stream.Add(token)
			if err != nil {
				return err.Error()
			}
			b.WriteString(part)
		}
		return fmt.Sprint(len(tokens), b.String())
	}
	for i := range texts {
		texts[i] = strings.Repeat(fmt.Sprintf("Größe %d 🐒 ", i), 1+i)
		alone[i] = use(i)
		if !strings.Contains(alone[i], texts[i]) {
			t.Fatalf("got %q", alone[i])
		}
	}
	work := func(rounds int) {
		var group sync.WaitGroup
		for i := range texts {
			group.Go(func() {
				for range rounds {
					if got := use(i); got != alone[i] {
						t.Errorf("got %.80q, alone %.80q", got, alone[i])
						return
					}
				}
			})
		}
		group.Wait()
	}
	work(50)
	before := resident(t)
	work(625) // 10,000 in all
	if grown := resident(t) - before; grown > 8<<20 {
		t.Errorf("10,000 prompts and streams left %d KiB", grown>>10)
	}
}

// resident is how much memory the process holds.
func resident(t testing.TB) int64 {
	t.Helper()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// A vocabulary may lack bytes: SmolLM2's lacks 21 of them.
func TestBytesWithoutATokenAreLeftOut(t *testing.T) {
	files := tinyFiles(t)
	var document map[string]any
	if err := json.Unmarshal(files["tokenizer.json"], &document); err != nil {
		t.Fatal(err)
	}
	vocabulary := document["model"].(map[string]any)["vocab"].(map[string]any)
	if _, ok := vocabulary["\u0104"]; !ok {
		t.Fatal("byte 4 has another name")
	}
	delete(vocabulary, "\u0104")
	changed, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	files["tokenizer.json"] = changed
	tokenizer, err := openGenAI(t).Tokenizer(files)
	if err != nil {
		t.Fatal(err)
	}
	defer tokenizer.Close()
	for text, want := range map[string][]int32{"a\x04b": {100, 101}, "\x04": {}} {
		if tokens, err := tokenizer.Encode(text); err != nil || !slices.Equal(tokens, want) {
			t.Errorf("%q: got %v, %v", text, tokens, err)
		}
	}
}
