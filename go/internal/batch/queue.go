// SPDX-License-Identifier: Apache-2.0

package batch

import (
	"context"
	"encoding/binary"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// Options are what a queue is made of.
type Options struct {
	ModelID, Version string // in messages
	// Run runs the graph; it is model.Session's.
	Run func(ctx context.Context, inputs []tensor.Tensor, wanted []int, most int64) ([]tensor.Tensor, error)
	// Fault is the fault of an error of Run where its context has not ended.
	Fault   func(error) *fault.Fault
	Watcher Watcher // nil: nobody watches
}

// Queue is who waits for one version, and its executions under way. An executor is no goroutine of its own but the right to run: a handler that finds
// nobody waiting uses it itself for a short run, else a goroutine that lives while somebody waits.
type Queue struct {
	options Options
	working sync.WaitGroup // goroutines of executors

	mu          sync.Mutex
	setup       Setup
	waiting     []*Waiting
	lefts       int // of those waiting who have left
	waitingRows int
	running     int // executions under way
	timer       *time.Timer
	due         time.Time // when the timer is; zero where there is none
	unlike      uint64    // requests that can share no execution

	inside  int     // rows that wait or run
	usual   float64 // rows that requests find inside when they come, their own included: a running mean
	typical float64 // nanoseconds of an execution: a running mean
	perRow  float64 // nanoseconds of an execution for each of its rows: a running mean
}

// work is what a request has in a queue besides its Waiting.
type work struct {
	ctx       context.Context
	parts     []Part
	results   []Result
	done      chan struct{} // closed once results are there
	execution *execution    // that it is in, or nil
}

// execution is requests that run together.
type execution struct {
	ctx     context.Context
	cancel  context.CancelFunc
	members int // those that somebody still waits for
}

// few executions and requests shape the running means.
const (
	usualWeight   = 1. / 16
	typicalWeight = 1. / 8
)

// New makes a queue that runs each request alone until Apply. typical is what an execution takes, as far as that is known.
func New(options Options) *Queue {
	if options.Watcher == nil {
		options.Watcher = nobody{}
	}
	return &Queue{options: options, setup: Choose(Traits{}, Settings{})}
}

// Apply lets the queue go on under another setup; who waits stays. typical is what one execution takes, 0 where that is not known.
func (q *Queue) Apply(setup Setup, typical time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.setup = setup
	if q.typical == 0 {
		q.typical = float64(typical)
	}
	q.stopTimer()
	for range setup.Executors {
		q.wake()
	}
}

// Watch lets a watcher see what becomes of rows from now on. Nothing may wait or run yet.
func (q *Queue) Watch(watcher Watcher) {
	if watcher != nil {
		q.options.Watcher = watcher
	}
}

// Setup is how the version runs.
func (q *Queue) Setup() Setup {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.setup
}

// Close returns when nothing runs any more. Nobody may wait or come then.
func (q *Queue) Close() {
	q.mu.Lock()
	q.stopTimer()
	q.mu.Unlock()
	q.working.Wait()
}

// One answers one request. It does not run once ctx has ended; and then the answer is ctx's fault at once, whatever still runs.
func (q *Queue) One(ctx context.Context, part Part) Result {
	return q.do(ctx, []Part{part})[0]
}

// do answers parts that run in one execution.
func (q *Queue) do(ctx context.Context, parts []Part) []Result {
	now := time.Now()
	deadline, _ := ctx.Deadline()
	if ctx.Err() != nil {
		return failed(parts, fault.Ended(ctx), 0)
	}
	if !deadline.IsZero() && !deadline.After(now) {
		<-ctx.Done() // its timer is late by a moment
		return failed(parts, fault.Ended(ctx), 0)
	}
	rows := 0
	for i := range parts {
		rows += Rows(parts[i].Inputs)
	}
	w := &work{ctx: ctx, parts: parts, results: make([]Result, len(parts))}
	q.mu.Lock()
	q.inside += rows
	q.usual += (float64(q.inside) - q.usual) * usualWeight
	if q.runsHere() {
		q.running++
		q.mu.Unlock()
		begin := time.Now()
		q.began(w, begin.Sub(now))
		q.run(ctx, []*work{w})
		q.mu.Lock()
		q.running--
		q.inside -= rows
		q.ran(time.Since(begin), rows)
		q.wake()
		q.mu.Unlock()
		return w.results
	}
	if q.waitingRows > 0 && q.waitingRows+rows > q.setup.MaxQueueRows {
		f := q.full()
		q.inside -= rows
		q.mu.Unlock()
		return failed(parts, f, 0)
	}
	w.done = make(chan struct{})
	waiting := &Waiting{Rows: rows, Shape: q.shape(parts), Since: now, Deadline: deadline, work: w}
	q.waiting = append(q.waiting, waiting)
	q.waitingRows += rows
	q.options.Watcher.Queued(rows)
	q.wake()
	q.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		if !q.leave(waiting) {
			break
		}
		return failed(parts, fault.Ended(ctx), time.Since(now))
	}
	return w.results
}

