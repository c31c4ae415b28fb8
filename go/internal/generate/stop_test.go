// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"slices"
	"strings"
	"testing"
)

func TestStops(t *testing.T) {
	var cases []struct {
		Tokens, Stops []string
		Steps         [][]string
		Stopped       bool
		Rest          []string
	}
	readVectors(t, "stops.json", &cases)
	if len(cases) < 400 {
		t.Fatalf("%d cases", len(cases))
	}
	for _, c := range cases {
		s := newStops(c.Stops)
		delivered := 0
		check := func(got []Token, want []string) {
			t.Helper()
			if len(got) != len(want) {
				t.Fatalf("%q %q: got %q, want %q", c.Tokens, c.Stops, got, want)
			}
			for i, token := range got {
				if token.Text != want[i] || token.ID != int32(delivered) {
					t.Fatalf("%q %q: got %q, want %q", c.Tokens, c.Stops, got, want)
				}
				delivered++
			}
		}
		for i, want := range c.Steps {
			free, stopped := s.add(Token{ID: int32(i), Text: c.Tokens[i]})
			check(free, want)
			if stopped != (c.Stopped && i == len(c.Steps)-1) {
				t.Fatalf("%q %q: stopped at %d", c.Tokens, c.Stops, i)
			}
		}
		check(s.rest(), c.Rest)
		if len(s.rest()) != 0 {
			t.Fatalf("%q %q: more than the rest", c.Tokens, c.Stops)
		}
	}
}

// FuzzStops holds what is delivered against the whole text.
func FuzzStops(f *testing.F) {
	f.Add("abcabcabd", "abcabd|bca", uint16(0b1010))
	f.Add("aaaaaaab", "aab", uint16(0xffff))
	f.Add("日本語🐒", "語🐒|x", uint16(3))
	f.Fuzz(func(t *testing.T, text, stops string, borders uint16) {
		if strings.ToValidUTF8(text, "") != text || strings.ToValidUTF8(stops, "") != stops {
			return
		}
		texts := slices.DeleteFunc(strings.Split(stops, "|"), func(s string) bool { return s == "" })
		s := newStops(texts)
		var delivered strings.Builder
		took, count, ended := 0, 0, false
		give := func(tokens []Token) {
			for _, token := range tokens {
				if token.ID != int32(count) {
					t.Fatalf("token %d at %d", token.ID, count)
				}
				count++
				delivered.WriteString(token.Text)
			}
		}
		id := int32(0)
		rest := []rune(text)
		for len(rest) > 0 && !ended {
			n := 1
			for n < len(rest) && borders>>(n%16)&1 == 0 {
				n++
			}
			token := string(rest[:n])
			rest = rest[n:]
			took += len(token)
			var free []Token
			free, ended = s.add(Token{ID: id, Text: token})
			id++
			give(free)
		}
		if !ended {
			give(s.rest())
		}
		// The first end of a stop text in the whole, and the longest that ends there.
		end, longest := -1, 0
		for at := 1; at <= len(text) && end < 0; at++ {
			for _, stop := range texts {
				if strings.HasSuffix(text[:at], stop) {
					end, longest = at, max(longest, len(stop))
				}
			}
		}
		want := text
		if end >= 0 {
			want = text[:end-longest]
		}
		if ended != (end >= 0) || ended && took < end || delivered.String() != want || count != int(id) {
			t.Fatalf("%q %q: got %q (ended: %t), %d of %d tokens, want %q", text, texts, delivered.String(), ended, count, id, want)
		}
	})
}

// A stop text that is longer than anything generated costs no more than what is generated.
func TestStopLong(t *testing.T) {
	s := newStops([]string{strings.Repeat("a", 1<<24) + "b", strings.Repeat("ab", 1<<20)})
	for i := range 2000 {
		if free, stopped := s.add(Token{ID: int32(i), Text: "aaaa"}); len(free) > 0 || stopped {
			t.Fatal("something was delivered")
		}
	}
	if got := len(s.rest()); got != 2000 {
		t.Errorf("%d tokens are left", got)
	}
	for i := range s.texts {
		if n := len(s.texts[i].border); n > 8002 {
			t.Errorf("%d borders for 8000 bytes", n)
		}
	}
}
