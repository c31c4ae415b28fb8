// SPDX-License-Identifier: Apache-2.0

package batch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/concord-inference/concord/go/internal/batch"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/tensor"
)

// The tests run in bubbles of testing/synctest: its clock moves only while all wait, and a goroutine that is left behind fails the test.

// graph is what a queue runs: it gives back its first input, by default at once.
type graph struct {
	do   func(ctx context.Context, in []tensor.Tensor) ([]tensor.Tensor, error)
	runs atomic.Int64
	mu   sync.Mutex
	rows []int64 // of each run
}

func (g *graph) run(ctx context.Context, in []tensor.Tensor, wanted []int, most int64) ([]tensor.Tensor, error) {
	g.runs.Add(1)
	g.mu.Lock()
	g.rows = append(g.rows, in[0].Shape[0])
	g.mu.Unlock()
	if g.do != nil {
		var err error
		if in, err = g.do(ctx, in); err != nil {
			return nil, err
		}
	}
	out := make([]tensor.Tensor, len(wanted))
	bytes := int64(0)
	for i, index := range wanted {
		out[i] = in[index]
		bytes += out[i].Bytes()
	}
	if most > 0 && bytes > most {
		return nil, errors.New("too large")
	}
	return out, nil
}

// counter is a Watcher that counts.
type counter struct{ queued, began, runs, requests, rows atomic.Int64 }

func (c *counter) Queued(rows int)       { c.queued.Add(int64(rows)) }
func (c *counter) Began(_ time.Duration) { c.began.Add(1) }
func (c *counter) Ran(requests, rows int, _ time.Duration) {
	c.runs.Add(1)
	c.requests.Add(int64(requests))
	c.rows.Add(int64(rows))
}

func newQueue(g *graph, watcher batch.Watcher, setup batch.Setup) *batch.Queue {
	q := batch.New(batch.Options{ModelID: "m", Version: "1", Run: g.run, Watcher: watcher, Fault: func(err error) *fault.Fault {
		return fault.New(fault.ModelExecutionFailed, "%s", err)
	}})
	q.Apply(setup, time.Second) // slow: nothing runs in its handler
	return q
}

// adaptive joins up to that many rows, one execution at a time.
func adaptive(rows int) batch.Setup {
	return batch.Setup{Policy: batch.Adaptive, Executors: 1, MaxRows: rows, CallRows: rows, MaxQueueRows: 1024}
}

// row is one row whose second axis has the values' number.
func row(values ...byte) batch.Part {
	return batch.Part{Inputs: []tensor.Tensor{{DType: tensor.Uint8, Shape: []int64{1, int64(len(values))}, Data: values}}, Wanted: []int{0}}
}

// asked is a request under way.
type asked struct {
	cancel context.CancelFunc
	result batch.Result
	done   chan struct{}
}

func ask(q *batch.Queue, part batch.Part, deadline time.Duration) *asked {
	ctx, cancel := context.WithCancel(context.Background())
	if deadline > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), deadline)
	}
	a := &asked{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		defer cancel()
		a.result = q.One(ctx, part)
	}()
	return a
}

func (a *asked) want(t *testing.T, what string, reason fault.Reason) {
	t.Helper()
	<-a.done
	got := fault.Reason("")
	if a.result.Err != nil {
		got = a.result.Err.Reason
	}
	if got != reason {
		t.Errorf("%s: got %q (%v), want %q", what, got, a.result.Err, reason)
	}
}

// blocked is a graph whose runs last until they are let go, whatever their context says.
func blocked() (*graph, chan struct{}) {
	release := make(chan struct{})
	return &graph{do: func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
		<-release
		return in, nil
	}}, release
}

func TestWaitersRunTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, release := blocked()
		c := &counter{}
		q := newQueue(g, c, adaptive(4))
		first := ask(q, row(0), 0)
		synctest.Wait()
		var others []*asked
		for i := range 6 {
			others = append(others, ask(q, row(byte(i+1)), 0))
			synctest.Wait()
		}
		if got := c.queued.Load(); got != 6 {
			t.Errorf("%d rows wait", got)
		}
		time.Sleep(time.Second)
		close(release)
		first.want(t, "first", "")
		for i, a := range others {
			a.want(t, fmt.Sprint(i), "")
			if want := []int{4, 2}[i/4]; a.result.Rows != want || !slices.Equal(a.result.Outputs[0].Data, []byte{byte(i + 1)}) || a.result.Outputs[0].Shape[0] != 1 {
				t.Errorf("%d: got %+v", i, a.result)
			}
			if a.result.Elapsed.Queue < time.Second {
				t.Errorf("%d: waited %v", i, a.result.Elapsed.Queue)
			}
		}
		q.Close()
		if !slices.Equal(g.rows, []int64{1, 4, 2}) || c.queued.Load() != 0 || c.began.Load() != 7 || c.runs.Load() != 3 || c.requests.Load() != 7 || c.rows.Load() != 7 {
			t.Errorf("runs of %v rows, watched %+v", g.rows, c)
		}
	})
}

func TestWhatDiffersDoesNotMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, release := blocked()
		q := newQueue(g, nil, adaptive(8))
		waiting := []*asked{ask(q, row(0), 0)}
		synctest.Wait()
		twice := row(5)
		twice.Wanted = []int{0, 0}
		typed := row(6)
		typed.Inputs[0].DType = tensor.Int8
		none := batch.Part{Inputs: []tensor.Tensor{{DType: tensor.Uint8, Shape: []int64{0, 1}}}, Wanted: []int{0}}
		for _, p := range []batch.Part{row(1), row(2, 2), twice, typed, none, none, row(3), row(4, 4)} {
			waiting = append(waiting, ask(q, p, 0))
			synctest.Wait()
		}
		close(release)
		for i, a := range waiting {
			a.want(t, fmt.Sprint(i), "")
		}
		if !slices.Equal(g.rows, []int64{1, 2, 2, 1, 1, 0, 0}) {
			t.Errorf("runs of %v rows", g.rows)
		}
		q.Close()
	})
}

// TestExpiredNeverRun lets 10,000 requests expire in the queue, and cancels as many.
func TestExpiredNeverRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, release := blocked()
		c := &counter{}
		setup := adaptive(64)
		setup.MaxQueueRows = 20000
		q := newQueue(g, c, setup)
		first := ask(q, row(0), 0)
		synctest.Wait()
		var expired, cancelled []*asked
		for range 10000 {
			expired = append(expired, ask(q, row(1), time.Second))
			cancelled = append(cancelled, ask(q, row(2), 0))
		}
		synctest.Wait()
		if got := c.queued.Load(); got != 20000 {
			t.Fatalf("%d rows wait", got)
		}
		for _, a := range cancelled {
			a.cancel()
		}
		synctest.Wait()
		if got := c.queued.Load(); got != 10000 {
			t.Errorf("cancelled requests keep their places: %d rows wait", got)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := c.queued.Load(); got != 0 {
			t.Errorf("expired requests keep their places: %d rows wait", got)
		}
		close(release)
		first.want(t, "first", "")
		for i := range expired {
			expired[i].want(t, "expired", fault.DeadlineExceeded)
			cancelled[i].want(t, "cancelled", fault.Cancelled)
		}
		if g.runs.Load() != 1 || c.rows.Load() != 1 {
			t.Errorf("%d runs of %d rows", g.runs.Load(), c.rows.Load())
		}
		late, cancel := context.WithDeadline(context.Background(), time.Now())
		defer cancel()
		if result := q.One(late, row(3)); result.Err == nil || result.Err.Reason != fault.DeadlineExceeded || g.runs.Load() != 1 {
			t.Errorf("on arrival: got %+v", result)
		}
		q.Close()
	})
}

func TestAFullQueueRefusesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, release := blocked()
		setup := adaptive(4)
		setup.MaxQueueRows = 2
		q := newQueue(g, nil, setup)
		waiting := []*asked{ask(q, row(0), 0)}
		synctest.Wait()
		large := batch.Part{Inputs: []tensor.Tensor{tensor.Make(tensor.Uint8, []int64{9, 1})}, Wanted: []int{0}}
		alone := ask(q, large, 0) // more than there ever is room for: it waits alone
		synctest.Wait()
		refused := ask(q, row(1), 0)
		refused.want(t, "beside a large one", fault.QueueFull)
		if f := refused.result.Err; f.Message != `the queue of model "m" version 1 is full: expected at most 2 rows to wait` || f.Retry < time.Millisecond || f.Retry > 5*time.Second {
			t.Errorf("got %+v", f)
		}
		alone.cancel()
		alone.want(t, "cancelled", fault.Cancelled)
		for i := range 2 {
			waiting = append(waiting, ask(q, row(byte(i)), 0))
			synctest.Wait()
		}
		ask(q, row(3), 0).want(t, "third", fault.QueueFull)
		waiting[1].cancel()
		waiting[1].want(t, "left", fault.Cancelled)
		waiting[1] = ask(q, row(4), 0) // there is room at once
		synctest.Wait()
		close(release)
		for i, a := range waiting {
			a.want(t, fmt.Sprint(i), "")
		}
		q.Close()
	})
}

