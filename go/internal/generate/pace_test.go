// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"testing"
	"time"
)

// TestPaceBoundsGaps brings long prompts beside steps, on machines of all kinds: what a chunk costs at least, and for each token. Once a step is known
// the gap between two steps stays below four of them, but where the fewest tokens of a chunk already take longer.
func TestPaceBoundsGaps(t *testing.T) {
	const step = 10 * time.Millisecond
	for _, c := range []struct{ base, token time.Duration }{
		{9 * time.Millisecond, 100 * time.Microsecond}, {2 * time.Millisecond, time.Millisecond}, {15 * time.Millisecond, 500 * time.Microsecond},
		{0, 2 * time.Millisecond}, {5 * time.Millisecond, 10 * time.Microsecond},
	} {
		var p pace
		p.prefilled(512, c.base+512*c.token, false) // the prompts of those who decode now
		for range 10 {
			p.stepped(step)
		}
		brought, chunks := 0, 0
		for left := 1400; left > 0; chunks++ {
			n := p.chunk(left, 512, true)
			took := c.base + time.Duration(n)*c.token
			if gap := took + step; gap >= 4*step {
				t.Errorf("%+v: chunk %d of %d tokens: a gap of %v", c, chunks, n, gap)
			}
			p.prefilled(n, took, true)
			p.stepped(step)
			left -= n
			brought += n
		}
		if most := 1400/leastChunk + 1; brought != 1400 || chunks > most {
			t.Errorf("%+v: %d tokens in %d chunks", c, brought, chunks)
		}
	}
	var p pace
	if n := p.chunk(1400, 512, false); n != 512 {
		t.Errorf("alone: %d tokens", n)
	}
	if n := p.chunk(3, 512, true); n != 3 {
		t.Errorf("the last: %d tokens", n)
	}
	if n := p.chunk(100, 4, true); n != 4 {
		t.Errorf("more than the setting lets: %d tokens", n)
	}
}
