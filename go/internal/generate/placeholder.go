// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"github.com/concord-inference/concord/go/internal/fault"
)

func (e *Engine) prepare(r Request) (*active, *fault.Fault) {
	tokens, _ := e.tokenizer.Encode(r.Features["prompt"].GetStringValue())
	limit := int(r.Config.GetMaxTokens())
	if limit == 0 {
		limit = 256
	}
	return &active{request: r, prompt: tokens, length: len(tokens), limit: min(limit, e.Context()-len(tokens)), sampler: newSampler(NewSampling(r.Config, r.ID)), stops: newStops(r.Config.GetStop())}, nil
}
