// SPDX-License-Identifier: Apache-2.0

package ort

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestPlaces holds the places in api.c against ONNX Runtime's own header, which another binding carries.
func TestPlaces(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/yalue/onnxruntime_go").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, out)
	}
	header, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "onnxruntime_c_api.h"))
	if err != nil {
		t.Fatal(err)
	}
	places := headerPlaces(t, string(header))
	source, err := os.ReadFile("api.c")
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile("table.h")
	if err != nil {
		t.Fatal(err)
	}
	used := regexp.MustCompile(`PLACE\((\d+), (\w+)\);`).FindAllStringSubmatch(string(source), -1)
	declared := strings.Count(string(table[strings.Index(string(table), "struct concord_table {"):strings.Index(string(table), "\n};")+1]), ";\n")
	if len(used) == 0 || len(used) != declared {
		t.Fatalf("%d functions are placed, %d declared", len(used), declared)
	}
	for _, use := range used {
		if want, ok := places[use[2]]; !ok || strconv.Itoa(want) != use[1] {
			t.Errorf("%s: the header has place %d, api.c %s", use[2], want, use[1])
		}
	}
	if !strings.Contains(string(header), "#define ORT_API_VERSION 24\n") || !strings.Contains(string(source), "#define API_VERSION 24\n") {
		t.Error("the header and api.c are not of the same version")
	}
}

// headerPlaces numbers the members of struct OrtApi.
func headerPlaces(t *testing.T, header string) map[string]int {
	t.Helper()
	_, body, ok := strings.Cut(header, "struct OrtApi {")
	if !ok {
		t.Fatal("the header has no struct OrtApi")
	}
	body = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`).ReplaceAllString(body, "")
	body, _, _ = strings.Cut(body, "\n};")
	names := []*regexp.Regexp{
		regexp.MustCompile(`ORT_API2_STATUS\(\s*(\w+)`),
		regexp.MustCompile(`ORT_API_T\([^,]+,\s*(\w+)`),
		regexp.MustCompile(`\(\s*ORT_API_CALL\s*\*\s*(\w+)`),
	}
	release := regexp.MustCompile(`ORT_CLASS_RELEASE\(\s*(\w+)`)
	places := map[string]int{}
	for _, member := range strings.Split(body, ";") {
		if strings.TrimSpace(member) == "" {
			continue
		}
		name := ""
		if m := release.FindStringSubmatch(member); m != nil {
			name = "Release" + m[1]
		}
		for _, pattern := range names {
			if m := pattern.FindStringSubmatch(member); m != nil && name == "" {
				name = m[1]
			}
		}
		if name == "" {
			t.Fatalf("member without a name: %s", member)
		}
		places[name] = len(places)
	}
	return places
}
