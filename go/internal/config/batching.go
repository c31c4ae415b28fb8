// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"time"

	serverconfigv1 "github.com/concord-inference/concord/go/gen/serverconfig/v1"
)

// The batching policies, as a configuration names them.
const (
	Auto     = "auto"
	Inline   = "inline"
	Direct   = "direct"
	Adaptive = "adaptive"
)

const (
	defaultBatchRows = 64
	maxBatchRows     = 1024
	maxDelayMS       = 1000
	defaultQueueRows = 1024
	maxExecutors     = 256

	defaultSlots      = 8
	maxSlots          = 64
	defaultCacheBytes = 1 << 30
	minCacheBytes     = 1 << 20
	defaultChunk      = 512
	maxChunk          = 8192
)

// modelID is the contract's grammar of ids.
var modelID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// Batching is how requests of a model come to executions.
type Batching struct {
	Policy       string        // Auto, Inline, Direct or Adaptive
	MaxBatchRows int           // 1 to 1024
	MaxDelay     time.Duration // 0 to 1 s
	MaxQueueRows int           // at least 1
	Executors    int           // 1 to 256; 0: chosen with the policy

	// OwnPolicy and OwnMaxBatchRows tell that the value was set for this very model: then it wins over the model's manifest. Else what
	// the manifest says wins over it.
	OwnPolicy, OwnMaxBatchRows bool
}

// Generation is what a version of a text generator has room for.
type Generation struct {
	Slots       int   // generations at once, 1 to 64
	CacheBytes  int64 // most memory of the keys and values of all slots, at least 1 MiB
	ChunkTokens int   // most tokens of a prompt in one execution, 1 to 8192
	Threads     int   // within one operator; 0: nothing is said, and all processors are right
}

// ModelSettings are all settings of one model: its own and, where it has none, the server's.
type ModelSettings struct {
	Batching       Batching
	IntraOpThreads int
	Generation     Generation
}

// SettingsOf are the settings of a model, its own over the server's.
func (c *Config) SettingsOf(id string) ModelSettings {
	if own, ok := c.ModelSettings[id]; ok {
		return own
	}
	return ModelSettings{Batching: c.Batching, IntraOpThreads: c.IntraOpThreads, Generation: c.Generation}
}

// BatchingOf is how requests of a model come to executions, its own settings over the server's.
func (c *Config) BatchingOf(id string) Batching { return c.SettingsOf(id).Batching }

// checkBatching takes the server's settings, then those of single models over them.
func (c *Config) checkBatching(m *serverconfigv1.ServerConfig) error {
	server := &serverconfigv1.ModelSettings{
		Batching: m.GetBatching(), MaxBatchRows: m.MaxBatchRows, MaxDelayMs: m.MaxDelayMs, MaxQueueRows: m.MaxQueueRows,
		Executors: m.Executors, IntraOpThreads: m.IntraOpThreads,
		GenerationSlots: m.GenerationSlots, MaxKvBytes: m.MaxKvBytes, PrefillChunkTokens: m.PrefillChunkTokens,
	}
	settings, err := overlay("", ModelSettings{
		Batching:       Batching{Policy: Auto, MaxBatchRows: defaultBatchRows, MaxQueueRows: defaultQueueRows},
		IntraOpThreads: 1,
		Generation:     Generation{Slots: defaultSlots, CacheBytes: defaultCacheBytes, ChunkTokens: defaultChunk},
	}, server)
	if err != nil {
		return err
	}
	settings.Batching.OwnPolicy, settings.Batching.OwnMaxBatchRows = false, false
	c.Batching, c.IntraOpThreads, c.Generation = settings.Batching, settings.IntraOpThreads, settings.Generation
	for _, id := range slices.Sorted(maps.Keys(m.GetModelSettings())) {
		if !modelID.MatchString(id) {
			return fmt.Errorf("model_settings: expected a model id, got %q", id)
		}
		own, err := overlay("model_settings."+id+".", settings, m.GetModelSettings()[id])
		if err != nil {
			return err
		}
		if c.ModelSettings == nil {
			c.ModelSettings = map[string]ModelSettings{}
		}
		c.ModelSettings[id] = own
	}
	return nil
}

// overlay puts the settings that are set over those below. The path comes before the fields' names in errors.
func overlay(path string, below ModelSettings, m *serverconfigv1.ModelSettings) (ModelSettings, error) {
	b, g := &below.Batching, &below.Generation
	switch policy := m.GetBatching(); policy {
	case "":
	case Auto, Inline, Direct, Adaptive:
		b.Policy, b.OwnPolicy = policy, true
	default:
		return below, fmt.Errorf("%sbatching: expected auto, inline, direct or adaptive, got %q", path, policy)
	}
	for _, number := range []struct {
		name      string
		value     *int64
		low, high int64
		to        func(int64)
	}{
		{"max_batch_rows", wide(m.MaxBatchRows), 1, maxBatchRows, func(n int64) { b.MaxBatchRows, b.OwnMaxBatchRows = int(n), true }},
		{"max_delay_ms", wide(m.MaxDelayMs), 0, maxDelayMS, func(n int64) { b.MaxDelay = time.Duration(n) * time.Millisecond }},
		{"max_queue_rows", wide(m.MaxQueueRows), 1, math.MaxInt32, func(n int64) { b.MaxQueueRows = int(n) }},
		{"executors", wide(m.Executors), 1, maxExecutors, func(n int64) { b.Executors = int(n) }},
		{"intra_op_threads", wide(m.IntraOpThreads), 1, math.MaxInt32, func(n int64) { below.IntraOpThreads, g.Threads = int(n), int(n) }},
		{"generation_slots", wide(m.GenerationSlots), 1, maxSlots, func(n int64) { g.Slots = int(n) }},
		{"max_kv_bytes", m.MaxKvBytes, minCacheBytes, math.MaxInt64, func(n int64) { g.CacheBytes = n }},
		{"prefill_chunk_tokens", wide(m.PrefillChunkTokens), 1, maxChunk, func(n int64) { g.ChunkTokens = int(n) }},
	} {
		if number.value == nil {
			continue
		}
		if err := within(path+number.name, *number.value, number.low, number.high); err != nil {
			return below, err
		}
		number.to(*number.value)
	}
	return below, nil
}

// wide is a number as the widest is, or nothing.
func wide(n *int32) *int64 {
	if n == nil {
		return nil
	}
	wide := int64(*n)
	return &wide
}

func within(field string, value, low, high int64) error {
	if value < low || value > high {
		return fmt.Errorf("%s: expected %d to %d, got %d", field, low, high, value)
	}
	return nil
}
