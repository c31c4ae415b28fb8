// SPDX-License-Identifier: Apache-2.0

package model

import (
	"strings"

	"github.com/concord-inference/concord/go/internal/fault"
)

const (
	maxIDLength    = 128
	maxLabelLength = 63
)

// IsID tells whether the text is a model id: [A-Za-z0-9][A-Za-z0-9._-]{0,127}.
func IsID(text string) bool {
	if text == "" || len(text) > maxIDLength {
		return false
	}
	for i := range len(text) {
		c := text[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// IsVersion tells whether the text is a version number: a positive integer without leading zeros, of any size.
func IsVersion(text string) bool {
	if text == "" || text[0] == '0' {
		return false
	}
	for i := range len(text) {
		if text[i] < '0' || text[i] > '9' {
			return false
		}
	}
	return true
}

// CompareVersions orders version numbers by value.
func CompareVersions(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

// IsLabel tells whether the text is a label: [a-z][a-z0-9-]{0,62}.
func IsLabel(text string) bool {
	if text == "" || len(text) > maxLabelLength || text[0] < 'a' || text[0] > 'z' {
		return false
	}
	for i := range len(text) {
		c := text[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// CheckName finds a malformed id or version in a request, or nothing.
func CheckName(id, version string) *fault.Fault {
	if f := CheckID(id); f != nil {
		return f
	}
	if version != "" && !IsVersion(version) && !IsLabel(version) {
		return fault.Invalid(fault.ModelVersionInvalid, "model_version",
			"expected a positive integer without leading zeros or a label [a-z][a-z0-9-]{0,62}, got %s", fault.Quote(version)).At(id, "")
	}
	return nil
}

// CheckID finds a malformed id in a request, or nothing.
func CheckID(id string) *fault.Fault {
	if IsID(id) {
		return nil
	}
	got := "nothing"
	if id != "" {
		got = fault.Quote(id)
	}
	return fault.Invalid(fault.ModelIDInvalid, "model_id", "expected [A-Za-z0-9][A-Za-z0-9._-]{0,127}, got %s", got)
}
