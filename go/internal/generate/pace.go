// SPDX-License-Identifier: Apache-2.0

package generate

import "time"

const (
	// leastChunk is the fewest tokens of a prompt that one run brings while others decode.
	leastChunk = 8
	// chunkSteps is how many steps of those who decode a chunk may take: with the step that follows, the longest gap stays below four.
	chunkSteps = 2
	paceWeight = 1. / 4
)

// pace learns how long runs take, and says how much of a prompt one run may bring.
type pace struct {
	step  float64 // seconds of a joined step: a running mean; 0 where none has run
	token float64 // seconds for each token of a prompt in chunks while others decode: a running mean; 0 where none has run
}

func (p *pace) stepped(took time.Duration) { mean(&p.step, took.Seconds()) }

// prefilled learns from a chunk. A large one beside which nobody decodes says little of small ones, whose every token costs more.
func (p *pace) prefilled(tokens int, took time.Duration, beside bool) {
	if beside {
		mean(&p.token, took.Seconds()/float64(tokens))
	}
}

// chunk is how many of the tokens that are left come next.
func (p *pace) chunk(left, most int, beside bool) int {
	n := most
	if beside {
		n = leastChunk
		if p.step > 0 && p.token > 0 {
			n = max(n, min(most, int(chunkSteps*p.step/p.token)))
		}
	}
	return min(left, n, most)
}

func mean(to *float64, value float64) {
	if *to == 0 {
		*to = value
	}
	*to += (value - *to) * paceWeight
}
