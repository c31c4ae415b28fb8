// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strings"
	"unicode"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
)

// prompt is what a request gives a generator to continue.
type prompt struct {
	messages string // a JSON list of {"role","content"} for the chat template; empty where the prompt is raw
	raw      string // the text itself, without a template
	said     string // the contents of the messages, one after the other
}

// readPrompt makes a prompt of a request's features. conformance/generate/prompts.json has its rules and words as data, for both servers.
func readPrompt(features map[string]*inferencev1.FeatureValue) (prompt, *fault.Fault) {
	if f := checkFeatures(features); f != nil {
		return prompt{}, f
	}
	text, messages := features["prompt"].GetStringValue(), features["messages"].GetStringValue()
	system, raw := features["system"].GetStringValue(), features["raw"].GetBoolValue()
	for _, name := range []string{"prompt", "system"} {
		if strings.Contains(features[name].GetStringValue(), "\x00") {
			return prompt{}, badPrompt(name, noNUL)
		}
	}
	switch {
	case text == "" && messages == "":
		return prompt{}, badPrompt("prompt", `expected a text, or the feature "messages", got neither`)
	case text != "" && messages != "":
		return prompt{}, badPrompt("messages", `expected it or the feature "prompt", got both`)
	case raw && messages != "":
		return prompt{}, badPrompt("raw", `expected false beside the feature "messages", got true`)
	case raw && system != "":
		return prompt{}, badPrompt("raw", `expected false beside the feature "system", got true`)
	case raw:
		return prompt{raw: text}, nil
	}
	said := []message{{"user", text}}
	if messages != "" {
		var wrong string
		if said, wrong = readMessages(messages); wrong != "" {
			return prompt{}, badPrompt("messages", "%s", wrong)
		}
	}
	if system != "" {
		for i, m := range said {
			if m.role == "system" {
				return prompt{}, badPrompt("system", `expected no system message in the feature "messages" beside it, got message %d`, i)
			}
		}
		said = append([]message{{"system", system}}, said...)
	}
	contents := make([]string, len(said))
	for i, m := range said {
		contents[i] = m.content
	}
	return prompt{messages: writeMessages(said), said: strings.Join(contents, "\n")}, nil
}

const (
	// tokenBytes is more than nearly every token of a prompt has: a text of so many for each token of the context is too long, and not worth a
	// tokenizer's time.
	tokenBytes = 64
	// longestWord is the most characters of one kind in a row: what a tokenizer takes for one word costs it the square of its length.
	longestWord = 4096
)

// checkText finds what a tokenizer must not be given: once it has begun nothing ends it.
func checkText(text string, context int) *fault.Fault {
	if len(text) > tokenBytes*context {
		return promptFault(fault.PromptTooLong, "prompt", "expected at most %d tokens, the chat template's included, got a text of %d bytes", context-1, len(text))
	}
	const blank = 0
	before, run := blank, 0
	for _, r := range text {
		kind := 3
		switch {
		case unicode.IsSpace(r):
			kind = blank
		case unicode.IsLetter(r):
			kind = 1
		case unicode.IsNumber(r):
			kind = 2
		}
		if kind != before {
			before, run = kind, 0
		}
		if run++; kind != blank && run > longestWord {
			return badPrompt("prompt", "expected at most %d letters, digits or signs in a row, got more", longestWord)
		}
	}
	return nil
}

// tokens are the prompt's, at least one; with one more they fit into the context.
func (p prompt) tokens(tokenizer Tokenizer, context int) ([]int32, *fault.Fault) {
	name, text := "prompt", p.raw
	if p.messages != "" {
		if f := checkText(p.said, context); f != nil {
			return nil, f
		}
		var err error
		if text, err = tokenizer.Template(p.messages); err != nil {
			return nil, badPrompt("messages", "the model's chat template refuses it: %s", fault.Scrub(err.Error()))
		}
	}
	if f := checkText(text, context); f != nil {
		return nil, f
	}
	tokens, err := tokenizer.Encode(text)
	switch {
	case err != nil:
		return nil, badPrompt(name, "the model's tokenizer refuses it: %s", fault.Scrub(err.Error()))
	case len(tokens) == 0:
		return nil, badPrompt(name, "expected at least one token, got none")
	case len(tokens) >= context:
		return nil, promptFault(fault.PromptTooLong, name, "expected at most %d tokens, the chat template's included, got %d", context-1, len(tokens))
	}
	return tokens, nil
}

// checkFeatures finds what is wrong with the features by themselves, as any model's: the generator's own in their order, then unknown names.
func checkFeatures(features map[string]*inferencev1.FeatureValue) *fault.Fault {
	var found []fault.Violation
	known := map[string]bool{}
	for _, feature := range Features() {
		name := feature.GetName()
		known[name] = true
		value, given := features[name]
		if !given {
			continue
		}
		expected := "a string"
		_, fits := value.GetValue().(*inferencev1.FeatureValue_StringValue)
		if feature.GetType() == inferencev1.FeatureType_FEATURE_TYPE_BOOL {
			expected = "a bool"
			_, fits = value.GetValue().(*inferencev1.FeatureValue_BoolValue)
		}
		if !fits {
			found = append(found, violation(fault.FeatureTypeMismatch, name, "expected %s, got %s", expected, kind(value)))
		}
	}
	var unknown []string
	for name := range features {
		if !known[name] {
			unknown = append(unknown, name)
		}
	}
	sort.Strings(unknown)
	total := len(found) + len(unknown)
	if total == 0 {
		return nil
	}
	for _, name := range unknown[:min(len(unknown), fault.MaxViolations)] {
		found = append(found, violation(fault.FeatureUnknown, name, "the model has no such feature"))
	}
	return fault.FromViolations(found, total)
}