// TestABadRowFailsAlone runs rows with a poison among them, also where a run loses rows.
func TestABadRowFailsAlone(t *testing.T) {
	for _, do := range []func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error){
		func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			if slices.Contains(in[0].Data, 13) {
				return nil, errors.New("unlucky")
			}
			return in, nil
		},
		func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			if in[0].Data[0] == 13 {
				return nil, errors.New("unlucky")
			}
			return []tensor.Tensor{in[0].Rows(0, 1)}, nil
		},
	} {
		q := newQueue(&graph{do: do}, nil, adaptive(8))
		parts := []batch.Part{row(1), row(13), row(2), row(3)}
		got := make([]batch.Result, len(parts))
		q.All(context.Background(), parts, func(i int, r *batch.Result) bool { got[i] = *r; return true })
		for i, p := range parts {
			if bad := p.Inputs[0].Data[0] == 13; bad != (got[i].Err != nil) || !bad && (!slices.Equal(got[i].Outputs[0].Data, p.Inputs[0].Data) || got[i].Rows != 1) {
				t.Errorf("%d: got %+v", i, got[i])
			}
		}
		q.Close()
	}
}

// TestOutputsAreLimitedForEach lets one of a joint execution have too large an answer.
func TestOutputsAreLimitedForEach(t *testing.T) {
	q := newQueue(&graph{}, nil, adaptive(8))
	parts := []batch.Part{row(1, 2, 3), row(4, 5, 6), row(7, 8, 9)}
	parts[0].Most, parts[1].Most, parts[2].Most = 100, 2, 3
	q.All(context.Background(), parts, func(i int, r *batch.Result) bool {
		if (r.Err != nil) != (i == 1) || i == 1 && (r.Err.Reason != fault.OutputTooLarge || r.Err.Message != "the answer of 3 bytes is larger than the limit of 2 bytes") {
			t.Errorf("%d: got %+v", i, r)
		}
		return true
	})
	q.Close()
}

// TestWhoLeavesARun leaves an execution of two: the first to go is answered at once and hurts nobody, with the last the run ends.
func TestWhoLeavesARun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int64
		g, release := blocked()
		q := newQueue(g, nil, adaptive(8))
		first := ask(q, row(0), 0)
		synctest.Wait()
		second, third := ask(q, row(1), time.Hour), ask(q, row(2), 0)
		synctest.Wait()
		g.do = func(ctx context.Context, _ []tensor.Tensor) ([]tensor.Tensor, error) {
			<-ctx.Done()
			ended.Add(1)
			return nil, ctx.Err()
		}
		close(release)
		first.want(t, "first", "")
		synctest.Wait()
		third.cancel()
		third.want(t, "third", fault.Cancelled)
		synctest.Wait()
		if ended.Load() != 0 {
			t.Error("the run ended with one of two")
		}
		begin := time.Now()
		second.want(t, "second", fault.DeadlineExceeded)
		if waited := time.Since(begin); waited > time.Hour {
			t.Errorf("the deadline was answered %v late", waited-time.Hour)
		}
		synctest.Wait()
		if ended.Load() != 1 || g.runs.Load() != 2 {
			t.Errorf("%d of %d runs ended early", ended.Load(), g.runs.Load())
		}
		q.Close()
	})
}

// TestARunThatCannotEnd answers its caller at the deadline, and Close waits for it.
func TestARunThatCannotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, release := blocked()
		q := newQueue(g, nil, adaptive(8))
		a := ask(q, row(0), time.Second)
		a.want(t, "the caller", fault.DeadlineExceeded)
		closed := make(chan struct{})
		go func() {
			q.Close()
			close(closed)
		}()
		synctest.Wait()
		select {
		case <-closed:
			t.Error("closed under a run")
		default:
		}
		close(release)
		<-closed
	})
}

