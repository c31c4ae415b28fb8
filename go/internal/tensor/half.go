// SPDX-License-Identifier: Apache-2.0

package tensor

import "math"

// ToFloat16 rounds to the nearest binary16, ties to even. What is too large becomes an infinity; NaN stays NaN.
func ToFloat16(f float32) uint16 {
	bits := math.Float32bits(f)
	sign := uint16(bits >> 16 & 0x8000)
	exponent := int(bits >> 23 & 0xff)
	fraction := bits & 0x7fffff
	switch {
	case exponent == 0xff && fraction != 0:
		// Quiet, with the payload's upper bits.
		return sign | 0x7e00 | uint16(fraction>>13)
	case exponent >= 127+16:
		return sign | 0x7c00
	case exponent >= 127-14:
		half := uint32(exponent-(127-15))<<10 | fraction>>13
		return sign | uint16(roundEven(half, fraction&0x1fff, 0x1000))
	case exponent >= 127-25:
		// Subnormal: the implicit one becomes explicit and moves down.
		fraction |= 0x800000
		shift := uint(127 - 14 - exponent + 13)
		return sign | uint16(roundEven(fraction>>shift, fraction&(1<<shift-1), 1<<(shift-1)))
	default:
		return sign
	}
}

// ToBFloat16 rounds to the nearest bfloat16, ties to even; NaN stays NaN.
func ToBFloat16(f float32) uint16 {
	bits := math.Float32bits(f)
	if f != f {
		return uint16(bits>>16) | 0x40
	}
	return uint16(roundEven(bits>>16, bits&0xffff, 0x8000))
}

// roundEven adds one to kept where rest, the bits cut off, is more than half, or half and kept is odd. A carry into the exponent is
// the right answer.
func roundEven(kept, rest, half uint32) uint32 {
	if rest > half || rest == half && kept&1 == 1 {
		kept++
	}
	return kept
}

// FromFloat16 is exact.
func FromFloat16(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exponent := uint32(h >> 10 & 0x1f)
	fraction := uint32(h & 0x3ff)
	switch {
	case exponent == 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | fraction<<13)
	case exponent != 0:
		return math.Float32frombits(sign | (exponent+127-15)<<23 | fraction<<13)
	default:
		f := float32(fraction) / (1 << 24)
		return math.Float32frombits(sign | math.Float32bits(f))
	}
}

// FromBFloat16 is exact.
func FromBFloat16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }
