// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
)

// unserved is the service and the method of calls that are not served: what callers write becomes no label.
const unserved = "unknown"

type methodName struct{ service, name string }

// Method is a method that calls are counted for.
type Method struct {
	telemetry *Telemetry
	service   string // full name
	name      string // bare
	index     int    // among all methods
	span      spanStart
}

// Method is the method of a service by its full name, which is served here.
func (t *Telemetry) Method(service, name string) *Method {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := methodName{service, name}
	if m := t.methods[key]; m != nil {
		return m
	}
	m := &Method{telemetry: t, service: service, name: name, index: len(t.methods), span: newSpanStart(service, name)}
	t.methods[key] = m
	return m
}

// Unserved is the method of all calls that are not served.
func (t *Telemetry) Unserved() *Method { return t.Method(unserved, unserved) }

// Call is one call under way, and its context. Its methods are for the goroutine that handles the call.
type Call struct {
	context.Context
	method    *Method
	begin     time.Time
	remote    trace.SpanContext // the caller's; zero where nobody wants to know it, or there is none
	span      trace.Span        // nil where it is not recorded
	requestID string
	version   *Version // that answers; nil: none so far
	several   bool     // versions were named
	refused   []string // reasons of the items of a batch that failed
	runs      []run    // only where there is a span
	most      run      // the largest of each
}

// run is one execution that the call waited for.
type run struct {
	began          time.Time // to run; zero where it never did
	queue, compute time.Duration
	rows           int
	text           *Text // where it generated a text
}

// Text is a text that a request of the call got.
type Text struct {
	Began          time.Time     // when it had a slot; zero where it never had one
	First          time.Time     // when its first token was there; zero where there was none
	Queue, Compute time.Duration // its wait for a slot, and the executions that it had a part in
	Rows           int           // the most texts that shared one of them
	PromptTokens   int
	Tokens         int // generated
	end            time.Time
}

// maxRuns is how many executions of one call are shown as spans.
const maxRuns = 16

type callKey struct{}

// Value gives the call itself to CallOf.
func (c *Call) Value(key any) any {
	if key == (callKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// CallOf is the call that a context belongs to, or nil.
func CallOf(ctx context.Context) *Call {
	c, _ := ctx.Value(callKey{}).(*Call)
	return c
}

// Begin begins a call. Its End must follow. What it gives is the context to go on with, and the call, which is nil where m is.
func (m *Method) Begin(ctx context.Context) (context.Context, *Call) {
	if m == nil {
		return ctx, nil
	}
	t := m.telemetry
	c := &Call{Context: ctx, method: m, begin: time.Now()}
	if t.traces != nil || t.logPPM.Load() > 0 {
		c.remote = remote(ctx)
		if t.traces != nil {
			c.span = t.traces.begin(c)
		}
	}
	t.metrics.open.Inc()
	return c, c
}

// Asks says which id the call's one request has.
func (c *Call) Asks(requestID string) {
	if c != nil {
		c.requestID = requestID
	}
}

// Answers says which version answers a request of the call.
func (c *Call) Answers(modelID, version string) {
	if c == nil || c.several {
		return
	}
	if now := c.version; now != nil {
		if now.name.model != modelID || now.name.version != version {
			c.version, c.several = nil, true
		}
		return
	}
	c.version = c.method.telemetry.Version(modelID, version)
}

// Refuses says that an item of a batch gets an error.
func (c *Call) Refuses(reason string) {
	if c != nil {
		c.refused = append(c.refused, reason)
	}
}

// Ran says how long a request of the call waited, and when the execution of so many rows that held it began and how long it took; began is zero where
// none did.
func (c *Call) Ran(began time.Time, queue, compute time.Duration, rows int) {
	if c == nil {
		return
	}
	r := run{began: began, queue: queue, compute: compute, rows: rows}
	if began.IsZero() {
		r.began, r.compute, r.rows = time.Now(), 0, 0 // it waited until now
	}
	if c.span != nil && len(c.runs) < maxRuns {
		for i := range c.runs {
			if c.runs[i] == r {
				return // another item of the same execution
			}
		}
		c.runs = append(c.runs, r)
	}
	c.most = run{queue: max(c.most.queue, queue), compute: max(c.most.compute, compute), rows: max(c.most.rows, r.rows)}
}

// Generated says what became of a text of the call, which has just ended.
func (c *Call) Generated(text Text) {
	if c == nil {
		return
	}
	if text.Began.IsZero() {
		c.Ran(time.Time{}, text.Queue, 0, 0)
		return
	}
	if c.span != nil && len(c.runs) < maxRuns {
		text.end = time.Now()
		c.runs = append(c.runs, run{began: text.Began, queue: text.Queue, rows: text.Rows, text: &text})
	}
	c.most = run{queue: max(c.most.queue, text.Queue), compute: max(c.most.compute, text.Compute), rows: max(c.most.rows, text.Rows)}
}

// End ends the call. The reason is that of its error, or nothing.
func (c *Call) End(code codes.Code, reason string) {
	if c == nil {
		return
	}
	t := c.method.telemetry
	code = known(code)
	t.metrics.open.Dec()
	if code != codes.OK {
		t.Rejected(reason)
	} else {
		for _, each := range c.refused {
			t.Rejected(each)
		}
	}
	version := c.version
	if version == nil {
		version = t.none
	}
	took := time.Since(c.begin)
	if !version.ended(c.method, code, took) {
		t.none.ended(c.method, code, took)
	}
	if c.span != nil {
		c.endSpan(version.name, code, reason)
	}
	if ppm := t.logPPM.Load(); ppm > 0 && c.isLogged(ppm) {
		c.write(version.name, code, reason, took)
	}
}
