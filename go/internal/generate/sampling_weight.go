// SPDX-License-Identifier: Apache-2.0

package generate

import "math"

const (
	weightBits = 32 // the likeliest token weighs 2^32

	log2e = 0x1.71547652b82fep+0

	// 2^f from -0.5 to 0.5 is 1 + c1*f + ... + c5*f^5, times 1 +- 9.2e-8.
	c1 = 0x1.62e429203a9dcp-1
	c2 = 0x1.ebf9bb8a9f551p-3
	c3 = 0x1.c6b752dcae731p-5
	c4 = 0x1.3cea87425bd84p-7
	c5 = 0x1.5bba148b6a29bp-10

	// halves is added and taken away again to round to the nearest integer: what it leaves has no bits below one.
	halves = 0x1.8p52
)

// weigher weighs tokens against the likeliest one.
type weigher struct {
	most  float64 // its logit
	scale float64 // octaves for each unit of logit
}

func newWeigher(most float32, temperature float32) weigher {
	return weigher{float64(most), log2e / float64(temperature)}
}

// weight is a token's. Go may fuse a product and a sum that are not converted in between, and does on some processors: hence the conversions.
func (w weigher) weight(logit float32) uint64 {
	y := float64((float64(logit) - w.most) * w.scale)
	if y < -weightBits {
		return 0
	}
	n := float64(y+halves) - halves
	f := y - n
	p := float64(c5*f) + c4
	p = float64(p*f) + c3
	p = float64(p*f) + c2
	p = float64(p*f) + c1
	p = float64(p*f) + 1
	return uint64(int64(float64(p*(1<<weightBits)))) >> uint(int64(-n))
}

// reach is a logit such that every token weighs nothing, or is less likely than by that many octaves, whose logit is below it.
func (w weigher) reach(octaves float64) float32 {
	logit := float32(w.most - float64((octaves+1)/w.scale))
	return math.Nextafter32(logit, float32(math.Inf(-1)))
}
