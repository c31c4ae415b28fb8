// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
)

// loop is the engine at work: round after round while there is something to do.
func (e *Engine) loop() {
	defer close(e.done)
	for {
		e.mu.Lock()
		closing := e.closing
		e.mu.Unlock()
		if closing {
			e.endAll()
			return
		}
		e.drop()
		r := e.arrange()
		if r.slot < 0 && len(r.decode) == 0 {
			<-e.wake
			continue
		}
		e.round(r)
	}
}

// endAll ends who is still there when the engine is closed. Nobody waits for them, or not for long.
func (e *Engine) endAll() {
	closed := fault.New(fault.Cancelled, "the model was closed")
	for _, a := range e.slots {
		if a != nil {
			e.free(a, closed)
		}
	}
	e.mu.Lock()
	waiting := e.waiting
	e.waiting = nil
	e.mu.Unlock()
	for _, a := range waiting {
		a.stop()
		e.options.Watcher.Waiting(-1)
		a.end(&Ending{Err: closed.At(e.options.ModelID, e.options.Version), PromptTokens: a.prompt})
	}
}

// arrange plans a round, lets those join who wait, and moves the last ones into holes.
func (e *Engine) arrange() round {
	seats, waiting := make([]*seat, len(e.slots)), make([]*seat, 0, len(e.slots))
	e.mu.Lock()
	for slot, a := range e.slots {
		if a != nil {
			seats[slot] = &a.seat
		}
	}
	for _, a := range e.waiting[:min(len(e.waiting), len(e.slots))] {
		waiting = append(waiting, &a.seat)
	}
	r := plan(seats, waiting, &e.pace, e.options.Chunk)
	joined := e.waiting[:len(r.join):len(r.join)]
	e.waiting = e.waiting[len(r.join):]
	for i, slot := range r.join {
		e.slots[slot], joined[i].slot = joined[i], slot
	}
	e.mu.Unlock()
	for _, a := range joined {
		now := time.Now()
		a.ending.Began, a.ending.Queue, a.ending.PromptTokens = now, now.Sub(a.since), a.prompt
		a.note(a.ending)
		e.options.Watcher.Waiting(-1)
		e.options.Watcher.Running(1)
		e.options.Watcher.Began(a.ending.Queue)
	}
	clear(joined) // the list's memory outlives them
	for _, m := range r.moves {
		e.decoder.Move(m.from, m.to, m.tokens)
		e.mu.Lock()
		a := e.slots[m.from]
		e.slots[m.from], e.slots[m.to] = nil, a
		e.mu.Unlock()
		a.slot = m.to
	}
	return r
}

// drop frees the slots of those who are gone.
func (e *Engine) drop() {
	for _, a := range e.slots {
		if a != nil && e.isGone(a) {
			e.free(a, nil)
		}
	}
}

func (e *Engine) isGone(a *active) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return a.gone
}

// free ends a generation that has a slot: with a fault, or as it has ended by itself, or as its context did.
func (e *Engine) free(a *active, f *fault.Fault) {
	a.stop()
	if a.text != nil {
		a.text.Close()
		a.text = nil
	}
	ending := &a.ending
	switch {
	case f != nil:
		ending.Err = f
	case !a.over:
		ending.Err = fault.Ended(a.ctx)
	}
	if ending.Err != nil {
		ending.Err = ending.Err.At(e.options.ModelID, e.options.Version)
	}
	a.give(a.stops.rest()) // no stop text will come of it any more
	ending.Tokens, ending.Seed = a.tokens, a.sampler.Seed
	if a.tokens > 1 {
		if seconds := a.last.Sub(ending.Decoding).Seconds(); seconds > 0 {
			ending.Rate = float64(a.tokens-1) / seconds
		}
	}
	kept := time.Since(ending.Began).Seconds()
	e.mu.Lock()
	e.slots[a.slot] = nil
	if e.slotTime == 0 {
		e.slotTime = kept
	}
	e.slotTime += (kept - e.slotTime) / 8
	e.mu.Unlock()
	e.options.Watcher.Running(-1)
	e.options.Watcher.Ended(ending.Compute)
	a.ahead = nil
	a.end(ending)
}

