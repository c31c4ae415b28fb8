// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"math"
	"strconv"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
)

const (
	maxTemperature = 100
	maxStops       = 16
)

// CheckConfig finds what is out of range in the settings of text generation, or nothing. It holds for models of every kind.
func CheckConfig(config *inferencev1.InferenceConfig) *fault.Fault {
	if config == nil {
		return nil
	}
	var found []fault.Violation
	bad := func(field, format string, args ...any) {
		found = append(found, fault.Violation{
			Reason: fault.ConfigInvalid, Field: "config." + field, Message: "config." + field + ": " + fmt.Sprintf(format, args...),
		})
	}
	// Written so that NaN is out of range.
	if t := config.GetTemperature(); !(t >= 0 && t <= maxTemperature) {
		bad("temperature", "expected 0 to %d, got %s", maxTemperature, shortest(t))
	}
	if n := config.GetMaxTokens(); n < 0 {
		bad("max_tokens", "expected 0 to %d, got %d", math.MaxInt32, n)
	}
	if p := config.GetTopP(); !(p >= 0 && p <= 1) {
		bad("top_p", "expected 0 to 1, got %s", shortest(p))
	}
	if stops := config.GetStop(); len(stops) > maxStops {
		bad("stop", "expected at most %d texts, got %d", maxStops, len(stops))
	} else {
		for i, stop := range stops {
			if stop == "" {
				bad(fmt.Sprintf("stop[%d]", i), "expected a text, got nothing")
			}
		}
	}
	if k := config.GetTopK(); k < 0 {
		bad("top_k", "expected 0 to %d, got %d", math.MaxInt32, k)
	}
	if len(found) == 0 {
		return nil
	}
	return fault.FromViolations(found, len(found))
}

// shortest is the shortest decimal that reads back as the same float32.
func shortest(f float32) string {
	switch {
	case f != f:
		return "nan"
	case math.IsInf(float64(f), 1):
		return "inf"
	case math.IsInf(float64(f), -1):
		return "-inf"
	}
	return strconv.FormatFloat(float64(f), 'g', -1, 32)
}
