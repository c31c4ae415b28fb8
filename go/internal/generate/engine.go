// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
)

// Options are what an engine is made of.
type Options struct {
	ModelID, Version string // in messages
	Tokenizer        Tokenizer
	Decoder          Decoder
	Chunk            int // most tokens of a prompt in one run, at least 1
	MaxWaiting       int // most generations that wait for a slot, at least 1
	// Fault is the fault of an error of the decoder where its context has not ended.
	Fault   func(error) *fault.Fault
	Watcher Watcher // nil: nobody watches
}

// Request is what one generation is asked for.
type Request struct {
	ID       string // the request's id as it was given; a seed may come of it
	Features map[string]*inferencev1.FeatureValue
	Config   *inferencev1.InferenceConfig // in range, or nil
	Arrived  time.Time                    // at the server
}

// Engine generates the texts of one version: side by side as many as the decoder has slots, the others wait in order. One goroutine runs the decoder,
// and sleeps while there is nothing to do.
type Engine struct {
	options   Options
	tokenizer Tokenizer
	decoder   Decoder
	ends      map[int32]bool
	wake      chan struct{} // holds one where the loop has something to see
	done      chan struct{} // closed once the loop has ended

	mu         sync.Mutex
	maxWaiting int
	waiting    []*active
	came       int64 // generations so far
	closing    bool
	slotTime   float64 // seconds that a generation keeps its slot: a running mean; 0 where none has ended yet

	// Of the run under way: how many of its generations somebody still waits for, and what ends it.
	members int
	inRun   map[*active]bool
	endRun  context.CancelFunc
	runCtx  context.Context

	slots []*active // the loop's alone, but for reading under mu
	pace  pace      // the loop's alone
	many  int       // logits that are worth more than one processor
}

// active is a generation as the engine sees it.
type active struct {
	*Generation
	seat
	arrived time.Time
	ahead   []int32 // tokens of the prompt that the cache does not have yet
	limit   int     // most tokens that it may have
	sampler *sampler
	stops   *stops
	since   time.Time   // when it came to the engine
	stop    func() bool // ends the watch over its context

	// Under the engine's mu.
	gone bool // nobody waits for it any more

	// The loop's alone.
	slot   int
	text   TextStream
	next   int32 // the token that the cache does not have yet; after the prompt
	tokens int   // generated
	last   time.Time
	ending Ending
	over   bool
}

// New makes an engine and starts its loop. It owns tokenizer and decoder from then on.
func New(options Options) *Engine {
	if options.Watcher == nil {
		options.Watcher = nobody{}
	}
	e := &Engine{
		options: options, tokenizer: options.Tokenizer, decoder: options.Decoder, ends: map[int32]bool{},
		wake: make(chan struct{}, 1), done: make(chan struct{}), maxWaiting: options.MaxWaiting,
		slots: make([]*active, options.Decoder.Slots()), many: manyLogits, inRun: map[*active]bool{},
	}
	for _, token := range options.Decoder.EndTokens() {
		e.ends[token] = true
	}
	e.runCtx, e.endRun = context.WithCancel(context.Background())
	go e.loop()
	return e
}

// Watch lets a watcher see what becomes of generations from now on. None may have come yet.
func (e *Engine) Watch(watcher Watcher) {
	if watcher != nil {
		e.options.Watcher = watcher
	}
}

// Apply changes how many generations may wait, from now on; who waits stays.
func (e *Engine) Apply(maxWaiting int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.maxWaiting = maxWaiting
}

// Slots is how many generations run side by side.
func (e *Engine) Slots() int { return len(e.slots) }

// Context is how many tokens a prompt and its text may have together.
func (e *Engine) Context() int { return e.decoder.Context() }

// CacheBytes is the memory of all slots' keys and values.
func (e *Engine) CacheBytes() int64 { return e.decoder.CacheBytes() }

// Chunk is the most tokens of a prompt in one run.
func (e *Engine) Chunk() int { return e.options.Chunk }

// MaxWaiting is how many generations may wait.
func (e *Engine) MaxWaiting() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.maxWaiting
}

// Inside is how many generations wait or have a slot.
func (e *Engine) Inside() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.insideLocked()
}

// Close ends the loop, and all that still runs, and frees tokenizer and decoder. Nobody may come then.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closing = true
	e.endRun()
	e.mu.Unlock()
	e.tell()
	<-e.done
	e.decoder.Close()
	e.tokenizer.Close()
}

