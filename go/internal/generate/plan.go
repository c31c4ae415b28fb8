// SPDX-License-Identifier: Apache-2.0

package generate

// seat is a generation as the plan sees it.
type seat struct {
	order  int64 // who came first has the least; no two are equal
	cached int   // tokens in its slot's cache
	prompt int   // tokens of its prompt: it decodes once they are all in the cache
}

// move takes a generation to another slot, with so many tokens of its cache.
type move struct{ from, to, tokens int }

// round is what the engine does next, in this order.
type round struct {
	join   []int  // the slots of the first of those who wait, in their order
	moves  []move // one after the other
	slot   int    // whose prompt advances; -1: nobody's
	tokens int    // by how many tokens, in one run
	decode []int  // the slots that then take one step together, in ascending order; whose prompt has just ended is among them
}

// plan makes a round for those who have slots, nil where one is free, and those who wait, the oldest first; most is the most tokens of a prompt in one
// run. conformance/generate has its rules and proves them, for both servers.
func plan(slots []*seat, waiting []*seat, pace *pace, most int) round {
	r := round{slot: -1}
	after := make([]*seat, len(slots)) // the slots as they will be
	copy(after, slots)
	for slot := range after {
		if len(r.join) == len(waiting) {
			break
		}
		if after[slot] == nil {
			after[slot] = waiting[len(r.join)]
			r.join = append(r.join, slot)
		}
	}
	last := len(after) - 1
	for hole := range after {
		for last > hole && after[last] == nil {
			last--
		}
		if hole >= last {
			break
		}
		if after[hole] == nil {
			after[hole], after[last] = after[last], nil
			r.moves = append(r.moves, move{last, hole, after[hole].cached})
		}
	}
	beside := false
	for slot, s := range after {
		switch {
		case s == nil:
		case s.cached >= s.prompt:
			beside = true
		case r.slot < 0 || s.order < after[r.slot].order:
			r.slot = slot
		}
	}
	if r.slot >= 0 {
		s := after[r.slot]
		r.tokens = pace.chunk(s.prompt-s.cached, most, beside)
	}
	for slot, s := range after {
		if s != nil && (s.cached >= s.prompt || slot == r.slot && s.cached+r.tokens == s.prompt) {
			r.decode = append(r.decode, slot)
		}
	}
	return r
}
