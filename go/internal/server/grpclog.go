// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"google.golang.org/grpc/grpclog"
)

// gRPC would print its own errors as plain lines among our JSON.
func init() { grpclog.SetLoggerV2(libraryLog{}) }

// libraryLog passes gRPC's errors to the process's log and drops the rest.
type libraryLog struct{}

func (libraryLog) Info(...any)             {}
func (libraryLog) Infoln(...any)           {}
func (libraryLog) Infof(string, ...any)    {}
func (libraryLog) Warning(...any)          {}
func (libraryLog) Warningln(...any)        {}
func (libraryLog) Warningf(string, ...any) {}

func (libraryLog) Error(args ...any) { slog.Error("grpc", "cause", fmt.Sprint(args...)) }
func (libraryLog) Errorln(args ...any) {
	slog.Error("grpc", "cause", strings.TrimSpace(fmt.Sprintln(args...)))
}
func (libraryLog) Errorf(format string, args ...any) {
	slog.Error("grpc", "cause", fmt.Sprintf(format, args...))
}

func (l libraryLog) Fatal(args ...any)                 { l.Error(args...); os.Exit(1) }
func (l libraryLog) Fatalln(args ...any)               { l.Errorln(args...); os.Exit(1) }
func (l libraryLog) Fatalf(format string, args ...any) { l.Errorf(format, args...); os.Exit(1) }

func (libraryLog) V(int) bool { return false }
