// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/config"
)

var policies = map[string]batch.Policy{
	config.Auto: batch.Auto, config.Inline: batch.Inline, config.Direct: batch.Direct, config.Adaptive: batch.Adaptive,
}

// batchingOf is what a configuration says of how a model's requests run, for the room batch.
func batchingOf(c *config.Config, modelID string) batch.Settings {
	b := c.BatchingOf(modelID)
	return batch.Settings{
		Policy: policies[b.Policy], OwnPolicy: b.OwnPolicy, MaxRows: b.MaxBatchRows, OwnMaxRows: b.OwnMaxBatchRows,
		MaxDelay: b.MaxDelay, MaxQueueRows: b.MaxQueueRows, Executors: b.Executors,
	}
}
