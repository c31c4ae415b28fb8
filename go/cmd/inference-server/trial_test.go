// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/hex"
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

// hostile is a case of conformance/admission/generators.json: what a package is changed to, and why it is then refused, as a pattern of the whole
// reason; empty where it is admitted.
type hostile struct {
	Name, Refused string
	Brief         bool // it would take as long as it may
	// A chat template in the place of the package's own; empty leaves none.
	Template *[]part
	// A file whose text Old becomes New, or that is New as a whole.
	File string
	Old  string
	New  []part
}

type part struct {
	Text  string
	Times int
	Hex   string
}

func content(t *testing.T, parts []part) (data []byte) {
	for _, p := range parts {
		raw, err := hex.DecodeString(p.Hex)
		if err != nil {
			t.Fatal(err)
		}
		data = append(data, raw...)
		data = append(data, strings.Repeat(p.Text, max(1, p.Times))...)
	}
	return data
}

func (c hostile) spoil(t *testing.T, files map[string][]byte) {
	switch {
	case c.Template != nil:
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
		if template := content(t, *c.Template); len(template) > 0 {
			files["chat_template.jinja"] = template
		}
	case c.Old != "":
		if !bytes.Contains(files[c.File], []byte(c.Old)) {
			t.Fatalf("%s has no %s", c.File, c.Old)
		}
		files[c.File] = bytes.Replace(files[c.File], []byte(c.Old), content(t, c.New), 1)
	case c.File != "":
		files[c.File] = content(t, c.New)
	}
}

// TestHostileGenerators has each kind of bad tokenizer, template and settings refused with a clear reason, by a child of its own.
func TestHostileGenerators(t *testing.T) {
	data, err := os.ReadFile("../../../conformance/admission/generators.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []hostile
	if err := json.Unmarshal(data, &cases); err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			m := tinyChat(t)
			c.spoil(t, m.Generator.Files)
			timeout := time.Minute
			if c.Brief {
				timeout = time.Second
			}
			got := ""
			if err := admit(t, m, timeout); err != nil {
				got = err.Error()
			}
			if !regexp.MustCompile("^(" + c.Refused + ")$").MatchString(got) {
				t.Errorf("got %q, want %s", got, c.Refused)
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
