// SPDX-License-Identifier: Apache-2.0

package server

import (
	"time"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

const domain = "concord"

// row is what gRPC makes of a reason.
type row struct {
	code  codes.Code
	retry time.Duration // 0: a retry does not help
}

// table is the only place where reasons meet status codes.
var table = map[fault.Reason]row{
	fault.ModelNotFound:        {code: codes.NotFound},
	fault.VersionNotFound:      {code: codes.NotFound},
	fault.LabelNotFound:        {code: codes.NotFound},
	fault.ServiceNotFound:      {code: codes.NotFound},
	fault.ModelIDInvalid:       {code: codes.InvalidArgument},
	fault.ModelVersionInvalid:  {code: codes.InvalidArgument},
	fault.FeatureMissing:       {code: codes.InvalidArgument},
	fault.FeatureUnknown:       {code: codes.InvalidArgument},
	fault.FeatureTypeMismatch:  {code: codes.InvalidArgument},
	fault.FeatureShapeMismatch: {code: codes.InvalidArgument},
	fault.FeatureOutOfRange:    {code: codes.InvalidArgument},
	fault.TensorMissing:        {code: codes.InvalidArgument},
	fault.TensorUnknown:        {code: codes.InvalidArgument},
	fault.TensorDTypeMismatch:  {code: codes.InvalidArgument},
	fault.TensorShapeMismatch:  {code: codes.InvalidArgument},
	fault.TensorDataInvalid:    {code: codes.InvalidArgument},
	fault.OutputUnknown:        {code: codes.InvalidArgument},
	fault.ConfigInvalid:        {code: codes.InvalidArgument},
	fault.BatchEmpty:           {code: codes.InvalidArgument},
	fault.BatchTooLarge:        {code: codes.InvalidArgument},
	fault.RequestMalformed:     {code: codes.InvalidArgument},
	fault.MethodNotSupported:   {code: codes.FailedPrecondition},
	fault.ModelFailed:          {code: codes.FailedPrecondition},
	fault.ModelLoading:         {code: codes.Unavailable, retry: time.Second},
	fault.ServerDraining:       {code: codes.Unavailable, retry: time.Second},
	fault.QueueFull:            {code: codes.ResourceExhausted, retry: 100 * time.Millisecond},
	fault.MessageTooLarge:      {code: codes.ResourceExhausted},
	fault.OutputTooLarge:       {code: codes.ResourceExhausted},
	fault.StreamLimit:          {code: codes.ResourceExhausted},
	fault.DeadlineExceeded:     {code: codes.DeadlineExceeded},
	fault.Cancelled:            {code: codes.Canceled},
	fault.Unauthenticated:      {code: codes.Unauthenticated},
	fault.PermissionDenied:     {code: codes.PermissionDenied},
	fault.ModelExecutionFailed: {code: codes.Internal},
	fault.Internal:             {code: codes.Internal},
	fault.MethodUnimplemented:  {code: codes.Unimplemented},
	fault.VersionExists:        {code: codes.AlreadyExists},
	fault.LabelInvalid:         {code: codes.InvalidArgument},
	fault.StagingUnset:         {code: codes.FailedPrecondition},
	fault.PromptTooLong:        {code: codes.InvalidArgument},
	fault.PromptInvalid:        {code: codes.InvalidArgument},
}

func codeOf(f *fault.Fault) codes.Code {
	if row, ok := table[f.Reason]; ok {
		return row.code
	}
	return codes.Internal
}

// retryOf is when a retry may help; 0 where it does not.
func retryOf(f *fault.Fault) time.Duration {
	if f.Retry > 0 {
		return f.Retry
	}
	return table[f.Reason].retry
}

// statusOf is the status of a fault, with its details.
func statusOf(f *fault.Fault) *spb.Status {
	info := &errdetails.ErrorInfo{Reason: string(f.Reason), Domain: domain}
	if model.IsID(f.ModelID) {
		info.Metadata = map[string]string{"model_id": f.ModelID}
		// A version number may be of any length, metadata may not.
		if model.IsVersion(f.ModelVersion) && len(f.ModelVersion) <= 128 {
			info.Metadata["model_version"] = f.ModelVersion
		}
	}
	code := codeOf(f)
	s := &spb.Status{Code: int32(code), Message: f.Message, Details: []*anypb.Any{detail(info)}}
	if code == codes.InvalidArgument {
		bad := &errdetails.BadRequest{}
		for _, v := range f.Violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Message})
		}
		s.Details = append(s.Details, detail(bad))
	}
	if retry := retryOf(f); retry > 0 {
		s.Details = append(s.Details, detail(&errdetails.RetryInfo{RetryDelay: durationpb.New(retry)}))
	}
	return s
}

// detail packs a message. Equal messages give equal bytes: the metadata's order in them is not left to chance.
func detail(message proto.Message) *anypb.Any {
	packed := &anypb.Any{}
	if err := anypb.MarshalFrom(packed, message, proto.MarshalOptions{Deterministic: true}); err != nil {
		panic(err) // Only invalid UTF-8 fails, and texts are made valid where they enter.
	}
	return packed
}

// grpcError is the error that a gRPC handler returns for a fault.
func grpcError(f *fault.Fault) error { return status.ErrorProto(statusOf(f)) }
