// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// known is what the catalog said of one model. It is never changed, only replaced.
type known struct {
	defaultVersion string
	labels         map[string]string
	// The features of each version by its number; nil where the catalog does not know the version.
	slots map[string]map[string]*slot
	// Whether there is no catalog to ask again.
	noCatalog bool
}

func newKnown(model *inferencev1.Model) *known {
	k := &known{
		defaultVersion: model.GetDefaultVersion(),
		labels:         model.GetLabels(),
		slots:          map[string]map[string]*slot{},
	}
	for _, version := range model.GetVersions() {
		switch version.GetState() {
		case inferencev1.ModelState_MODEL_STATE_READY, inferencev1.ModelState_MODEL_STATE_DRAINING:
			slots := make(map[string]*slot, len(version.GetFeatures()))
			for _, feature := range version.GetFeatures() {
				slots[feature.GetName()] = &slot{feature.GetType(), feature.GetShape()}
			}
			k.slots[version.GetVersion()] = slots
		}
	}
	return k
}

// version gives the number that a request's model_version stands for.
func (k *known) version(asked string) string {
	if asked == "" {
		return k.defaultVersion
	}
	if number, is := k.labels[asked]; is {
		return number
	}
	return asked
}

// moved is k after an answer has shown what a request's model_version stands for now.
func (k *known) moved(asked, version string) *known {
	changed := *k
	switch {
	case asked == "":
		changed.defaultVersion = version
	case asked != version:
		changed.labels = maps.Clone(k.labels)
		if changed.labels == nil {
			changed.labels = map[string]string{}
		}
		changed.labels[asked] = version
	}
	if _, there := k.slots[version]; !there {
		changed.slots = maps.Clone(k.slots)
		changed.slots[version] = nil
	}
	return &changed
}

func (c *Client) remember(model string, k *known) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k == nil {
		delete(c.known, model)
	} else {
		c.known[model] = k
	}
}

func (c *Client) remembered(model string) *known {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[model]
}

// lookUp asks the catalog. Where that refuses, the inference service is asked all the same: it alone judges a request.
func (c *Client) lookUp(ctx context.Context, model string) (*known, error) {
	response, err := c.catalog.GetModel(ctx, &inferencev1.GetModelRequest{ModelId: model})
	if err == nil {
		k := newKnown(response.GetModel())
		c.remember(model, k)
		return k, nil
	}
	failure := newError(err)
	switch failure.Code {
	case codes.Unimplemented, codes.PermissionDenied: // asking again is no use
		k := &known{noCatalog: true}
		c.remember(model, k)
		return k, nil
	case codes.NotFound, codes.InvalidArgument:
		c.remember(model, nil)
		return &known{slots: map[string]map[string]*slot{}}, nil
	}
	return nil, failure
}

// outcome is one row's: a response or an error.
type outcome struct {
	response *inferencev1.PredictResponse
	err      *Error
}

func (o *outcome) result(model string) Result {
	if o.err != nil {
		return Result{Err: o.err}
	}
	return Result{Answer: newAnswer(model, o.response)}
}

// encoded is one row as it is sent, or why it cannot be.
type encoded struct {
	request *inferencev1.PredictRequest
	err     *Error
}

type send func(context.Context, []*inferencev1.PredictRequest) ([]outcome, error)

// ask encodes rows as the model's features ask for, and sends them.
//
// Those that turn out to be encoded for another version than the one that answers are sent a second time. Otherwise a new version
// would refuse values of the old kind for ever or, worse, take a float32 where it could have had the double. Twice is harmless: a
// prediction only reads.
func (c *Client) ask(ctx context.Context, model string, rows []Features, q *question, send send) ([]outcome, error) {
	encodedRows := make([]encoded, len(rows))
	if allExplicit(rows) {
		for i, row := range rows {
			encodedRows[i] = encode(model, row, q, i, nil)
		}
		return sendGood(ctx, encodedRows, send)
	}
	k := c.remembered(model)
	fresh := k == nil
	if fresh {
		var err error
		if k, err = c.lookUp(ctx, model); err != nil {
			return nil, err
		}
	}
	used := k.slots[k.version(q.version)]
	for i, row := range rows {
		encodedRows[i] = encode(model, row, q, i, used)
	}
	outcomes, err := sendGood(ctx, encodedRows, send)
	if err != nil || k.noCatalog {
		return outcomes, err
	}

	if slices.ContainsFunc(outcomes, func(o outcome) bool { return doubtful(o, k, fresh) }) {
		if k, err = c.lookUp(ctx, model); err != nil {
			return nil, err
		}
	}
	var changed []int
	for i := range outcomes {
		version := k.version(q.version)
		if response := outcomes[i].response; response != nil && response.GetModelVersion() != version {
			version = response.GetModelVersion()
			k = k.moved(q.version, version)
			c.remember(model, k)
		}
		if slots := k.slots[version]; slots != nil && !sameSlots(slots, used) {
			if again := encode(model, rows[i], q, i, slots); !same(encodedRows[i], again) {
				encodedRows[i] = again
				changed = append(changed, i)
			}
		}
	}
	if len(changed) == 0 {
		return outcomes, nil
	}
	second := make([]encoded, len(changed))
	for n, i := range changed {
		second[n] = encodedRows[i]
	}
	better, err := sendGood(ctx, second, send)
	if err != nil {
		return nil, err
	}
	for n, i := range changed {
		outcomes[i] = better[n]
	}
	return outcomes, nil
}

