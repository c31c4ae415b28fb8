// SPDX-License-Identifier: Apache-2.0

// Package generator asks a server the same question many times and measures: with a number of callers who each wait for their answer
// (closed loop), or at a rate (open loop), where an answer's latency counts from when its request should have gone out, so that a server
// that stalls cannot hide it.
package generator

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/concord-inference/concord/bench/load/process"
)

// Caller asks once and waits. `look` says whether the answer is to be compared with the expected one; the status is always looked at. One
// at a time.
type Caller func(look bool) error

// checkEvery is how often a caller's answer is compared; the first one always is.
const checkEvery = 64

// Plan is a measurement.
type Plan struct {
	Callers  []Caller      // closed loop: all of them at once; open loop: as many as are needed at the moment
	Rate     float64       // requests a second, at random times; 0 is closed loop
	Warm     time.Duration // asked and not measured
	Measured time.Duration
	Server   process.Group
	Client   process.Group
}

// Result is what was measured. Times of processes are those within the measured span.
type Result struct {
	Callers          int     `json:"callers"`
	Rate             float64 `json:"rate"`
	Seconds          float64 `json:"seconds"`
	Requests         int     `json:"requests"`
	Throughput       float64 `json:"throughput"`
	Errors           int64   `json:"errors"`
	FirstError       string  `json:"first_error,omitempty"`
	NotSent          int     `json:"not_sent"` // open loop: no caller was free
	Latency          Latency `json:"latency_ms"`
	ServerCPUSeconds float64 `json:"server_cpu_seconds"`
	ClientCPUSeconds float64 `json:"client_cpu_seconds"`
	OtherCPUSeconds  float64 `json:"other_cpu_seconds"` // of the machine, by neither
	CPUPer1000       float64 `json:"cpu_seconds_per_1000"`
	RSSMegabytes     float64 `json:"rss_mb"`
	PSSMegabytes     float64 `json:"pss_mb"`
}

type used struct {
	server, client, machine float64
	at                      time.Time
}

func (p *Plan) used() used {
	return used{p.Server.CPUSeconds(), p.Client.CPUSeconds(), process.MachineCPUSeconds(), time.Now()}
}

// failures counts, and keeps the first.
type failures struct {
	count atomic.Int64
	first atomic.Pointer[string]
}

func (f *failures) add(err error) {
	f.count.Add(1)
	text := err.Error()
	f.first.CompareAndSwap(nil, &text)
}

// Run measures.
func (p *Plan) Run() Result {
	var failed failures
	var latencies []time.Duration
	var begin, end used
	notSent := 0
	if p.Rate > 0 {
		latencies, begin, end, notSent = p.open(&failed)
	} else {
		latencies, begin, end = p.closed(&failed)
	}
	r := Result{
		Callers: len(p.Callers), Rate: p.Rate, Requests: len(latencies), Errors: failed.count.Load(), NotSent: notSent,
		Latency: summarise(latencies), RSSMegabytes: p.Server.RSSMegabytes(), PSSMegabytes: p.Server.PSSMegabytes(),
	}
	if first := failed.first.Load(); first != nil {
		r.FirstError = *first
	}
	r.account(begin, end)
	return r
}

// account divides what was used between two moments by the requests.
func (r *Result) account(begin, end used) {
	r.Seconds = end.at.Sub(begin.at).Seconds()
	r.ServerCPUSeconds = end.server - begin.server
	r.ClientCPUSeconds = end.client - begin.client
	r.OtherCPUSeconds = max(0, end.machine-begin.machine-r.ServerCPUSeconds-r.ClientCPUSeconds)
	if r.Seconds > 0 {
		r.Throughput = float64(r.Requests) / r.Seconds
	}
	if r.Requests > 0 {
		r.CPUPer1000 = r.ServerCPUSeconds / float64(r.Requests) * 1000
	}
}

// closed: what ends within the measured span counts, from its own start.
func (p *Plan) closed(failed *failures) (all []time.Duration, begin, end used) {
	var stop, measuring atomic.Bool
	var wait sync.WaitGroup
	each := make([][]time.Duration, len(p.Callers))
	for i, ask := range p.Callers {
		wait.Go(func() {
			latencies := make([]time.Duration, 0, 1<<12)
			for n := 0; !stop.Load(); n++ {
				asked := time.Now()
				err := ask(n%checkEvery == 0)
				took := time.Since(asked)
				switch {
				case err != nil:
					failed.add(err)
					time.Sleep(5 * time.Millisecond) // a server that is gone must not be asked a million times
				case measuring.Load():
					latencies = append(latencies, took)
				}
			}
			each[i] = latencies
		})
	}
	time.Sleep(p.Warm)
	begin = p.used()
	measuring.Store(true)
	time.Sleep(p.Measured)
	measuring.Store(false)
	end = p.used()
	stop.Store(true)
	wait.Wait()
	for _, latencies := range each {
		all = append(all, latencies...)
	}
	return all, begin, end
}

// open: requests go out at the times of a Poisson process, always the same one. What should go out within the measured span counts,
// whenever its answer comes. Where every caller is busy the request waits for one, and its wait counts.
func (p *Plan) open(failed *failures) (all []time.Duration, begin, end used, notSent int) {
	type intended struct {
		at      time.Time
		counted bool
	}
	queue := make(chan intended, 1<<20)
	each := make([][]time.Duration, len(p.Callers))
	var wait sync.WaitGroup
	for i, ask := range p.Callers {
		wait.Go(func() {
			for n := 0; ; n++ {
				request, ok := <-queue
				if !ok {
					return
				}
				if err := ask(n%checkEvery == 0); err != nil {
					failed.add(err)
				} else if request.counted {
					each[i] = append(each[i], time.Since(request.at))
				}
			}
		})
	}
	random := rand.New(rand.NewPCG(1, 2))
	start := time.Now()
	stop := start.Add(p.Warm + p.Measured)
	counting := false
	for next := start; next.Before(stop); next = next.Add(time.Duration(random.ExpFloat64() / p.Rate * 1e9)) {
		if early := time.Until(next); early > 0 {
			time.Sleep(early)
		}
		if !counting && next.Sub(start) >= p.Warm {
			counting, begin = true, p.used()
		}
		select {
		case queue <- intended{next, counting}:
		default:
			notSent++
		}
	}
	close(queue)
	wait.Wait()
	end = p.used()
	if !counting {
		begin = end
	}
	for _, latencies := range each {
		all = append(all, latencies...)
	}
	return all, begin, end, notSent
}
