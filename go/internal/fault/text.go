// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

const (
	shownCharacters   = 64  // of a name in a message
	runtimeCharacters = 300 // of ONNX Runtime's message
)

// Shown is at most the first 64 characters of a text that came with a request, then "...".
func Shown(text string) string { return first(text, shownCharacters, "...") }

// Quote is Shown, quoted as in JSON.
func Quote(text string) string {
	short := first(text, shownCharacters, "")
	var b strings.Builder
	b.Grow(len(short) + 8)
	b.WriteByte('"')
	for _, r := range short {
		switch r {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		case '\b':
			b.WriteString(`\b`)
		case '\f':
			b.WriteString(`\f`)
		default:
			if r < 0x20 {
				fmt.Fprintf(&b, `\u%04x`, r)
			} else {
				b.WriteRune(r)
			}
		}
	}
	b.WriteByte('"')
	if len(short) < len(text) {
		b.WriteString("...")
	}
	return b.String()
}

var (
	path    = regexp.MustCompile(`[^ \t\r\n]*[/\\][^ \t\r\n]*`)
	address = regexp.MustCompile(`0[xX][0-9a-fA-F]+`)
	breaks  = regexp.MustCompile(`[ \t\r\n]+`)
)

// Scrub makes ONNX Runtime's own message fit for callers: one line, without what looks like a path or an address, and
// at most 300 characters.
func Scrub(message string) string {
	message = path.ReplaceAllString(strings.ToValidUTF8(message, "?"), "<...>")
	message = address.ReplaceAllString(message, "<...>")
	message = strings.Trim(breaks.ReplaceAllString(message, " "), " ")
	return first(message, runtimeCharacters, "")
}

func first(text string, characters int, more string) string {
	if len(text) <= characters {
		return text
	}
	if utf8.RuneCountInString(text) <= characters {
		return text
	}
	n := 0
	for i := range text {
		if n == characters {
			return text[:i] + more
		}
		n++
	}
	return text
}
