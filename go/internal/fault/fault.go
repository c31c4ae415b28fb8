// SPDX-License-Identifier: Apache-2.0

// Package fault holds the failures that a caller sees: a reason for programs, a message for people, and where in the request the
// cause lies. How a failure travels is not its subject.
package fault

import (
	"errors"
	"fmt"
	"time"
)

// Reason says why a call failed; the names are those of inference.v1.ErrorReason without its prefix.
type Reason string

// The reasons, each with its meaning in errors.proto.
const (
	ModelNotFound        Reason = "MODEL_NOT_FOUND"
	VersionNotFound      Reason = "VERSION_NOT_FOUND"
	LabelNotFound        Reason = "LABEL_NOT_FOUND"
	ModelIDInvalid       Reason = "MODEL_ID_INVALID"
	ModelVersionInvalid  Reason = "MODEL_VERSION_INVALID"
	FeatureMissing       Reason = "FEATURE_MISSING"
	FeatureUnknown       Reason = "FEATURE_UNKNOWN"
	FeatureTypeMismatch  Reason = "FEATURE_TYPE_MISMATCH"
	FeatureShapeMismatch Reason = "FEATURE_SHAPE_MISMATCH"
	FeatureOutOfRange    Reason = "FEATURE_OUT_OF_RANGE"
	TensorMissing        Reason = "TENSOR_MISSING"
	TensorUnknown        Reason = "TENSOR_UNKNOWN"
	TensorDTypeMismatch  Reason = "TENSOR_DTYPE_MISMATCH"
	TensorShapeMismatch  Reason = "TENSOR_SHAPE_MISMATCH"
	TensorDataInvalid    Reason = "TENSOR_DATA_INVALID"
	OutputUnknown        Reason = "OUTPUT_UNKNOWN"
	ConfigInvalid        Reason = "CONFIG_INVALID"
	BatchEmpty           Reason = "BATCH_EMPTY"
	BatchTooLarge        Reason = "BATCH_TOO_LARGE"
	RequestMalformed     Reason = "REQUEST_MALFORMED"
	MethodNotSupported   Reason = "METHOD_NOT_SUPPORTED"
	ModelFailed          Reason = "MODEL_FAILED"
	ModelLoading         Reason = "MODEL_LOADING"
	ServerDraining       Reason = "SERVER_DRAINING"
	QueueFull            Reason = "QUEUE_FULL"
	MessageTooLarge      Reason = "MESSAGE_TOO_LARGE"
	OutputTooLarge       Reason = "OUTPUT_TOO_LARGE"
	StreamLimit          Reason = "STREAM_LIMIT"
	DeadlineExceeded     Reason = "DEADLINE_EXCEEDED"
	Cancelled            Reason = "CANCELLED"
	Unauthenticated      Reason = "UNAUTHENTICATED"
	PermissionDenied     Reason = "PERMISSION_DENIED"
	ModelExecutionFailed Reason = "MODEL_EXECUTION_FAILED"
	Internal             Reason = "INTERNAL"
	MethodUnimplemented  Reason = "METHOD_UNIMPLEMENTED"
	ServiceNotFound      Reason = "SERVICE_NOT_FOUND"
	VersionExists        Reason = "VERSION_EXISTS"
	LabelInvalid         Reason = "LABEL_INVALID"
	StagingUnset         Reason = "STAGING_UNSET"
	PromptTooLong        Reason = "PROMPT_TOO_LONG"
	PromptInvalid        Reason = "PROMPT_INVALID"
)

// MaxViolations is the most violations that one fault reports.
const MaxViolations = 16

// Violation is one thing wrong with a request.
type Violation struct {
	Reason  Reason
	Field   string // path in the request in proto names, for example features["mean radius"]
	Message string
}

// Fault is a failure that a caller sees. It is immutable once made.
type Fault struct {
	Reason       Reason
	Message      string
	Violations   []Violation   // of the request, at most MaxViolations; empty where the request is not to blame
	ModelID      string        // empty where unknown or malformed
	ModelVersion string        // empty where unknown or malformed
	Retry        time.Duration // when a retry may help; 0 is what the reason says
	Cause        error         // for the log alone; may be nil
}

// Error is the message for the caller.
func (f *Fault) Error() string { return f.Message }

// Unwrap is the cause.
func (f *Fault) Unwrap() error { return f.Cause }

// New makes a fault that the request is not to blame for.
func New(reason Reason, format string, args ...any) *Fault {
	return &Fault{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Invalid makes the fault of one violation. The message is "<field>: <text>".
func Invalid(reason Reason, field, format string, args ...any) *Fault {
	return FromViolations([]Violation{{reason, field, field + ": " + fmt.Sprintf(format, args...)}}, 1)
}

// FromViolations makes the fault of total violations, of which the first MaxViolations at most are given.
func FromViolations(violations []Violation, total int) *Fault {
	if len(violations) > MaxViolations {
		violations = violations[:MaxViolations]
	}
	message := violations[0].Message
	if total > 1 {
		message += fmt.Sprintf(" (and %d more)", total-1)
	}
	return &Fault{Reason: violations[0].Reason, Message: message, Violations: violations}
}

// At is the fault with the model that it concerns; a model already named stays.
func (f *Fault) At(modelID, modelVersion string) *Fault {
	if f.ModelID != "" {
		return f
	}
	g := *f
	g.ModelID, g.ModelVersion = modelID, modelVersion
	return &g
}

// InternalError hides a defect of the server from the caller and keeps it for the log.
func InternalError(cause error) *Fault {
	return &Fault{Reason: Internal, Message: "internal error", Cause: cause}
}

// From is the fault in err's chain, or an InternalError.
func From(err error) *Fault {
	var f *Fault
	if errors.As(err, &f) {
		return f
	}
	return InternalError(err)
}