func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &graph{}
		setup := adaptive(3)
		setup.MaxDelay = 5 * time.Millisecond
		q := newQueue(g, nil, setup)
		begin := time.Now()
		ask(q, row(1), 0).want(t, "alone", "")
		if took := time.Since(begin); took != setup.MaxDelay {
			t.Errorf("alone: %v", took)
		}
		begin = time.Now()
		a := ask(q, row(1), 0)
		time.Sleep(2 * time.Millisecond)
		b := ask(q, row(2), 0)
		a.want(t, "a", "")
		b.want(t, "b", "")
		if took := time.Since(begin); took != setup.MaxDelay || a.result.Rows != 2 {
			t.Errorf("two: %v, %+v", took, a.result)
		}
		begin = time.Now()
		for _, x := range []*asked{ask(q, row(1), 0), ask(q, row(2), 0), ask(q, row(3), 0)} {
			x.want(t, "full", "")
		}
		hurried := ask(q, row(1), 5*time.Millisecond)
		hurried.want(t, "hurried", "")
		if took := time.Since(begin); took != 0 {
			t.Errorf("full and hurried: %v", took)
		}
		q.Close()
	})
}

// TestABatchLeavesRoom sends a call of many rows: of its chunks no more wait than can run, and another request gets its turn.
// TestLargeRequestsOfOneCall are none too many for each other: each alone has room, two have not.
func TestLargeRequestsOfOneCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &graph{do: func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			time.Sleep(time.Second)
			return in, nil
		}}
		setup := adaptive(64)
		setup.Executors, setup.MaxQueueRows = 2, 100
		q := newQueue(g, &counter{}, setup)
		parts := make([]batch.Part, 20)
		for i := range parts {
			parts[i] = batch.Part{Wanted: []int{0}, Inputs: []tensor.Tensor{{DType: tensor.Uint8, Shape: []int64{60, 1}, Data: make([]byte, 60)}}}
		}
		answered := 0
		q.Each(context.Background(), parts, func(i int, r *batch.Result) bool {
			if r.Err != nil {
				t.Errorf("%d: %v", i, r.Err)
			}
			answered++
			return true
		})
		if answered != len(parts) {
			t.Errorf("%d answers", answered)
		}
		q.Close()
	})
}

func TestABatchLeavesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &graph{do: func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			time.Sleep(time.Second)
			return in, nil
		}}
		c := &counter{}
		setup := adaptive(10)
		setup.Executors, setup.MaxQueueRows = 2, 30
		q := newQueue(g, c, setup)
		parts := make([]batch.Part, 1000)
		for i := range parts {
			parts[i] = row(byte(i))
		}
		answered := 0
		done := make(chan struct{})
		go func() {
			defer close(done)
			q.All(context.Background(), parts, func(i int, r *batch.Result) bool {
				if r.Err != nil || !slices.Equal(r.Outputs[0].Data, parts[i].Inputs[0].Data) {
					t.Errorf("%d: %+v", i, r)
				}
				answered++
				return true
			})
		}()
		time.Sleep(100 * time.Millisecond)
		if waiting := c.queued.Load(); waiting > 20 {
			t.Errorf("%d rows of one call wait", waiting)
		}
		begin := time.Now()
		ask(q, row(7), 0).want(t, "another", "")
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("another waited %v", took)
		}
		<-done
		if answered != 1000 {
			t.Errorf("%d answers", answered)
		}
		// Who wants no more gets no more.
		runs := g.runs.Load()
		q.All(context.Background(), parts, func(int, *batch.Result) bool { return false })
		if more := g.runs.Load() - runs; more > 4 {
			t.Errorf("%d runs after enough", more)
		}
		q.Close()
	})
}

func TestApplyWhileRequestsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, release := blocked()
		setup := adaptive(1)
		q := newQueue(g, nil, setup)
		var all []*asked
		for i := range 4 {
			all = append(all, ask(q, row(byte(i)), 0))
			synctest.Wait()
		}
		if g.runs.Load() != 1 {
			t.Errorf("%d runs", g.runs.Load())
		}
		setup.Executors = 2
		q.Apply(setup, 0)
		synctest.Wait()
		if g.runs.Load() != 2 {
			t.Errorf("%d runs after an executor more", g.runs.Load())
		}
		setup.Executors, setup.MaxQueueRows = 1, 1
		q.Apply(setup, 0)
		ask(q, row(9), 0).want(t, "a shorter queue", fault.QueueFull)
		close(release)
		for i, a := range all {
			a.want(t, fmt.Sprint(i), "")
		}
		q.Close()
		if got := q.Setup(); got != setup {
			t.Errorf("got %+v", got)
		}
	})
}

