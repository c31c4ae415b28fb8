// SPDX-License-Identifier: Apache-2.0

package generate

// stops holds back tokens whose text may belong to a stop text, and finds the first stop text that is complete. docs/sampling.md has the rules.
type stops struct {
	texts  []stopText
	tokens []Token // held back
	window string  // their text
}

func newStops(texts []string) *stops {
	s := &stops{texts: make([]stopText, len(texts))}
	for i, text := range texts {
		s.texts[i].text = text
	}
	return s
}

// add takes the generation's next token and gives those that may be delivered now, in order: often the one, none while it is held back, several when
// it frees others. Stopped is that a stop text is complete, which ends the generation: all tokens are given then, the text cut off before it. Texts
// of tokens are whole characters, so that bytes find what characters would. The tokens are good until the next call.
func (s *stops) add(token Token) (free []Token, stopped bool) {
	s.tokens = append(s.tokens, token)
	if len(s.texts) == 0 {
		return s.rest(), false
	}
	before := len(s.window)
	s.window += token.Text
	for at := before; at < len(s.window); at++ {
		longest := 0
		for i := range s.texts {
			t := &s.texts[i]
			if t.add(s.window[at]) {
				longest = max(longest, len(t.text))
			}
		}
		if longest > 0 {
			cut(s.tokens, at+1-longest)
			return s.rest(), true
		}
	}
	keep := 0
	for i := range s.texts {
		keep = max(keep, s.texts[i].matched)
	}
	if keep == 0 {
		return s.rest(), false
	}
	n, end := 0, 0 // how many tokens end before the text that is kept, and where
	for n < len(s.tokens) && end+len(s.tokens[n].Text) <= len(s.window)-keep {
		end += len(s.tokens[n].Text)
		n++
	}
	free, s.tokens = s.tokens[:n:n], s.tokens[n:]
	s.window = s.window[end:]
	return free, false
}

// rest is what is held back, for the end of a generation without a stop text.
func (s *stops) rest() []Token {
	rest := s.tokens
	s.tokens, s.window = s.tokens[len(s.tokens):], ""
	return rest
}

// cut shortens the text of tokens to so many bytes altogether.
func cut(tokens []Token, left int) {
	for i := range tokens {
		tokens[i].Text = tokens[i].Text[:min(left, len(tokens[i].Text))]
		left -= len(tokens[i].Text)
	}
}

// stopText is one stop text and how much of it the text ends with, by Knuth, Morris and Pratt.
type stopText struct {
	text    string // not empty
	matched int    // the text so far ends with text[:matched], and with no longer beginning
	// border[n] is how long the longest beginning of text[:n] is that also ends it, itself aside. It is found as far as it is needed: a stop text may
	// be longer than anything that is generated.
	border []int32
}

// add takes a byte and tells whether the stop text is complete.
func (t *stopText) add(b byte) bool {
	for t.matched > 0 && (t.matched == len(t.text) || t.text[t.matched] != b) {
		t.matched = t.shorter(t.matched)
	}
	if t.text[t.matched] == b {
		t.matched++
	}
	return t.matched == len(t.text)
}

// shorter is border[n], n at least 1.
func (t *stopText) shorter(n int) int {
	if t.border == nil {
		t.border = append(t.border, 0, 0)
	}
	for have := len(t.border) - 1; have < n; have++ {
		k := int(t.border[have])
		for k > 0 && t.text[k] != t.text[have] {
			k = int(t.border[k])
		}
		if t.text[k] == t.text[have] {
			k++
		}
		t.border = append(t.border, int32(k))
	}
	return int(t.border[n])
}