// runsHere tells whether a request runs in its handler's own goroutine: an executor is idle, nobody waits, nobody is about to come who could join it,
// and the run is short, so that its end answers a deadline soon enough.
func (q *Queue) runsHere() bool {
	if q.waitingRows > 0 || q.running >= q.places() {
		return false
	}
	if q.setup.MaxRows > 1 && (q.setup.MaxDelay > 0 || q.share() > 1) {
		return false
	}
	return q.setup.Policy == Inline || q.typical > 0 && q.typical < float64(short)
}

const short = time.Millisecond

// places is how many executions may run at once. Inline runs that are not short after all are no more than processors.
func (q *Queue) places() int {
	if q.setup.Policy == Inline && q.typical > float64(short) {
		return min(q.setup.Executors, runtime.GOMAXPROCS(0))
	}
	return q.setup.Executors
}

// share is how many rows an executor would get if those that are usually inside were spread over all.
func (q *Queue) share() int {
	return min(int(q.usual/float64(q.setup.Executors)+0.5), q.setup.MaxRows)
}

// shape is what requests must share to run together.
func (q *Queue) shape(parts []Part) string {
	var buffer [64]byte
	if rowsOf(parts[0].Inputs) < 1 {
		q.unlike++
		return string(binary.AppendUvarint(append(buffer[:0], 0xff, 0xff), q.unlike))
	}
	return string(appendShape(buffer[:0], &parts[0]))
}

// full is the fault of a request that finds no room, and when room may be.
func (q *Queue) full() *fault.Fault {
	const shortest, longest = 10 * time.Millisecond, 5 * time.Second
	drained := time.Duration(q.perRow * float64(q.waitingRows) / float64(q.setup.Executors))
	f := fault.New(fault.QueueFull, "the queue of model %s version %s is full: expected at most %d rows to wait",
		fault.Quote(q.options.ModelID), fault.Shown(q.options.Version), q.setup.MaxQueueRows)
	f.Retry = min(max(drained, shortest), longest).Round(time.Millisecond)
	return f.At(q.options.ModelID, q.options.Version)
}

// leave takes a request out whose caller has gone. It is false where its results are there.
func (q *Queue) leave(w *Waiting) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-w.work.done:
		return false
	default:
	}
	if x := w.work.execution; x != nil {
		if x.members--; x.members == 0 {
			x.cancel()
		}
		return true
	}
	// Its place is free at once; the list itself is tidied now and then.
	w.left = true
	q.lefts++
	q.waitingRows -= w.Rows
	q.inside -= w.Rows
	q.options.Watcher.Queued(-w.Rows)
	if q.lefts > len(q.waiting)/2 {
		q.tidy()
	}
	return true
}

// tidy takes those who have left out of the list.
func (q *Queue) tidy() {
	if q.lefts > 0 {
		q.waiting = slices.DeleteFunc(q.waiting, func(w *Waiting) bool { return w.left })
		q.lefts = 0
	}
}

// wake lets one more executor begin where somebody waits for it. q.mu is held.
func (q *Queue) wake() {
	if q.waitingRows == 0 || q.running >= q.places() {
		return
	}
	// A further executor takes no less than its share: else two would halve a batch that costs one nearly as much.
	if q.running > 0 && q.waitingRows < q.share() {
		return
	}
	if !q.due.IsZero() && q.waitingRows < q.setup.MaxRows {
		last := q.waiting[len(q.waiting)-1]
		if last.Deadline.IsZero() || last.Deadline.After(last.Since.Add(q.setup.MaxDelay)) {
			return // the timer is soon enough
		}
	}
	q.running++
	q.working.Add(1)
	go q.execute()
}