// TestShortRunsNeedNoHandOver runs at once what is short, in the caller's own goroutine, and no more at once than there are executors.
func TestShortRunsNeedNoHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counter{}
		g := &graph{}
		q := newQueue(g, c, batch.Setup{Policy: batch.Inline, Executors: 2, MaxRows: 1, CallRows: 8, MaxQueueRows: 10})
		for range 100 {
			if r := q.One(context.Background(), row(1)); r.Err != nil || r.Rows != 1 {
				t.Fatalf("got %+v", r)
			}
		}
		release := make(chan struct{})
		g.do = func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			<-release
			return in, nil
		}
		var all []*asked
		for range 5 {
			all = append(all, ask(q, row(2), 0))
			synctest.Wait()
		}
		if running, waiting := g.runs.Load()-100, c.queued.Load(); running != 2 || waiting != 3 {
			t.Errorf("%d run, %d wait", running, waiting)
		}
		close(release)
		for _, a := range all {
			a.want(t, "one of five", "")
		}
		q.Close()
	})
}

func TestAPanicIsAnswered(t *testing.T) {
	g := &graph{do: func(context.Context, []tensor.Tensor) ([]tensor.Tensor, error) { panic("secret") }}
	q := newQueue(g, nil, adaptive(8))
	q.All(context.Background(), []batch.Part{row(1), row(2)}, func(_ int, r *batch.Result) bool {
		if r.Err == nil || r.Err.Reason != fault.Internal || r.Err.Message != "internal error" {
			t.Errorf("got %+v", r.Err)
		}
		return true
	})
	g.do = nil
	if r := q.One(context.Background(), row(3)); r.Err != nil {
		t.Errorf("afterwards: %v", r.Err)
	}
	func() {
		defer func() {
			if p := recover(); p != "mine" {
				t.Errorf("got %v", p)
			}
		}()
		q.All(context.Background(), []batch.Part{row(1)}, func(int, *batch.Result) bool { panic("mine") })
	}()
	q.Close()
}

// TestManyAtOnce has callers come, go and leave at once, on a real clock; it is for the race detector.
func TestManyAtOnce(t *testing.T) {
	for _, setup := range []batch.Setup{adaptive(8), {Policy: batch.Direct, Executors: 2, MaxRows: 1, CallRows: 4, MaxQueueRows: 16}, {Policy: batch.Inline, Executors: 3, MaxRows: 1, CallRows: 1, MaxQueueRows: 8}} {
		c := &counter{}
		q := newQueue(&graph{}, c, setup)
		var callers sync.WaitGroup
		for n := range 16 {
			callers.Go(func() {
				for i := range 200 {
					ctx, cancel := context.WithCancel(context.Background())
					if i%7 == n%7 {
						go cancel()
					}
					r := q.One(ctx, row(byte(n), byte(i)))
					cancel()
					if r.Err == nil && !slices.Equal(r.Outputs[0].Data, []byte{byte(n), byte(i)}) {
						t.Errorf("got %v for %d, %d", r.Outputs[0].Data, n, i)
					}
				}
			})
		}
		callers.Go(func() {
			for range 50 {
				q.Apply(setup, 0)
			}
		})
		callers.Wait()
		q.Close()
		if c.queued.Load() != 0 {
			t.Errorf("%d rows wait for ever", c.queued.Load())
		}
	}
}

// FuzzAll gives every row the answer that it gets alone, whatever its neighbours are.
func FuzzAll(f *testing.F) {
	f.Add([]byte{1, 2, 13, 4, 13, 13, 200, 7}, uint8(3))
	f.Add([]byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, values []byte, maxRows uint8) {
		g := &graph{do: func(_ context.Context, in []tensor.Tensor) ([]tensor.Tensor, error) {
			if slices.Contains(in[0].Data, 13) {
				return nil, errors.New("unlucky")
			}
			return in, nil
		}}
		q := newQueue(g, nil, adaptive(int(maxRows)+1))
		parts := make([]batch.Part, len(values))
		for i, v := range values {
			parts[i] = row(v)
			if v%5 == 0 {
				parts[i] = row(v, v)
			}
		}
		seen := 0
		q.All(context.Background(), parts, func(i int, together *batch.Result) bool {
			seen++
			alone := q.One(context.Background(), parts[i])
			if fmt.Sprint(together.Outputs) != fmt.Sprint(alone.Outputs) || (together.Err == nil) != (alone.Err == nil) {
				t.Errorf("row %d: together %+v, alone %+v", i, together, alone)
			}
			return true
		})
		q.Close()
		if seen != len(values) {
			t.Fatalf("%d of %d rows were answered", seen, len(values))
		}
	})
}
