// SPDX-License-Identifier: Apache-2.0

// Command inference-server serves a repository of ONNX models over gRPC. `inference-server --help` lists its flags.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/concord-inference/concord/go/internal/admission"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == admission.Mode {
		os.Exit(admission.Child(openTrial))
	}
	setCollector(os.Getenv, os.DirFS("/"))
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-signals
		stop()
		<-signals // Whoever asks twice does not want to wait.
		os.Exit(exitFailure)
	}()
	os.Exit(Run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
