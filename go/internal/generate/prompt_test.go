// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"google.golang.org/protobuf/encoding/protojson"
)

func TestReadPrompt(t *testing.T) {
	data, err := os.ReadFile("../../../conformance/generate/prompts.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Features      json.RawMessage
		Messages, Raw string
		Violations    []fault.Violation
		More          int
	}
	if err := json.Unmarshal(data, &cases); err != nil || len(cases) < 100 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, c := range cases {
		var request inferencev1.PredictRequest
		if err := protojson.Unmarshal(fmt.Appendf(nil, `{"features":%s}`, c.Features), &request); err != nil {
			t.Fatal(err)
		}
		got, f := readPrompt(request.GetFeatures())
		if len(c.Violations) == 0 {
			if f != nil || got.messages != c.Messages || got.raw != c.Raw {
				t.Errorf("%.200s: got %+v (%v), want %q %q", c.Features, got, f, c.Messages, c.Raw)
			}
			continue
		}
		if want := fault.FromViolations(c.Violations, len(c.Violations)+c.More); f == nil || f.Reason != want.Reason || f.Message != want.Message || fmt.Sprint(f.Violations) != fmt.Sprint(want.Violations) {
			t.Errorf("%.200s: got %+v, want %+v", c.Features, f, want)
		}
	}
}

// refusing is a tokenizer with a token for each byte, that refuses what it is told to.
type refusing struct {
	Tokenizer
	template, encode error
}

func (r refusing) Template(messages string) (string, error) { return messages, r.template }

func (r refusing) Encode(text string) ([]int32, error) { return make([]int32, len(text)), r.encode }

func TestPromptTokens(t *testing.T) {
	for _, c := range []struct {
		p         prompt
		tokenizer refusing
		context   int
		tokens    int
		reason    fault.Reason
		want      string
	}{
		{prompt{raw: "abc"}, refusing{}, 4, 3, "", ""},
		{prompt{messages: "abc"}, refusing{}, 4, 3, "", ""},
		{prompt{raw: "abcd"}, refusing{}, 4, 0, fault.PromptTooLong, `feature "prompt": expected at most 3 tokens, the chat template's included, got 4`},
		{prompt{messages: "abcde"}, refusing{}, 4, 0, fault.PromptTooLong, `feature "prompt": expected at most 3 tokens, the chat template's included, got 5`},
		{prompt{}, refusing{}, 4, 0, fault.PromptInvalid, `feature "prompt": expected at least one token, got none`},
		{
			prompt{messages: "a"}, refusing{template: errors.New("no\nsuch role in /tmp/x")}, 4, 0, fault.PromptInvalid,
			`feature "messages": the model's chat template refuses it: no such role in <...>`,
		},
		{prompt{raw: "a"}, refusing{encode: errors.New("bad")}, 4, 0, fault.PromptInvalid, `feature "prompt": the model's tokenizer refuses it: bad`},
	} {
		got, f := c.p.tokens(c.tokenizer, c.context)
		if len(got) != c.tokens || (f == nil) != (c.want == "") || f != nil && (f.Message != c.want || f.Reason != c.reason) {
			t.Errorf("%+v: got %v, %v", c, got, f)
		}
	}
}

// FuzzMessages: what is accepted is JSON that says the same again, and means what any reader of JSON finds in it.
func FuzzMessages(f *testing.F) {
	f.Add(`[{"role":"user","content":"Hi"}]`)
	f.Add(` [{"content":"\ud83d\ude00\n","role":"x"},{"role":"\"","content":""}]`)
	f.Add(`[[[[`)
	f.Fuzz(func(t *testing.T, text string) {
		if !utf8.ValidString(text) {
			return
		}
		said, wrong := readMessages(text)
		if wrong != "" {
			if said != nil {
				t.Fatalf("%q: both", text)
			}
			return
		}
		written := writeMessages(said)
		again, wrong := readMessages(written)
		if wrong != "" || writeMessages(again) != written || strings.ContainsRune(written, 0) {
			t.Fatalf("%q became %q: %s", text, written, wrong)
		}
		var any []struct{ Role, Content string }
		if err := json.Unmarshal([]byte(written), &any); err != nil || len(any) != len(said) {
			t.Fatalf("%q became %q: %v", text, written, err)
		}
		for i := range any {
			if any[i].Role != said[i].role || any[i].Content != said[i].content {
				t.Fatalf("%q became %q", text, written)
			}
		}
	})
}

// TestTextsNotWorthReading are refused before the tokenizer has them.
func TestTextsNotWorthReading(t *testing.T) {
	const context = 512
	for text, want := range map[string]fault.Reason{
		strings.Repeat(" x", 16384):                                 "",
		strings.Repeat(" x", 16384) + "x":                           fault.PromptTooLong,
		strings.Repeat("é", 4096):                                   "",
		strings.Repeat("é", 4097):                                   fault.PromptInvalid,
		strings.Repeat("7", 4097):                                   fault.PromptInvalid,
		strings.Repeat("_", 4097):                                   fault.PromptInvalid,
		strings.Repeat(" ", 30000):                                  "",
		strings.Repeat("x", 4096) + "1" + strings.Repeat("y", 4096): "",
	} {
		f := checkText(text, context)
		if want == "" && f != nil || want != "" && (f == nil || f.Reason != want) {
			t.Errorf("%.10s... of %d bytes: got %v, want %q", text, len(text), f, want)
		}
	}
}