// Generate begins a generation. When ctx ends, so does it: its slot is free within one step. The fault says what is wrong with the request, or that too
// many wait.
func (e *Engine) Generate(ctx context.Context, request Request) (*Generation, *fault.Fault) {
	if ctx.Err() != nil {
		return nil, fault.Ended(ctx)
	}
	a, f := e.prepare(request)
	if f != nil {
		return nil, f.At(e.options.ModelID, e.options.Version)
	}
	a.Generation = &Generation{ctx: ctx, signal: make(chan struct{}, 1)}
	a.stop = context.AfterFunc(ctx, func() { e.leave(a) })
	if f := e.enter(a); f != nil {
		a.stop()
		return nil, f
	}
	e.tell()
	return a.Generation, nil
}

// enter lets a generation wait, where there is room and somebody still waits for it.
func (e *Engine) enter(a *active) *fault.Fault {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a.gone {
		return fault.Ended(a.ctx)
	}
	if e.insideLocked() >= len(e.slots)+e.maxWaiting {
		return e.full()
	}
	e.came++
	a.order, a.since = e.came, time.Now()
	e.waiting = append(e.waiting, a)
	e.options.Watcher.Waiting(1)
	return nil
}

// defaultTokens are the most tokens of a generation that says nothing of it.
const defaultTokens = 256

// prepare reads a request, and makes its prompt's tokens, where it comes: the loop does not wait for that.
func (e *Engine) prepare(request Request) (*active, *fault.Fault) {
	p, f := readPrompt(request.Features)
	if f != nil {
		return nil, f
	}
	tokens, f := p.tokens(e.tokenizer, e.Context())
	if f != nil {
		return nil, f
	}
	limit := int(request.Config.GetMaxTokens())
	if limit == 0 {
		limit = defaultTokens
	}
	return &active{
		seat: seat{prompt: len(tokens)}, arrived: request.Arrived, ahead: tokens, limit: min(limit, e.Context()-len(tokens)),
		sampler: newSampler(NewSampling(request.Config, request.ID)), stops: newStops(request.Config.GetStop()),
	}, nil
}

// insideLocked is Inside for who holds mu: a burst into free slots is let in before the loop has seen it.
func (e *Engine) insideLocked() int {
	n := len(e.waiting)
	for _, a := range e.slots {
		if a != nil {
			n++
		}
	}
	return n
}

// full is the fault of a generation that finds no room, and when room may be. mu is held.
func (e *Engine) full() *fault.Fault {
	const shortest, longest = 10 * time.Millisecond, 5 * time.Second
	drained := time.Duration(e.slotTime * float64(len(e.waiting)) / float64(len(e.slots)) * float64(time.Second))
	f := fault.New(fault.QueueFull, "the queue of model %s version %s is full: expected at most %d generations to wait",
		fault.Quote(e.options.ModelID), fault.Shown(e.options.Version), e.maxWaiting)
	f.Retry = min(max(drained, shortest), longest).Round(time.Millisecond)
	return f.At(e.options.ModelID, e.options.Version)
}

// leave is that nobody waits for a generation any more.
func (e *Engine) leave(a *active) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a.gone = true
	if at := slices.Index(e.waiting, a); at >= 0 {
		e.waiting = slices.Delete(e.waiting, at, at+1)
		e.options.Watcher.Waiting(-1)
		return
	}
	if e.inRun[a] {
		if e.members--; e.members == 0 {
			e.endRun()
		}
	}
	e.tell()
}

func (e *Engine) tell() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// run runs the decoder for generations, until the last of them is gone.
func (e *Engine) run(of []*active, rows []Row) ([][]float32, time.Duration, error) {
	e.mu.Lock()
	if e.runCtx.Err() != nil && !e.closing {
		e.runCtx, e.endRun = context.WithCancel(context.Background())
	}
	e.members = 0
	clear(e.inRun)
	for _, a := range of {
		if !a.gone {
			e.members++
			e.inRun[a] = true
		}
	}
	ctx := e.runCtx
	if e.members == 0 || e.closing {
		e.mu.Unlock()
		return nil, 0, context.Canceled
	}
	e.mu.Unlock()
	begin := time.Now()
	logits, err := e.decoder.Run(ctx, rows)
	took := time.Since(begin)
	e.mu.Lock()
	clear(e.inRun)
	e.mu.Unlock()
	if ctx.Err() != nil {
		return nil, took, context.Canceled
	}
	if err == nil && len(logits) != len(rows) {
		err = errLogits
	}
	for _, a := range of {
		a.ending.Compute += took
		a.ending.Rows = max(a.ending.Rows, len(rows))
	}
	e.options.Watcher.Ran(len(rows))
	return logits, took, err
}

var errLogits = errors.New("the decoder did not give logits for each row")
