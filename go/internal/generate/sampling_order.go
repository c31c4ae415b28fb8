// SPDX-License-Identifier: Apache-2.0

package generate

// candidate is a token that may be picked.
type candidate struct {
	logit  float32
	id     int32
	weight uint64
}

// before is the order of tokens: by logit, the greatest first, then by id.
func (c *candidate) before(d *candidate) bool {
	return c.logit > d.logit || c.logit == d.logit && c.id < d.id
}

// few are sorted faster than parted.
const few = 24

// beginning reorders candidates such that the first n, the last of them at n-1, are the shortest beginning of their order that weighs at least so
// much, which is at least 1 and at most the weight of all. Only as much is sorted as that takes.
func beginning(c []candidate, least uint64) (n int, weight uint64) {
	low, high := 0, len(c)
	for high-low > few {
		// All before low belong to it, weigh weight and are not enough; it ends before high.
		middle := part(c[low:high]) + low
		sum := weight
		for i := low; i <= middle; i++ {
			sum += c[i].weight
		}
		switch {
		case sum < least:
			low, weight = middle+1, sum
		case sum-c[middle].weight < least:
			return middle + 1, sum
		default:
			high = middle
		}
	}
	for i := low + 1; i < high; i++ {
		moved := c[i]
		j := i
		for ; j > low && moved.before(&c[j-1]); j-- {
			c[j] = c[j-1]
		}
		c[j] = moved
	}
	for n = low; n < high && weight < least; n++ {
		weight += c[n].weight
	}
	return n, weight
}

// part takes a candidate from the middle of the order or near it, puts those before it first, itself behind them, and gives its place.
func part(c []candidate) int {
	last := len(c) - 1
	pivot := ninther(c)
	c[pivot], c[last] = c[last], c[pivot]
	p := c[last]
	n := 0
	for i := range c[:last] {
		if c[i].before(&p) {
			c[n], c[i] = c[i], c[n]
			n++
		}
	}
	c[n], c[last] = c[last], c[n]
	return n
}

// ninther is the place of a candidate near the middle of the order.
func ninther(c []candidate) int {
	step := len(c) / 9
	at := func(i int) int { return (2*i + 1) * step / 2 }
	return median(c, median(c, at(0), at(1), at(2)), median(c, at(3), at(4), at(5)), median(c, at(6), at(7), at(8)))
}

func median(c []candidate, i, j, k int) int {
	if c[j].before(&c[i]) {
		i, j = j, i
	}
	if c[k].before(&c[j]) {
		j = k
		if c[j].before(&c[i]) {
			j = i
		}
	}
	return j
}
