// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
)

// Sampling is how one generation picks its tokens. docs/sampling.md has the rules.
type Sampling struct {
	Temperature float32 // 0 is greedy
	TopK        int     // 0 is all
	TopP        float32 // 0 and 1 are all
	Seed        uint64  // 0 where nothing is sampled
}

// NewSampling is what a request asks for. The id is the one that the request gave, empty where it gave none. The config has passed
// model.CheckConfig.
func NewSampling(config *inferencev1.InferenceConfig, requestID string) Sampling {
	s := Sampling{Temperature: config.GetTemperature(), TopK: int(config.GetTopK()), TopP: config.GetTopP()}
	switch {
	case s.Greedy():
	case config != nil && config.Seed != nil:
		s.Seed = config.GetSeed()
	case requestID != "":
		s.Seed = seedOf(requestID)
	default:
		s.Seed = rand.Uint64()
	}
	return s
}

// Greedy tells whether nothing is sampled.
func (s Sampling) Greedy() bool { return s.Temperature == 0 }

// seedOf is the seed of a request that gives an id and no seed.
func seedOf(requestID string) uint64 {
	sum := sha256.Sum256([]byte(requestID))
	return binary.LittleEndian.Uint64(sum[:])
}