// execute is an executor at work: it takes what is due until nothing is.
func (q *Queue) execute() {
	defer q.working.Done()
	for {
		q.gather()
		members, x := q.take()
		if x == nil {
			return
		}
		begin := time.Now()
		rows := 0
		works := make([]*work, len(members))
		for i, w := range members {
			works[i] = w.work
			rows += w.Rows
			q.began(w.work, begin.Sub(w.Since))
		}
		q.run(x.ctx, works)
		x.cancel()
		q.mu.Lock()
		q.inside -= rows
		q.ran(time.Since(begin), rows)
		q.mu.Unlock()
	}
}

// gather lets handlers come in that are ready to: without this an executor would drain the queue again before those whom it has just answered, and
// those whose requests have arrived, are scheduled, and run batches of one.
func (q *Queue) gather() {
	q.mu.Lock()
	rows := q.setup.MaxRows
	q.mu.Unlock()
	if rows > 1 {
		runtime.Gosched()
	}
}

// take takes one execution's requests out of the queue, and drops who never runs. Where nothing is due the executor is idle again, and the execution
// nil.
func (q *Queue) take() ([]*Waiting, *execution) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopTimer()
	if q.running > q.places() || q.running > 1 && q.waitingRows < q.share() {
		q.running--
		return nil, nil
	}
	q.tidy()
	for _, w := range q.waiting {
		w.Gone = w.work.ctx.Err() == context.Canceled
	}
	now := time.Now()
	d := Plan(q.waiting, now, Limits{MaxRows: q.setup.MaxRows, MaxDelay: q.setup.MaxDelay})
	for _, drop := range d.Drops {
		w := q.waiting[drop.Index]
		f := fault.Expired()
		if w.work.ctx.Err() != nil {
			f = fault.Ended(w.work.ctx)
		}
		w.work.results = failed(w.work.parts, f, now.Sub(w.Since))
		close(w.work.done)
		q.inside -= w.Rows
		q.out(drop.Index)
	}
	var x *execution
	members := make([]*Waiting, len(d.Run))
	if len(d.Run) > 0 {
		x = &execution{members: len(d.Run)}
		x.ctx, x.cancel = context.WithCancel(context.Background())
	}
	for at, i := range d.Run {
		members[at] = q.waiting[i]
		members[at].work.execution = x
		q.out(i)
	}
	q.waiting = slices.DeleteFunc(q.waiting, func(w *Waiting) bool { return w == nil })
	if x == nil {
		q.running--
		if !d.Wait.IsZero() {
			q.due = d.Wait
			q.timer = time.AfterFunc(d.Wait.Sub(now), q.ring)
		}
		return nil, nil
	}
	q.wake()
	return members, x
}

// out marks a request as taken.
func (q *Queue) out(i int) {
	rows := q.waiting[i].Rows
	q.waiting[i] = nil
	q.waitingRows -= rows
	q.options.Watcher.Queued(-rows)
}

func (q *Queue) ring() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopTimer()
	q.wake()
}

func (q *Queue) stopTimer() {
	if q.timer != nil {
		q.timer.Stop()
		q.timer, q.due = nil, time.Time{}
	}
}

// ran learns from an execution. q.mu is held.
func (q *Queue) ran(took time.Duration, rows int) {
	if q.typical == 0 {
		q.typical = float64(took)
	}
	if q.perRow == 0 {
		q.perRow = float64(took) / float64(rows)
	}
	q.typical += (float64(took) - q.typical) * typicalWeight
	q.perRow += (float64(took)/float64(rows) - q.perRow) * typicalWeight
}

func (q *Queue) began(w *work, wait time.Duration) {
	for i := range w.parts {
		w.results[i].Elapsed.Queue = wait
		q.options.Watcher.Began(wait)
	}
}

// failed are the results of parts that never ran.
func failed(parts []Part, f *fault.Fault, waited time.Duration) []Result {
	results := make([]Result, len(parts))
	for i := range results {
		results[i] = Result{Elapsed: Elapsed{Queue: waited}, Err: f, Rows: 1}
	}
	return results
}
