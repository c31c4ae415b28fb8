// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
)

func TestOne(t *testing.T) {
	e := start(t, newFake(t, 2, 256), nil)
	g, f := e.Generate(context.Background(), ask("hello", 20))
	if f != nil {
		t.Fatal(f)
	}
	tokens, ending := g.All()
	if err := check("hello", 20, tokens, ending); err != nil {
		t.Error(err)
	}
	if ending.Rows != 1 || ending.First <= 0 || ending.Compute <= 0 || ending.Rate <= 0 || ending.Began.IsZero() {
		t.Errorf("got %+v", ending)
	}
}

// TestManyJoin lets generations join and leave between steps: each gets what it gets alone.
func TestManyJoin(t *testing.T) {
	t.Run("one picks", func(t *testing.T) { manyJoin(t, manyLogits) })
	t.Run("several pick", func(t *testing.T) { manyJoin(t, 0) })
}

func manyJoin(t *testing.T, many int) {
	d := newFake(t, 4, 256)
	e := start(t, d, nil)
	e.many = many
	random := rand.New(rand.NewPCG(1, 2))
	var all sync.WaitGroup
	for i := range 300 {
		prompt := fmt.Sprintf("%0*d", 1+random.IntN(60), i)
		most := 1 + random.IntN(60)
		all.Go(func() {
			g, f := e.Generate(context.Background(), ask(prompt, most))
			if f != nil {
				t.Error(f)
				return
			}
			tokens, ending := g.All()
			if err := check(prompt, most, tokens, ending); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	eventually(t, "all slots free", func() bool { return e.freeSlots() == 4 })
	shared := 0
	for _, size := range d.sizes {
		if size == 4 {
			shared++
		}
	}
	if shared == 0 {
		t.Error("no step was shared by all slots")
	}
}

// TestCancels cancels 200 generations at random moments, waiting, in their prompts and in their texts, while three others go on: no slot is kept for
// more than one run by somebody who is gone, the others' texts stay right, and nothing is left.
func TestCancels(t *testing.T) {
	before := runtime.NumGoroutine()
	d := newFake(t, 4, 512)
	var e *Engine
	var kept map[*active]bool // who was gone when the last run began
	ready := make(chan struct{})
	d.look = func() {
		<-ready
		e.mu.Lock()
		defer e.mu.Unlock()
		gone := map[*active]bool{}
		for _, a := range e.slots {
			if a != nil && a.gone {
				gone[a] = true
				if kept[a] {
					t.Error("a second run begins while a slot is kept by somebody who is gone")
				}
			}
		}
		kept = gone
	}
	e = start(t, d, nil)
	close(ready)
	random := rand.New(rand.NewPCG(3, 4))
	var others sync.WaitGroup
	var over atomic.Bool
	for i := range 3 {
		prompt := fmt.Sprint("other ", i)
		others.Go(func() {
			for !over.Load() {
				g, f := e.Generate(context.Background(), ask(prompt, 400))
				if f != nil {
					t.Error(f)
					return
				}
				tokens, ending := g.All()
				if err := check(prompt, 400, tokens, ending); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 200 {
		ctx, cancel := context.WithCancel(context.Background())
		prompt := fmt.Sprintf("%0*d", 1+random.IntN(200), i)
		g, f := e.Generate(ctx, ask(prompt, 300))
		if f != nil {
			t.Fatal(f)
		}
		var ending *Ending
		for n := random.IntN(12) - 4; n > 0 && ending == nil; n-- {
			_, ending = g.Next()
		}
		for range random.IntN(2000) {
			runtime.Gosched()
		}
		cancel()
		for ending == nil {
			_, ending = g.Next()
		}
		if ending.Err != nil && (ending.Err.Reason != fault.Cancelled || !ending.Began.IsZero() && ending.PromptTokens != len(prompt)) {
			t.Errorf("got %v, %+v", ending.Err, ending)
		}
	}
	over.Store(true)
	others.Wait()
	eventually(t, "all slots are free", func() bool { return e.freeSlots() == 4 })
	eventually(t, "no goroutine is left but the loop's", func() bool { return runtime.NumGoroutine() <= before+1 })
}

// TestCancelEndsThePrompt ends a run that nobody else waits for: the prompt's.
func TestCancelEndsThePrompt(t *testing.T) {
	d := newFake(t, 1, 256).gated()
	e := start(t, d, nil)
	ctx, cancel := context.WithCancel(context.Background())
	if _, f := e.Generate(ctx, ask("a prompt", 9)); f != nil {
		t.Fatal(f)
	}
	<-d.began
	cancel() // no step is let through
	eventually(t, "the slot is free", func() bool { return e.freeSlots() == 1 })
	go func() {
		for range 5 {
			d.gate <- struct{}{}
		}
	}()
	g, f := e.Generate(context.Background(), ask("next", 5))
	if f != nil {
		t.Fatal(f)
	}
	tokens, ending := g.All()
	if err := check("next", 5, tokens, ending); err != nil {
		t.Error(err)
	}
}

func TestWaiting(t *testing.T) {
	d := newFake(t, 1, 256).gated()
	e := start(t, d, func(o *Options) { o.MaxWaiting = 2 })
	var all []*Generation
	for i := range 3 {
		g, f := e.Generate(context.Background(), ask(fmt.Sprint(i), 1))
		if f != nil {
			t.Fatal(f)
		}
		all = append(all, g)
		if i == 0 {
			<-d.began // it has the slot
		}
	}
	_, f := e.Generate(context.Background(), ask("x", 1))
	if f == nil || f.Reason != fault.QueueFull || f.Retry < 10*time.Millisecond ||
		f.Message != `the queue of model "chat" version 1 is full: expected at most 2 generations to wait` {
		t.Errorf("got %v", f)
	}
	e.Apply(3)
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	late, f := e.Generate(ctx, ask("late", 1))
	if f == nil {
		if _, ending := late.All(); ending.Err.Reason != fault.DeadlineExceeded {
			t.Errorf("got %v", ending.Err)
		}
	} else if f.Reason != fault.DeadlineExceeded {
		t.Errorf("got %v", f)
	}
	eventually(t, "who is late waits no more", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.waiting) == 2
	})
	go func() {
		for range all {
			d.gate <- struct{}{}
		}
	}()
	for i, g := range all {
		tokens, ending := g.All()
		if err := check(fmt.Sprint(i), 1, tokens, ending); err != nil {
			t.Error(err)
		}
	}
}

// TestNobodyReads lets a generation run to its end without a reader: its slot is free, and what it has is bounded by its context.
func TestNobodyReads(t *testing.T) {
	e := start(t, newFake(t, 1, 64), nil)
	g, f := e.Generate(context.Background(), ask("unread", 1000))
	if f != nil {
		t.Fatal(f)
	}
	eventually(t, "the slot is free", func() bool { return e.freeSlots() == 1 })
	tokens, ending := g.All()
	if err := check("unread", 64-len("unread"), tokens, ending); err != nil {
		t.Error(err)
	}
}

// TestErrors lets the decoder fail: on one generation of a step alone the others go on; tokens that were there are delivered.
func TestErrors(t *testing.T) {
	d := newFake(t, 3, 256)
	d.fail = func(rows []Row) error {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, row := range rows {
			if len(row.Tokens) == 1 && row.Position > 10 && d.caches[row.Slot][5] == '1' {
				return errors.New("boom")
			}
		}
		return nil
	}
	d.gated()
	e := start(t, d, nil)
	stop := make(chan struct{})
	defer close(stop)
	var all []*Generation
	for i := range 3 {
		g, f := e.Generate(context.Background(), ask(fmt.Sprint("error", i), 30))
		if f != nil {
			t.Fatal(f)
		}
		all = append(all, g)
	}
	go func() {
		for {
			select {
			case d.gate <- struct{}{}:
			case <-stop:
				return
			}
		}
	}()
	failures := 0
	for i, g := range all {
		tokens, ending := g.All()
		prompt := fmt.Sprint("error", i)
		if ending.Err == nil {
			if err := check(prompt, 30, tokens, ending); err != nil {
				t.Error(err)
			}
			continue
		}
		failures++
		want, _ := greedy(prompt, len(tokens))
		if ending.Err.Reason != fault.ModelExecutionFailed || len(tokens) == 0 || len(tokens) != ending.Tokens || tokens[len(tokens)-1].ID != want[len(tokens)-1] {
			t.Errorf("got %v after %d tokens", ending.Err, len(tokens))
		}
	}
	if failures != 1 {
		t.Errorf("%d failed", failures)
	}
}

func TestClose(t *testing.T) {
	d := newFake(t, 1, 256).gated()
	tokenizer := &bytesTokenizer{}
	e := New(Options{ModelID: "chat", Version: "1", Tokenizer: tokenizer, Decoder: d, Chunk: 4, MaxWaiting: 1, Fault: fault.From})
	g, f := e.Generate(context.Background(), ask("closed", 5))
	if f != nil {
		t.Fatal(f)
	}
	<-d.began
	waiting, f := e.Generate(context.Background(), ask("waiting", 5))
	if f != nil {
		t.Fatal(f)
	}
	e.Close()
	for _, g := range []*Generation{g, waiting} {
		if _, ending := g.All(); ending.Err == nil || ending.Err.Reason != fault.Cancelled {
			t.Errorf("got %+v", ending)
		}
	}
}

// TestPanics keeps a defect from ending the process.
func TestPanics(t *testing.T) {
	d := newFake(t, 1, 256)
	var once sync.Once
	d.fail = func([]Row) (err error) {
		once.Do(func() { panic("defect") })
		return nil
	}
	e := start(t, d, nil)
	for i := range 2 {
		g, f := e.Generate(context.Background(), ask("again", 5))
		if f != nil {
			t.Fatal(f)
		}
		tokens, ending := g.All()
		if i == 0 {
			if ending.Err == nil || ending.Err.Reason != fault.Internal {
				t.Errorf("got %+v", ending)
			}
		} else if err := check("again", 5, tokens, ending); err != nil {
			t.Error(err)
		}
	}
}

// TestPrompts brings a prompt in chunks, of which those beside others are small.
func TestPrompts(t *testing.T) {
	d := newFake(t, 2, 256)
	e := start(t, d, func(o *Options) { o.Chunk = 10 })
	g, f := e.Generate(context.Background(), ask("0123456789012345678901234", 1))
	if f != nil {
		t.Fatal(f)
	}
	if _, ending := g.All(); ending.Err != nil || ending.Reason == inferencev1.FinishReason_FINISH_REASON_UNSPECIFIED {
		t.Errorf("got %+v", ending)
	}
	if runs := d.runsEnded(); runs != 3 {
		t.Errorf("%d runs", runs)
	}
}
