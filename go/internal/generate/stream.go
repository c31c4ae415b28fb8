// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"context"
	"sync"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
)

// Token is one token of an answer.
type Token struct {
	ID   int32
	Text string // what of the text came with it; all of them together are the whole text
}

// Ending is how a generation ended.
type Ending struct {
	Err          *fault.Fault // nil where it ended by itself
	Reason       inferencev1.FinishReason
	PromptTokens int
	Tokens       int // that were delivered
	Seed         uint64
	Queue        time.Duration // from its coming to the engine to its slot
	Compute      time.Duration // of the runs that it had a part in
	Began        time.Time     // when it had its slot; zero where it never had one
	Decoding     time.Time     // when its first token was there; zero where none was
	Rows         int           // the most generations that shared a run with it, itself included
	First        time.Duration // from the request's arrival to its first token; 0 where there was none
	Rate         float64       // tokens after the first, by the seconds between the first and the last; 0 where there are fewer than two
}

// Generation is one request's text as it grows. One goroutine reads it; the engine never waits for that.
type Generation struct {
	ctx    context.Context
	signal chan struct{} // holds one where something has come since the reader looked

	mu     sync.Mutex
	tokens []Token // not yet read; never more than the context has
	spare  []Token // what the reader has read
	so     Ending  // what is known of the end before it has come
	ending *Ending
}

// Next waits until there are tokens that it has not given yet, or the end. The tokens are good until the next call. Once an ending is given it must
// not be called again. Where the generation's context ends first, that is the ending, and comes at once.
func (g *Generation) Next() ([]Token, *Ending) {
	for {
		g.mu.Lock()
		tokens, ending := g.tokens, g.ending
		if len(tokens) > 0 || ending != nil {
			g.tokens, g.spare = g.spare[:0], tokens
			g.mu.Unlock()
			return tokens, ending
		}
		g.mu.Unlock()
		select {
		case <-g.signal:
		case <-g.ctx.Done():
			g.mu.Lock()
			tokens, ending, so := g.tokens, g.ending, g.so
			g.mu.Unlock()
			if ending == nil {
				ending = &so
				ending.Err = fault.Ended(g.ctx)
			}
			return tokens, ending
		}
	}
}

// All waits for the end and gives everything.
func (g *Generation) All() ([]Token, *Ending) {
	var all []Token
	for {
		tokens, ending := g.Next()
		all = append(all, tokens...)
		if ending != nil {
			return all, ending
		}
	}
}

func (g *Generation) give(tokens []Token) {
	if len(tokens) == 0 {
		return
	}
	g.mu.Lock()
	g.tokens = append(g.tokens, tokens...)
	g.mu.Unlock()
	g.tell()
}

// note keeps what is known of the end so far.
func (g *Generation) note(so Ending) {
	g.mu.Lock()
	g.so = so
	g.mu.Unlock()
}

func (g *Generation) end(ending *Ending) {
	g.mu.Lock()
	g.ending = ending
	g.mu.Unlock()
	g.tell()
}

func (g *Generation) tell() {
	select {
	case g.signal <- struct{}{}:
	default:
	}
}
