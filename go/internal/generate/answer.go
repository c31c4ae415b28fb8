// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"strings"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
)

// Answer makes the outputs of a whole text.
func Answer(tokens []Token) map[string]*inferencev1.FeatureValue {
	var text strings.Builder
	ids := make([]int64, len(tokens))
	for i, token := range tokens {
		text.WriteString(token.Text)
		ids[i] = int64(token.ID)
	}
	return map[string]*inferencev1.FeatureValue{
		TextOutput: {Value: &inferencev1.FeatureValue_StringValue{StringValue: text.String()}},
		IDsOutput:  {Value: &inferencev1.FeatureValue_Int64Array{Int64Array: &inferencev1.Int64Array{Values: ids}}},
	}
}

// Usage counts a generation's tokens.
func (e *Ending) Usage() *inferencev1.Usage {
	return &inferencev1.Usage{PromptTokens: int32(e.PromptTokens), CompletionTokens: int32(e.Tokens)}
}

// Timing says where a generation's time went.
func (e *Ending) Timing() *inferencev1.Timing {
	return &inferencev1.Timing{
		QueueMs: float32(e.Queue.Seconds() * 1e3), ComputeMs: float32(e.Compute.Seconds() * 1e3), BatchRows: int32(e.Rows),
		TimeToFirstTokenMs: float32(e.First.Seconds() * 1e3), TokensPerSecond: float32(e.Rate),
	}
}
