// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	inferencev1 "github.com/concord-inference/concord/go/gen/inference/v1"
	"github.com/concord-inference/concord/go/internal/fault"
	"github.com/concord-inference/concord/go/internal/modeltest"
	"github.com/concord-inference/concord/go/internal/repository"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// administered is an admin server over a directory that nothing serves.
type administered struct {
	*Server
	client          inferencev1.ModelAdminServiceClient
	conn            *grpc.ClientConn
	models, staging string
	log             *lockedBuffer
}

func administer(t *testing.T) *administered {
	t.Helper()
	a := &administered{models: t.TempDir(), staging: t.TempDir(), log: &lockedBuffer{}}
	log := slog.New(slog.NewJSONHandler(a.log, nil))
	health := NewHealth()
	a.Server = NewAdmin(&repository.Editor{Models: a.models, Staging: a.staging, Log: log},
		Options{Health: health, MaxMessageBytes: 1 << 20, Reflection: true, Log: log})
	health.SetServing()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(listener) }()
	t.Cleanup(func() {
		a.Stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	if a.conn, err = grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.conn.Close() })
	a.client = inferencev1.NewModelAdminServiceClient(a.conn)
	return a
}

func TestAdministration(t *testing.T) {
	a := administer(t)
	modeltest.Lookup(t).Write(t, filepath.Join(a.staging, "m", "2"))
	if _, err := a.client.LoadModel(call(t), &inferencev1.LoadModelRequest{ModelId: "m", ModelVersion: "2"}); err != nil {
		t.Fatal(err)
	}
	_, err := a.client.LoadModel(call(t), &inferencev1.LoadModelRequest{ModelId: "m", ModelVersion: "2"})
	info := wantStatus(t, status.Convert(err), codes.AlreadyExists, fault.VersionExists, `model "m" has version 2 already`)
	if m := info.GetMetadata(); m["model_id"] != "m" || m["model_version"] != "2" {
		t.Errorf("got %v", m)
	}
	labels, err := a.client.SetLabel(call(t), &inferencev1.SetLabelRequest{ModelId: "m", Label: "stable", ModelVersion: "2"})
	if err != nil || !maps.Equal(labels.GetLabels(), map[string]string{"stable": "2"}) {
		t.Errorf("got %v, %v", labels, err)
	}
	if _, err := a.client.UnloadModel(call(t), &inferencev1.UnloadModelRequest{ModelId: "m", ModelVersion: "2"}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(a.models, "m", "2")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	labels, err = a.client.SetLabel(call(t), &inferencev1.SetLabelRequest{ModelId: "m", Label: "stable"})
	if err != nil || len(labels.GetLabels()) > 0 {
		t.Errorf("got %v, %v", labels, err)
	}
}

func TestAdministrationRefuses(t *testing.T) {
	a := administer(t)
	long := strings.Repeat("x", 129)
	loads := func(id, version string) error {
		_, err := a.client.LoadModel(call(t), &inferencev1.LoadModelRequest{ModelId: id, ModelVersion: version})
		return err
	}
	unloads := func(id, version string) error {
		_, err := a.client.UnloadModel(call(t), &inferencev1.UnloadModelRequest{ModelId: id, ModelVersion: version})
		return err
	}
	labels := func(id, label, version string) error {
		_, err := a.client.SetLabel(call(t), &inferencev1.SetLabelRequest{ModelId: id, Label: label, ModelVersion: version})
		return err
	}
	for _, c := range []struct {
		err     error
		code    codes.Code
		reason  fault.Reason
		message string
		fields  []string
	}{
		{loads("", ""), codes.InvalidArgument, fault.ModelIDInvalid, "model_id: expected [A-Za-z0-9][A-Za-z0-9._-]{0,127}, got nothing", []string{"model_id"}},
		{loads("../m", "1"), codes.InvalidArgument, fault.ModelIDInvalid, `model_id: expected [A-Za-z0-9][A-Za-z0-9._-]{0,127}, got "../m"`, []string{"model_id"}},
		{unloads(long, "1"), codes.InvalidArgument, fault.ModelIDInvalid, "", []string{"model_id"}},
		{loads("m", ""), codes.InvalidArgument, fault.ModelVersionInvalid, "model_version: expected a positive integer without leading zeros, got nothing", []string{"model_version"}},
		{loads("m", "stable"), codes.InvalidArgument, fault.ModelVersionInvalid, `model_version: expected a positive integer without leading zeros, got "stable"`, []string{"model_version"}},
		{unloads("m", "../2"), codes.InvalidArgument, fault.ModelVersionInvalid, `model_version: expected a positive integer without leading zeros, got "../2"`, []string{"model_version"}},
		{labels("", "Stable", "x"), codes.InvalidArgument, fault.ModelIDInvalid, "", []string{"model_id"}},
		{labels("m", "Stable", "x"), codes.InvalidArgument, fault.LabelInvalid, `label: expected [a-z][a-z0-9-]{0,62}, got "Stable"`, []string{"label"}},
		{labels("m", "", "1"), codes.InvalidArgument, fault.LabelInvalid, `label: expected [a-z][a-z0-9-]{0,62}, got nothing`, []string{"label"}},
		{labels("m", "stable", "canary"), codes.InvalidArgument, fault.ModelVersionInvalid, `model_version: expected a positive integer without leading zeros, got "canary"`, []string{"model_version"}},
		{loads("m", "1"), codes.NotFound, fault.VersionNotFound, `model "m" has no version 1 in the staging directory`, nil},
		{unloads("m", "1"), codes.NotFound, fault.ModelNotFound, `model "m" not found`, nil},
		{labels("m", "stable", ""), codes.NotFound, fault.ModelNotFound, `model "m" not found`, nil},
	} {
		wantStatus(t, status.Convert(c.err), c.code, c.reason, c.message, c.fields...)
	}
	_, err := inferencev1.NewInferenceServiceClient(a.conn).Predict(call(t), ask("m", 1))
	wantStatus(t, status.Convert(err), codes.Unimplemented, fault.MethodUnimplemented, "inference.v1.InferenceService/Predict is not served here")
	if err := os.RemoveAll(a.models); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, status.Convert(unloads("m", "1")), codes.Internal, fault.Internal, "internal error")
	if !strings.Contains(a.log.String(), `"msg":"request failed"`) || !strings.Contains(a.log.String(), "no such file or directory") {
		t.Errorf("log: %s", a.log)
	}
}

// TestAdministrationHealth lists the service where it is served, and drains with the rest.
func TestAdministrationHealth(t *testing.T) {
	a := administer(t)
	health := healthpb.NewHealthClient(a.conn)
	const name = "inference.v1.ModelAdminService"
	if got, err := health.Check(call(t), &healthpb.HealthCheckRequest{Service: name}); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("got %v, %v", got, err)
	}
	other := start(t, nil)
	_, err := healthpb.NewHealthClient(other.conn).Check(call(t), &healthpb.HealthCheckRequest{Service: name})
	wantStatus(t, status.Convert(err), codes.NotFound, fault.ServiceNotFound, `no service or model "inference.v1.ModelAdminService" here`)

	// Both servers of a process drain the same health.
	a.options.Health.Stop()
	a.options.Health.end()
	if !a.Drain(context.Background(), 0, patience) {
		t.Error("it did not finish")
	}
}
