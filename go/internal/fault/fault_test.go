// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
)

// TestReasons holds the constants against the contract's enum: none is missing, none is extra.
func TestReasons(t *testing.T) {
	ours := map[Reason]bool{}
	for _, reason := range []Reason{
		ModelNotFound, VersionNotFound, LabelNotFound, ModelIDInvalid, ModelVersionInvalid, FeatureMissing, FeatureUnknown,
		FeatureTypeMismatch, FeatureShapeMismatch, FeatureOutOfRange, TensorMissing, TensorUnknown, TensorDTypeMismatch,
		TensorShapeMismatch, TensorDataInvalid, OutputUnknown, ConfigInvalid, BatchEmpty, BatchTooLarge, RequestMalformed,
		MethodNotSupported, ModelFailed, ModelLoading, ServerDraining, QueueFull, MessageTooLarge, OutputTooLarge, StreamLimit,
		DeadlineExceeded, Cancelled, Unauthenticated, PermissionDenied, ModelExecutionFailed, Internal, MethodUnimplemented,
		ServiceNotFound, VersionExists, LabelInvalid, StagingUnset, PromptTooLong, PromptInvalid,
	} {
		ours[reason] = true
	}
	for number, name := range inferencev1.ErrorReason_name {
		if number != 0 && !ours[Reason(strings.TrimPrefix(name, "ERROR_REASON_"))] {
			t.Errorf("%s is missing", name)
		}
	}
	if len(ours) != len(inferencev1.ErrorReason_name)-1 {
		t.Errorf("%d reasons, the contract has %d", len(ours), len(inferencev1.ErrorReason_name)-1)
	}
}

func TestQuote(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  `""`,
		"mean radius":                       `"mean radius"`,
		"a\"b\\c":                           `"a\"b\\c"`,
		"\n\r\t\b\f\x00\x1f\x7f":            `"\n\r\t\b\f\u0000\u001f` + "\x7f\"",
		"<&>\u2028":                         "\"<&>\u2028\"",
		strings.Repeat("ß", 64):             `"` + strings.Repeat("ß", 64) + `"`,
		strings.Repeat("ß", 65):             `"` + strings.Repeat("ß", 64) + `"...`,
		strings.Repeat("x", 1<<20) + "hide": `"` + strings.Repeat("x", 64) + `"...`,
	} {
		if got := Quote(text); got != want {
			t.Errorf("%.20q: got %s, want %s", text, got, want)
		}
	}
	if got := Shown(strings.Repeat("1", 65)); got != strings.Repeat("1", 64)+"..." {
		t.Errorf("got %s", got)
	}
}

func FuzzQuote(f *testing.F) {
	for _, seed := range []string{"", "a/b", "\x00\"", strings.Repeat("界", 80), "\xff\xfe"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		quoted := Quote(text)
		if utf8.RuneCountInString(text) > 64 || !utf8.ValidString(text) {
			return
		}
		var back string
		if err := json.Unmarshal([]byte(quoted), &back); err != nil || back != text {
			t.Errorf("%q became %s, which reads %q (%v)", text, quoted, back, err)
		}
	})
}

func TestScrub(t *testing.T) {
	for message, want := range map[string]string{
		"indices element out of data bounds, idx=7": "indices element out of data bounds, idx=7",
		"at /build/onnx/gather.cc:12 failed":        "at <...> failed",
		`in C:\models\x.onnx now`:                   "in <...> now",
		"pointer 0x7fFF12 is null":                  "pointer <...> is null",
		"  two\n\nlines\t":                          "two lines",
		"\xff":                                      "?",
		strings.Repeat("long ", 100):                strings.Repeat("long ", 60),
	} {
		if got := Scrub(message); got != want {
			t.Errorf("%q: got %q, want %q", message, got, want)
		}
	}
}

func TestFromViolations(t *testing.T) {
	violations := make([]Violation, 20)
	for i := range violations {
		violations[i] = Violation{FeatureMissing, fmt.Sprint(i), fmt.Sprint("message ", i)}
	}
	f := FromViolations(violations, 30)
	if f.Reason != FeatureMissing || f.Message != "message 0 (and 29 more)" || len(f.Violations) != MaxViolations {
		t.Errorf("got %+v", f)
	}
	if f := FromViolations(violations[:1], 1); f.Message != "message 0" {
		t.Errorf("got %q", f.Message)
	}
}

func TestFrom(t *testing.T) {
	f := New(ModelNotFound, "model %s not found", Quote("x")).At("x", "")
	if got := From(fmt.Errorf("wrapped: %w", f)); got != f {
		t.Errorf("got %v", got)
	}
	if again := f.At("y", "2"); again.ModelID != "x" {
		t.Errorf("a named model was renamed: %+v", again)
	}
	secret := errors.New("secret")
	hidden := From(secret)
	if hidden.Reason != Internal || hidden.Error() != "internal error" || !errors.Is(hidden, secret) {
		t.Errorf("got %+v", hidden)
	}
}