// round runs a chunk of a prompt, then a step of all that decode. What goes wrong in it is never the whole server's.
func (e *Engine) round(r round) {
	defer func() {
		if p := recover(); p != nil {
			f := fault.InternalError(fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			for _, a := range e.slots {
				if a != nil {
					e.free(a, f)
				}
			}
		}
	}()
	if r.slot >= 0 {
		e.prefill(e.slots[r.slot], r.tokens, e.decoding())
		e.drop() // a slot is free within one run
	}
	e.decode(r.decode)
}

// decoding tells whether the prompt of some generation is in the cache.
func (e *Engine) decoding() bool {
	for _, a := range e.slots {
		if a != nil && a.cached >= a.prompt {
			return true
		}
	}
	return false
}

// prefill puts the next n tokens of a prompt into its slot; beside tells whether others decode.
func (e *Engine) prefill(a *active, n int, beside bool) {
	logits, took, err := e.run([]*active{a}, []Row{{Slot: a.slot, Position: a.cached, Tokens: a.ahead[:n]}})
	if err != nil {
		e.failed(a, err)
		return
	}
	e.pace.prefilled(n, took, beside)
	a.cached += n
	a.ahead = a.ahead[n:]
	if len(a.ahead) == 0 {
		a.ahead = nil
		e.sample(a, logits[0])
	}
}

// decode gives those their next token who are still in these slots.
func (e *Engine) decode(slots []int) {
	of, rows := make([]*active, 0, len(slots)), make([]Row, 0, len(slots))
	for _, slot := range slots {
		if a := e.slots[slot]; a != nil && a.cached >= a.prompt {
			of = append(of, a)
			rows = append(rows, Row{Slot: slot, Position: a.cached, Tokens: []int32{a.next}})
		}
	}
	if len(of) == 0 {
		return
	}
	logits, took, err := e.run(of, rows)
	if err == nil {
		e.pace.stepped(took)
		for i, p := range e.pick(of, logits) {
			of[i].cached++
			e.take(of[i], p)
		}
		return
	}
	if len(of) == 1 {
		e.failed(of[0], err)
		return
	}
	// Who is to blame shows where each runs alone.
	for i, a := range of {
		if e.isGone(a) {
			continue
		}
		logits, _, err := e.run(of[i:i+1], rows[i:i+1])
		if err != nil {
			e.failed(a, err)
			continue
		}
		a.cached++
		e.sample(a, logits[0])
	}
}

// failed ends a generation on which the decoder failed; one that was ended is settled by whoever ended it.
func (e *Engine) failed(a *active, err error) {
	e.mu.Lock()
	gone := a.gone || e.closing
	e.mu.Unlock()
	if !gone {
		e.free(a, e.options.Fault(err))
	}
}

// picked is a token, or why there is none.
type picked struct {
	token int32
	fault *fault.Fault
}

func (a *active) pick(logits []float32) (p picked) {
	defer func() {
		if thrown := recover(); thrown != nil {
			p.fault = fault.InternalError(fmt.Errorf("panic: %v\n%s", thrown, debug.Stack()))
		}
	}()
	p.token, p.fault = a.sampler.next(logits, a.tokens)
	return p
}

// manyLogits are worth more than one processor.
const manyLogits = 1 << 16

// pick picks the next token of each generation from its logits.
func (e *Engine) pick(of []*active, logits [][]float32) []picked {
	all := make([]picked, len(of))
	workers := 1
	if len(of)*len(logits[0]) > e.many {
		workers = min(len(of), runtime.GOMAXPROCS(0))
	}
	var next atomic.Int32
	work := func() {
		for i := int(next.Add(1)) - 1; i < len(of); i = int(next.Add(1)) - 1 {
			all[i] = of[i].pick(logits[i])
		}
	}
	var others sync.WaitGroup
	for range workers - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
	return all
}

// sample gives a generation its next token from its logits.
func (e *Engine) sample(a *active, logits []float32) { e.take(a, a.pick(logits)) }

// take gives a generation its next token.
func (e *Engine) take(a *active, p picked) {
	if e.isGone(a) {
		return
	}
	if p.fault != nil {
		e.free(a, p.fault)
		return
	}
	token, now := p.token, time.Now()
	if e.ends[token] {
		e.finish(a, inferencev1.FinishReason_FINISH_REASON_STOP)
		return
	}
	if a.text == nil {
		text, err := e.tokenizer.Stream()
		if err != nil {
			e.free(a, fault.InternalError(err))
			return
		}
		a.text = text
	}
	text, err := a.text.Add(token)
	if err != nil {
		e.free(a, fault.InternalError(err))
		return
	}
	if a.tokens == 0 {
		a.ending.Decoding, a.ending.First = now, now.Sub(a.arrived)
		e.options.Watcher.First(a.ending.First)
	}
	e.options.Watcher.Token()
	a.tokens++
	a.next, a.last, a.ending.Tokens = token, now, a.tokens
	a.note(a.ending)
	tokens, stopped := a.stops.add(Token{ID: token, Text: text})
	a.give(tokens)
	switch {
	case stopped:
		e.finish(a, inferencev1.FinishReason_FINISH_REASON_STOP_SEQUENCE)
	case a.tokens == a.limit:
		e.finish(a, inferencev1.FinishReason_FINISH_REASON_LENGTH)
	}
}

// finish ends a generation by itself.
func (e *Engine) finish(a *active, reason inferencev1.FinishReason) {
	a.ending.Reason = reason
	a.over = true
	e.free(a, nil)
}
