// SPDX-License-Identifier: Apache-2.0

package modeltest

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// GenAILibrary is the path of onnxruntime-genai, beside ONNX Runtime.
func GenAILibrary(t testing.TB) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(Library(t)), "libonnxruntime-genai.so")
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no onnxruntime-genai at %s: run `make build`", path)
	}
	return path
}

// TinyChat is the directory of the exported package models/tiny-chat/1, or the one that CONCORD_TINY_CHAT names.
func TinyChat(t testing.TB) string {
	t.Helper()
	path := os.Getenv("CONCORD_TINY_CHAT")
	if path == "" {
		_, here, _, _ := runtime.Caller(0)
		path = filepath.Join(filepath.Dir(here), "../../../models/tiny-chat/1")
	}
	if _, err := os.Stat(filepath.Join(path, "model.onnx")); err != nil {
		t.Fatalf("no tiny-chat at %s: run `make fitted-models`, or set CONCORD_TINY_CHAT", path)
	}
	return path
}
