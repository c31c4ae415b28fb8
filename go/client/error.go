// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is a failed call, or the failed row of a batch.
type Error struct {
	// Code is the status code: what kind of failure it is.
	Code codes.Code
	// Reason is the name of an inference.v1.ErrorReason without its prefix ("FEATURE_MISSING"), for programs. Empty where no Concord
	// server spoke: a broken connection, a proxy, another kind of server.
	Reason string
	// Message says what was expected and what came, for people.
	Message string
	// Violations is everything that is wrong with the request, in order, at most 16; for code InvalidArgument.
	Violations []Violation
	// RetryDelay is the time after which a retry may help; 0 where the server names none.
	RetryDelay time.Duration
	// Metadata is what the reason is about: model_id and model_version where they are known.
	Metadata map[string]string

	status *status.Status
}

// Violation is one thing wrong with a request.
type Violation struct {
	// Field is the path in the request in proto names, for example features["mean radius"].
	Field string
	// Description says what was expected and what came.
	Description string
}

// Error gives the code, the reason and the message.
func (e *Error) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("%v: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%v %s: %s", e.Code, e.Reason, e.Message)
}

// GRPCStatus gives the whole status with all its details, for google.golang.org/grpc/status.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Is reports a passed deadline as context.DeadlineExceeded and a cancelled call as context.Canceled, on whichever side it was noticed.
func (e *Error) Is(target error) bool {
	return (e.Code == codes.DeadlineExceeded && target == context.DeadlineExceeded) ||
		(e.Code == codes.Canceled && target == context.Canceled)
}

// newError makes an *Error of whatever a stub returned.
func newError(err error) *Error {
	return errorFromStatus(status.Convert(err))
}

func errorFromProto(s *rpcstatus.Status) *Error { return errorFromStatus(status.FromProto(s)) }

func errorFromStatus(s *status.Status) *Error {
	e := &Error{Code: s.Code(), Message: s.Message(), status: s}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			e.Reason, e.Metadata = d.GetReason(), d.GetMetadata()
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{Field: v.GetField(), Description: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryDelay = d.GetRetryDelay().AsDuration()
		}
	}
	return e
}

// newRefusal is an error found before sending, in the form in which a server would have sent it.
func newRefusal(model, reason string, violations []Violation) *Error {
	message := violations[0].Description
	if more := len(violations) - 1; more > 0 {
		message += fmt.Sprintf(" (and %d more)", more)
	}
	bad := &errdetails.BadRequest{}
	for _, v := range violations {
		bad.FieldViolations = append(bad.FieldViolations,
			&errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
	}
	plain := status.New(codes.InvalidArgument, message)
	detailed, err := plain.WithDetails(
		&errdetails.ErrorInfo{Reason: reason, Domain: "concord", Metadata: map[string]string{"model_id": model}}, bad)
	if err != nil { // a model id or feature name that is not UTF-8 fits into no message
		return &Error{Code: codes.InvalidArgument, Reason: reason, Message: message, Violations: violations, status: plain}
	}
	return errorFromStatus(detailed)
}

// defect is an answer that breaks the contract.
func defect(format string, arguments ...any) *Error {
	return errorFromStatus(status.Newf(codes.Internal, "the server's answer breaks the contract: "+format, arguments...))
}
