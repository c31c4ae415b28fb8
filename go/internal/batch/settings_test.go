// SPDX-License-Identifier: Apache-2.0

package batch_test

import (
	"runtime"
	"testing"
	"time"

	"github.com/concord-inference/concord/go/internal/batch"
)

func times(alone, eight, thirtyTwo time.Duration) []batch.Time {
	return []batch.Time{{Rows: 1, Took: alone}, {Rows: 8, Took: eight}, {Rows: 32, Took: thirtyTwo}}
}

func TestChoose(t *testing.T) {
	const us, ms = time.Microsecond, time.Millisecond
	trees := batch.Traits{Joins: true, Times: times(3*us, 10*us, 30*us)}
	network := batch.Traits{Joins: true, Times: times(1300*us, 2500*us, 5*ms)}
	pictures := batch.Traits{Joins: true, Times: times(500*us, 3900*us, 16*ms)}
	single := batch.Traits{Times: times(1300*us, 2500*us, 5*ms)[:1]}
	bare := batch.Traits{MayJoin: true}
	said := func(t batch.Traits, p batch.Policy, rows int) batch.Traits {
		t.Policy, t.MaxRows = p, rows
		return t
	}
	own := func(p batch.Policy) batch.Settings { return batch.Settings{Policy: p, OwnPolicy: true} }
	for name, c := range map[string]struct {
		traits         batch.Traits
		settings       batch.Settings
		policy         batch.Policy
		source         batch.Source
		rows, callRows int
	}{
		"tiny":                              {trees, batch.Settings{}, batch.Inline, batch.Measured, 1, 64},
		"gains":                             {network, batch.Settings{}, batch.Adaptive, batch.Measured, 64, 64},
		"gains nothing":                     {pictures, batch.Settings{}, batch.Direct, batch.Measured, 1, 64},
		"not batchable":                     {single, batch.Settings{}, batch.Direct, batch.Measured, 1, 1},
		"not measured":                      {batch.Traits{Joins: true}, batch.Settings{}, batch.Direct, batch.Measured, 1, 64},
		"bare":                              {bare, batch.Settings{}, batch.Direct, batch.Measured, 1, 1},
		"manifest":                          {said(network, batch.Direct, 0), batch.Settings{}, batch.Direct, batch.Manifest, 1, 64},
		"manifest over the server":          {said(network, batch.Direct, 0), batch.Settings{Policy: batch.Inline}, batch.Direct, batch.Manifest, 1, 64},
		"the model's own over the manifest": {said(network, batch.Direct, 0), own(batch.Inline), batch.Inline, batch.Configuration, 1, 64},
		"server":                            {trees, batch.Settings{Policy: batch.Adaptive}, batch.Adaptive, batch.Configuration, 64, 64},
		"adaptive, not batchable":           {single, own(batch.Adaptive), batch.Direct, batch.Configuration, 1, 1},
		"adaptive, bare, by the server":     {bare, batch.Settings{Policy: batch.Adaptive}, batch.Direct, batch.Configuration, 1, 1},
		"adaptive, bare, for itself":        {bare, own(batch.Adaptive), batch.Adaptive, batch.Configuration, 64, 64},
		"manifest's rows":                   {said(network, batch.Auto, 8), batch.Settings{MaxRows: 32}, batch.Adaptive, batch.Measured, 8, 8},
		"no more than the server's":         {said(network, batch.Auto, 100), batch.Settings{MaxRows: 32}, batch.Adaptive, batch.Measured, 32, 32},
		"the model's own rows":              {said(network, batch.Auto, 8), batch.Settings{MaxRows: 32, OwnMaxRows: true}, batch.Adaptive, batch.Measured, 32, 32},
	} {
		got := batch.Choose(c.traits, c.settings)
		if got.Policy != c.policy || got.Source != c.source || got.MaxRows != c.rows || got.CallRows != c.callRows || got.Executors < 1 || got.MaxQueueRows != 1024 {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	cores := runtime.GOMAXPROCS(0)
	if got := batch.Choose(pictures, batch.Settings{}).Executors; got != cores {
		t.Errorf("direct: %d executors", got)
	}
	if got := batch.Choose(network, batch.Settings{}).Executors; got != cores {
		t.Errorf("adaptive, rows of %v: %d executors", 5*ms/32, got)
	}
	if got := batch.Choose(trees, batch.Settings{Policy: batch.Adaptive}).Executors; got != max(1, cores-1) {
		t.Errorf("adaptive, rows of %v: %d executors", 30*us/32, got)
	}
	if got := batch.Choose(network, batch.Settings{Executors: 7, MaxDelay: ms, MaxQueueRows: 3}); got.Executors != 7 || got.MaxDelay != ms || got.MaxQueueRows != 3 {
		t.Errorf("got %+v", got)
	}
	if got := batch.Choose(pictures, batch.Settings{MaxDelay: ms}); got.MaxDelay != 0 {
		t.Errorf("who joins nobody waits: %+v", got)
	}
}
