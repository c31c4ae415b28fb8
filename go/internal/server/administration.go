// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/model"
	"github.com/concord-inference/concord/go/internal/repository"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// NewAdmin makes the server of the admin listener: administration, health and, by its option, reflection. Health lists the service from
// then on.
func NewAdmin(editor *repository.Editor, options Options) *Server {
	s := bare(options)
	options.Health.AddService(inferencev1.ModelAdminService_ServiceDesc.ServiceName)
	s.register(&inferencev1.ModelAdminService_ServiceDesc, &administration{server: s, editor: editor})
	s.register(&healthpb.Health_ServiceDesc, options.Health)
	if options.Reflection {
		reflection.Register(registrar{s})
	}
	return s
}

// administration is inference.v1.ModelAdminService.
type administration struct {
	inferencev1.UnimplementedModelAdminServiceServer
	server *Server
	editor *repository.Editor
}

func (a *administration) LoadModel(ctx context.Context, request *inferencev1.LoadModelRequest) (*inferencev1.LoadModelResponse, error) {
	if f := a.check(request.GetModelId(), request.GetModelVersion()); f != nil {
		return nil, f
	}
	if err := a.editor.Load(ctx, request.GetModelId(), request.GetModelVersion()); err != nil {
		return nil, a.failed(request.GetModelId(), request.GetModelVersion(), err)
	}
	return &inferencev1.LoadModelResponse{}, nil
}

func (a *administration) UnloadModel(ctx context.Context, request *inferencev1.UnloadModelRequest) (*inferencev1.UnloadModelResponse, error) {
	if f := a.check(request.GetModelId(), request.GetModelVersion()); f != nil {
		return nil, f
	}
	if err := a.editor.Unload(ctx, request.GetModelId(), request.GetModelVersion()); err != nil {
		return nil, a.failed(request.GetModelId(), request.GetModelVersion(), err)
	}
	return &inferencev1.UnloadModelResponse{}, nil
}

func (a *administration) SetLabel(ctx context.Context, request *inferencev1.SetLabelRequest) (*inferencev1.SetLabelResponse, error) {
	if a.server.draining.Load() {
		return nil, draining()
	}
	id, label, version := request.GetModelId(), request.GetLabel(), request.GetModelVersion()
	if f := model.CheckID(id); f != nil {
		return nil, f
	}
	if !model.IsLabel(label) {
		return nil, fault.Invalid(fault.LabelInvalid, "label", "expected [a-z][a-z0-9-]{0,62}, got %s", got(label)).At(id, "")
	}
	if version != "" {
		if f := checkVersion(id, version); f != nil {
			return nil, f
		}
	}
	labels, err := a.editor.SetLabel(ctx, id, label, version)
	if err != nil {
		return nil, a.failed(id, version, err)
	}
	return &inferencev1.SetLabelResponse{Labels: labels}, nil
}

func (a *administration) check(id, version string) *fault.Fault {
	if a.server.draining.Load() {
		return draining()
	}
	if f := model.CheckID(id); f != nil {
		return f
	}
	return checkVersion(id, version)
}

// checkVersion wants a number: a label names no directory.
func checkVersion(id, version string) *fault.Fault {
	if model.IsVersion(version) {
		return nil
	}
	return fault.Invalid(fault.ModelVersionInvalid, "model_version",
		"expected a positive integer without leading zeros, got %s", got(version)).At(id, "")
}

func got(text string) string {
	if text == "" {
		return "nothing"
	}
	return fault.Quote(text)
}

// failed is the fault in an error or, where the disk is to blame, one that hides it and logs it.
func (a *administration) failed(id, version string, err error) *fault.Fault {
	var f *fault.Fault
	if errors.As(err, &f) {
		return f
	}
	return a.server.failed("", fault.InternalError(err).At(id, version))
}
