// SPDX-License-Identifier: Apache-2.0

package generate

import "math/bits"

// philox is Philox4x32-10: four random words from a key and a counter.
func philox(counter [4]uint32, key [2]uint32) [4]uint32 {
	for range 10 {
		high0, low0 := bits.Mul32(0xD2511F53, counter[0])
		high1, low1 := bits.Mul32(0xCD9E8D57, counter[2])
		counter = [4]uint32{high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0}
		key[0] += 0x9E3779B9
		key[1] += 0xBB67AE85
	}
	return counter
}

// random is the random number of the token with that index in a generation.
func random(seed uint64, index int) uint64 {
	words := philox([4]uint32{uint32(index), uint32(uint64(index) >> 32)}, [2]uint32{uint32(seed), uint32(seed >> 32)})
	return uint64(words[0]) | uint64(words[1])<<32
}
