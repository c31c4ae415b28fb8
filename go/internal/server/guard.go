// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/telemetry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress, and then get compressed answers
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// frame is a message being received. gRPC would answer a malformed one itself, as INTERNAL and without details, so the codec only
// notes what is wrong.
type frame struct {
	message any
	limit   int
	size    int
	err     error
}

// codec is the protobuf codec, which knows frames as well.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(encodingproto.Name)} }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if f.size = data.Len(); f.size > f.limit {
		return nil
	}
	message := f.message
	if q, ok := message.(*quick); ok {
		if q.decode(data) {
			return nil
		}
		message = q.message()
	}
	f.err = c.CodecV2.Unmarshal(data, message)
	return nil
}

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if p, ok := v.(*packed); ok {
		return mem.BufferSlice{mem.SliceBuffer(p.bytes)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// receive receives a message into v, by way of f. Its errors are faults, where gRPC has not answered already.
func (s *Server) receive(f *frame, v any, from func(any) error) error {
	*f = frame{message: v, limit: s.options.MaxMessageBytes}
	if err := from(f); err != nil {
		return err
	}
	if f.size > f.limit {
		return fault.New(fault.MessageTooLarge, "expected a message of at most %d bytes, got %d", f.limit, f.size)
	}
	if f.err != nil {
		name := "unknown"
		if q, ok := v.(*quick); ok {
			v = q.message()
		}
		if message, ok := v.(proto.Message); ok {
			name = string(message.ProtoReflect().Descriptor().FullName())
		}
		text := fmt.Sprintf("expected a message of type %s, got %d bytes that are none", name, f.size)
		return fault.FromViolations([]fault.Violation{{Reason: fault.RequestMalformed, Message: text}}, 1)
	}
	return nil
}

// libraryMargin is how much more than the limit gRPC itself lets in, so that we answer the near misses, with details.
func libraryMargin(limit int) int { return limit/8 + 1<<10 }

// register adds a service whose methods are guarded: what they receive and return, and what they throw.
func (s *Server) register(desc *grpc.ServiceDesc, implementation any) {
	guarded := *desc
	guarded.Methods = nil
	for _, method := range desc.Methods {
		shown := s.options.Telemetry.Method(desc.ServiceName, method.MethodName)
		name := desc.ServiceName + "/" + method.MethodName
		if name == predictName && s.options.FastDecode {
			method.Handler = s.guardPredict(name, shown)
		} else {
			method.Handler = s.guardUnary(name, shown, method.Handler)
		}
		guarded.Methods = append(guarded.Methods, method)
	}
	guarded.Streams = nil
	for _, stream := range desc.Streams {
		shown := s.options.Telemetry.Method(desc.ServiceName, stream.StreamName)
		stream.Handler = s.guardStream(desc.ServiceName+"/"+stream.StreamName, shown, stream.Handler)
		guarded.Streams = append(guarded.Streams, stream)
	}
	s.grpc.RegisterService(&guarded, implementation)
}

func (s *Server) guardUnary(method string, shown *telemetry.Method, handler grpc.MethodHandler) grpc.MethodHandler {
	return func(implementation any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (reply any, err error) {
		ctx, call := shown.Begin(ctx)
		var request any
		defer func() {
			if p := recover(); p != nil {
				err = s.panicked(method, request, p)
			}
			if err != nil {
				reply = nil
			}
			err = end(call, err)
		}()
		ctx, cancel := beforeReset(ctx)
		defer cancel()
		reply, err = handler(implementation, ctx, func(v any) error {
			request = v
			return s.receive(&frame{}, v, decode)
		}, nil)
		if err != nil {
			return nil, err
		}
		if f := s.checkSize(reply); f != nil {
			return nil, f
		}
		return reply, nil
	}
}

// end ends a call and gives the status of what its handler returned: nothing, a fault, or an error that gRPC made.
func end(call *telemetry.Call, err error) error {
	var f *fault.Fault
	switch {
	case err == nil:
		call.End(codes.OK, "")
		return nil
	case errors.As(err, &f):
		call.End(codeOf(f), string(f.Reason))
		return grpcError(f)
	}
	s, ok := status.FromError(err)
	if !ok {
		s = status.FromContextError(err) // as gRPC takes it
	}
	call.End(s.Code(), "")
	return err
}

// beforeReset ends a call a little before its deadline. At the deadline gRPC resets the stream, and a caller whose clock is a moment behind would
// read CANCELLED; so DEADLINE_EXCEEDED, with its details, has the time to reach it.
func beforeReset(ctx context.Context) (context.Context, context.CancelFunc) {
	const most = 5 * time.Millisecond
	deadline, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, deadline.Add(-min(time.Until(deadline)/10, most)))
}

func (s *Server) guardStream(method string, shown *telemetry.Method, handler grpc.StreamHandler) grpc.StreamHandler {
	return func(implementation any, stream grpc.ServerStream) (err error) {
		ctx, call := shown.Begin(stream.Context())
		guarded := &guardedStream{ServerStream: stream, server: s, ctx: ctx}
		defer func() {
			if p := recover(); p != nil {
				err = s.panicked(method, guarded.request, p)
			}
			err = end(call, err)
		}()
		return handler(implementation, guarded)
	}
}

type guardedStream struct {
	grpc.ServerStream
	server  *Server
	ctx     context.Context
	request any
}

func (g *guardedStream) Context() context.Context { return g.ctx }

func (g *guardedStream) RecvMsg(v any) error {
	g.request = v
	return g.server.receive(&frame{}, v, g.ServerStream.RecvMsg)
}

func (g *guardedStream) SendMsg(v any) error {
	if f := g.server.checkSize(v); f != nil {
		return f
	}
	return g.ServerStream.SendMsg(v)
}

// checkSize refuses an answer that gRPC would refuse to send, without details.
func (s *Server) checkSize(reply any) *fault.Fault {
	message, ok := reply.(proto.Message)
	if !ok {
		return nil
	}
	if size := proto.Size(message); size > s.options.MaxMessageBytes {
		return fault.AnswerTooLarge(int64(size), int64(s.options.MaxMessageBytes))
	}
	return nil
}

// panicked keeps a defect from ending the process, and from the caller's eyes.
func (s *Server) panicked(method string, request, what any) *fault.Fault {
	id := ""
	if named, ok := request.(interface{ GetRequestId() string }); ok {
		id = fault.Shown(named.GetRequestId())
	}
	s.log.Error("panic", "method", method, "request_id", id, "cause", fmt.Sprint(what), "stack", string(debug.Stack()))
	return fault.InternalError(nil)
}
