// SPDX-License-Identifier: Apache-2.0

package telemetry

import (
	"strings"
	"testing"
	"time"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"google.golang.org/grpc/codes"
)

func TestGenerations(t *testing.T) {
	tel := started(t)
	tel.State("chat", "1", inferencev1.ModelState_MODEL_STATE_LOADING)
	v := tel.Version("chat", "1")
	g := v.Generations(1 << 20)
	tel.State("chat", "1", inferencev1.ModelState_MODEL_STATE_READY)
	first := scrape(t, tel.Handler(), acceptText, "text/plain")
	first.want(t, `{__name__="inference_tokens_total", model="chat", version="1"}`, 0)
	first.want(t, `{__name__="inference_generations", model="chat", state="running", version="1"}`, 0)
	g.Waiting(3)
	g.Waiting(-1)
	g.Running(1)
	g.Began(2 * time.Millisecond)
	g.Ran(4)
	g.First(30 * time.Millisecond)
	g.Token()
	g.Token()
	g.Ended(5 * time.Millisecond)
	tel.Version("nobody", "1").Generations(1).Token() // no series come of it
	got := scrape(t, tel.Handler(), acceptOpenMetrics, "application/openmetrics-text")
	for series, value := range map[string]float64{
		`{__name__="inference_tokens_total", model="chat", version="1"}`:                                    2,
		`{__name__="inference_generations", model="chat", state="waiting", version="1"}`:                    2,
		`{__name__="inference_generations", model="chat", state="running", version="1"}`:                    1,
		`{__name__="inference_kv_cache_bytes", model="chat", version="1"}`:                                  1 << 20,
		`{__name__="inference_time_to_first_token_seconds_sum", model="chat", version="1"}`:                 0.03,
		`{__name__="inference_time_to_first_token_seconds_count", model="chat", version="1"}`:               1,
		`{__name__="inference_queue_rows", model="chat", version="1"}`:                                      2,
		`{__name__="inference_batch_rows_sum", model="chat", version="1"}`:                                  4,
		`{__name__="inference_stage_duration_seconds_sum", model="chat", stage="queue", version="1"}`:       0.002,
		`{__name__="inference_stage_duration_seconds_sum", model="chat", stage="compute", version="1"}`:     0.005,
		`{__name__="inference_stage_duration_seconds_count", model="chat", stage="compute", version="1"}`:   1,
		`{__name__="inference_time_to_first_token_seconds_bucket", le="0.05", model="chat", version="1"}`:   1,
		`{__name__="inference_time_to_first_token_seconds_bucket", le="0.025", model="chat", version="1"}`:  0,
		`{__name__="inference_model_state", model="chat", state="ready", version="1"}`:                      1,
		`{__name__="inference_stage_duration_seconds_count", model="chat", stage="queue", version="1"}`:     1,
		`{__name__="inference_batch_rows_count", model="chat", version="1"}`:                                1,
		`{__name__="inference_time_to_first_token_seconds_bucket", le="+Inf", model="chat", version="1"}`:   1,
		`{__name__="inference_time_to_first_token_seconds_bucket", le="0.0001", model="chat", version="1"}`: 0,
	} {
		got.want(t, series, value)
	}
	tel.State("chat", "1", inferencev1.ModelState_MODEL_STATE_UNSPECIFIED)
	g.Token()
	g.Running(-1)
	for series := range scrape(t, tel.Handler(), acceptText, "text/plain").series {
		if strings.Contains(series, `"chat"`) || strings.Contains(series, `"nobody"`) {
			t.Errorf("%s is left", series)
		}
	}
	var nothing *Telemetry
	none := nothing.Version("chat", "1").Generations(1)
	none.Waiting(1)
	none.Running(1)
	none.Began(0)
	none.Ran(1)
	none.First(0)
	none.Token()
	none.Ended(0)
}

func TestSpansOfTexts(t *testing.T) {
	received := collect(t)
	tel := started(t)
	_, call := tel.Method("a.B", "Stream").Begin(from(t, sampled))
	begin := time.Now()
	call.Generated(Text{
		Began: begin, First: begin.Add(time.Millisecond), Queue: 2 * time.Millisecond, Compute: 3 * time.Millisecond, Rows: 4, PromptTokens: 7, Tokens: 9,
	})
	call.Generated(Text{Began: begin, PromptTokens: 8}) // no token came
	call.Generated(Text{Queue: time.Millisecond})       // no more than a wait
	call.End(codes.OK, "")
	var nobody *Call
	nobody.Generated(Text{})
	flush(t, tel)
	queue, prefill, decode := received.named("queue"), received.named("prefill"), received.named("decode")
	if len(queue) != 3 || len(prefill) != 2 || len(decode) != 1 || len(received.named("compute")) != 0 {
		t.Fatalf("got %d, %d and %d spans", len(queue), len(prefill), len(decode))
	}
	if texts(prefill[0].GetAttributes())["prompt_tokens"] != "7" || texts(decode[0].GetAttributes())["tokens"] != "9" || texts(decode[0].GetAttributes())["batch_rows"] != "4" ||
		queue[0].GetStartTimeUnixNano() != uint64(begin.Add(-2*time.Millisecond).UnixNano()) || prefill[0].GetStartTimeUnixNano() != uint64(begin.UnixNano()) ||
		prefill[0].GetEndTimeUnixNano() != uint64(begin.Add(time.Millisecond).UnixNano()) || decode[0].GetStartTimeUnixNano() != prefill[0].GetEndTimeUnixNano() {
		t.Errorf("got %v, %v, %v", queue, prefill, decode)
	}
}