// doubtful tells whether the catalog has to be asked again to know if a row was encoded for the version that answered.
func doubtful(o outcome, k *known, fresh bool) bool {
	if o.response != nil {
		_, there := k.slots[o.response.GetModelVersion()]
		return !there
	}
	return !fresh && strings.HasPrefix(o.err.Reason, "FEATURE_")
}

func allExplicit(rows []Features) bool {
	for _, row := range rows {
		for _, value := range row {
			if _, explicit := value.(*inferencev1.FeatureValue); !explicit {
				return false
			}
		}
	}
	return true
}

func encode(model string, row Features, q *question, index int, slots map[string]*slot) encoded {
	features := make(map[string]*inferencev1.FeatureValue, len(row))
	refusals := map[string]*refused{}
	for name, value := range row {
		written, refusal := writeValue(value, slots[name])
		if refusal == nil && !utf8.ValidString(name) {
			refusal = mismatch("expected a name in UTF-8")
		}
		if refusal != nil {
			refusals[name] = refusal
			continue
		}
		features[name] = written
	}
	if len(refusals) > 0 {
		names := slices.Sorted(maps.Keys(refusals)) // a map has no order; an error has
		names = names[:min(len(names), maxViolations)]
		violations := make([]Violation, len(names))
		for i, name := range names {
			field := quote(name)
			violations[i] = Violation{"features[" + field + "]", "feature " + field + ": " + refusals[name].text}
		}
		return encoded{err: newRefusal(model, refusals[names[0]].reason, violations)}
	}
	return encoded{request: &inferencev1.PredictRequest{
		ModelId:      model,
		ModelVersion: q.version,
		RequestId:    q.requestID(index),
		Config:       q.config,
		Features:     features,
	}}
}

// maxViolations is how many a status lists, as the contract says.
const maxViolations = 16

func same(a, b encoded) bool {
	if a.err != nil || b.err != nil {
		return a.err != nil && b.err != nil && proto.Equal(a.err.status.Proto(), b.err.status.Proto())
	}
	return proto.Equal(a.request, b.request)
}

func sameSlots(a, b map[string]*slot) bool {
	return maps.EqualFunc(a, b, func(x, y *slot) bool { return x.kind == y.kind && slices.Equal(x.shape, y.shape) })
}

// sendGood sends what could be encoded; the errors of the rest stay in their places.
func sendGood(ctx context.Context, rows []encoded, send send) ([]outcome, error) {
	var good []*inferencev1.PredictRequest
	for _, row := range rows {
		if row.err == nil {
			good = append(good, row.request)
		}
	}
	var answered []outcome
	// An empty batch is sent: what becomes of it is the server's to say.
	if len(good) > 0 || len(rows) == 0 {
		var err error
		if answered, err = send(ctx, good); err != nil {
			return nil, err
		}
	}
	outcomes := make([]outcome, len(rows))
	for i, row := range rows {
		if row.err != nil {
			outcomes[i].err = row.err
			continue
		}
		outcomes[i], answered = answered[0], answered[1:]
	}
	return outcomes, nil
}

func (c *Client) sendOne(ctx context.Context, requests []*inferencev1.PredictRequest) ([]outcome, error) {
	response, err := c.inference.Predict(ctx, requests[0])
	if err != nil {
		return []outcome{{err: newError(err)}}, nil
	}
	return []outcome{{response: response}}, nil
}

func (c *Client) sendBatch(ctx context.Context, requests []*inferencev1.PredictRequest) ([]outcome, error) {
	response, err := c.inference.BatchPredict(ctx, &inferencev1.BatchPredictRequest{Requests: requests})
	if err != nil {
		return nil, newError(err)
	}
	if got := len(response.GetResults()); got != len(requests) {
		return nil, defect("expected %d results, got %d", len(requests), got)
	}
	outcomes := make([]outcome, len(requests))
	for i, result := range response.GetResults() {
		switch kind := result.GetResult().(type) {
		case *inferencev1.BatchPredictResult_Response:
			outcomes[i].response = kind.Response
		case *inferencev1.BatchPredictResult_Error:
			outcomes[i].err = errorFromProto(kind.Error)
		default:
			outcomes[i].err = defect("expected a response or an error, got neither")
		}
	}
	return outcomes, nil
}