// kind is what a value holds, in a message.
func kind(value *inferencev1.FeatureValue) string {
	if value == nil {
		return "no value"
	}
	set := value.ProtoReflect().WhichOneof(value.ProtoReflect().Descriptor().Oneofs().ByName("value"))
	if set == nil {
		return "no value"
	}
	return string(set.Name())
}

func badPrompt(name, format string, args ...any) *fault.Fault {
	return promptFault(fault.PromptInvalid, name, format, args...)
}

func promptFault(reason fault.Reason, name, format string, args ...any) *fault.Fault {
	return fault.FromViolations([]fault.Violation{violation(reason, name, format, args...)}, 1)
}

func violation(reason fault.Reason, name, format string, args ...any) fault.Violation {
	quoted := fault.Quote(name)
	return fault.Violation{
		Reason: reason, Field: "features[" + quoted + "]", Message: "feature " + quoted + ": " + fmt.Sprintf(format, args...),
	}
}

// message is one of a conversation.
type message struct{ role, content string }

const (
	noNUL = "expected a text without NUL characters, got one"

	// deepest is how many lists and objects of messages may be in one another: two are right, and libraries have limits of their own.
	deepest = 16
)

// readMessages reads a JSON list of messages, or says what is wrong with it.
func readMessages(text string) (said []message, wrong string) {
	const list = `expected a JSON list of {"role", "content"}, got `
	if tooDeep(text) {
		return nil, fmt.Sprintf(list+"one that is nested more than %d deep", deepest)
	}
	if !json.Valid([]byte(text)) {
		return nil, list + "no JSON"
	}
	var elements []json.RawMessage
	if text = strings.TrimLeft(text, " \t\r\n"); text[0] != '[' {
		return nil, list + jsonKind(text[0])
	}
	if err := json.Unmarshal([]byte(text), &elements); err != nil {
		return nil, list + "no JSON"
	}
	if len(elements) == 0 {
		return nil, "expected at least one message, got none"
	}
	for i, element := range elements {
		m, wrong := readMessage(element)
		if wrong != "" {
			return nil, fmt.Sprintf("message %d: %s", i, wrong)
		}
		said = append(said, m)
	}
	return said, ""
}

// readMessage reads one element of the list, which is JSON.
func readMessage(element json.RawMessage) (m message, wrong string) {
	if element[0] != '{' {
		return m, `expected {"role", "content"}, got ` + jsonKind(element[0])
	}
	decoder := json.NewDecoder(bytes.NewReader(element))
	_, _ = decoder.Token() // the brace: it is valid JSON, so nothing below fails
	seen := map[string]bool{}
	for decoder.More() {
		key, _ := decoder.Token()
		name, _ := key.(string)
		var value json.RawMessage
		_ = decoder.Decode(&value)
		quoted := fault.Quote(name)
		if seen[name] {
			return m, quoted + " is there twice"
		}
		seen[name] = true
		into := map[string]*string{"role": &m.role, "content": &m.content}[name]
		switch {
		case into == nil:
			return m, `expected nothing but "role" and "content", got ` + quoted
		case value[0] != '"':
			return m, quoted + ": expected a text, got " + jsonKind(value[0])
		}
		_ = json.Unmarshal(value, into)
		if strings.Contains(*into, "\x00") {
			return m, quoted + ": " + noNUL
		}
	}
	switch {
	case !seen["role"]:
		return m, `expected "role", got nothing`
	case !seen["content"]:
		return m, `expected "content", got nothing`
	case m.role == "":
		return m, `"role": expected at least one character, got none`
	}
	return m, ""
}

// jsonKind is what a JSON value is that begins so.
func jsonKind(first byte) string {
	switch first {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		return "a text"
	case 't', 'f':
		return "a bool"
	case 'n':
		return "null"
	default:
		return "a number"
	}
}

// tooDeep tells whether more than deepest lists and objects are in one another.
func tooDeep(text string) bool {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '"':
			for i++; i < len(text) && text[i] != '"'; i++ {
				if text[i] == '\\' {
					i++
				}
			}
		case '[', '{':
			if depth++; depth > deepest {
				return true
			}
		case ']', '}':
			depth--
		}
	}
	return false
}

// writeMessages is a conversation as JSON.
func writeMessages(said []message) string {
	var b strings.Builder
	for i, m := range said {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"role":`)
		writeText(&b, m.role)
		b.WriteString(`,"content":`)
		writeText(&b, m.content)
		b.WriteString("}")
	}
	return "[" + b.String() + "]"
}

var shortEscapes = map[byte]string{'"': `\"`, '\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\b': `\b`, '\f': `\f`}

// writeText writes a text as JSON has it, with no more escapes than needed.
func writeText(b *strings.Builder, text string) {
	b.WriteByte('"')
	from := 0
	for i := range len(text) {
		c := text[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b.WriteString(text[from:i])
		from = i + 1
		if short, ok := shortEscapes[c]; ok {
			b.WriteString(short)
		} else {
			fmt.Fprintf(b, `\u%04x`, c)
		}
	}
	b.WriteString(text[from:])
	b.WriteByte('"')
}
