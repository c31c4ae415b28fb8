// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const folder = "../../../conformance/admission"

// TestVerdicts holds the shared graphs against the verdicts that stand beside them.
func TestVerdicts(t *testing.T) {
	verdicts, err := os.ReadFile(filepath.Join(folder, "verdicts.txt"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(verdicts)), "\n")
	graphs, err := filepath.Glob(filepath.Join(folder, "*.onnx"))
	if err != nil || len(graphs) != len(lines) {
		t.Fatalf("%d graphs and %d verdicts (%v)", len(graphs), len(lines), err)
	}
	for _, line := range lines {
		name, want, _ := strings.Cut(line, ": ")
		t.Run(name, func(t *testing.T) {
			graph, err := os.ReadFile(filepath.Join(folder, name+".onnx"))
			if err != nil {
				t.Fatal(err)
			}
			got := "admitted"
			if err := Check(graph, Options{ExternalFiles: map[string]bool{"model.onnx.data": true}}); err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestIntegerDivisionCanBeAdmitted(t *testing.T) {
	graph, err := os.ReadFile(filepath.Join(folder, "divide-int32-by-input.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(graph, Options{IntegerDivision: true}); err != nil {
		t.Error(err)
	}
}

func FuzzCheck(f *testing.F) {
	graphs, _ := filepath.Glob(filepath.Join(folder, "*.onnx"))
	for _, path := range graphs {
		graph, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(graph)
	}
	f.Fuzz(func(t *testing.T, graph []byte) {
		if err := Check(graph, Options{}); err != nil && !strings.HasPrefix(err.Error(), "model.onnx: ") {
			t.Errorf("a refusal without its subject: %v", err)
		}
	})
}
