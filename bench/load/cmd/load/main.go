// SPDX-License-Identifier: Apache-2.0

// Command load measures one server. It is our own because the kept ones (ghz, k6) use more CPU for a request than the server that is
// measured, on the same cores; this one sends prepared bytes, and says what it used itself.
//
//	load --target HOST:PORT --request FILE --expect FILE [flags]                  measures, writes one JSON object
//	load --start --target ... -- COMMAND...                                       starts a server and measures until its first answer
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/concord-inference/concord/bench/load/answer"
	"github.com/concord-inference/concord/bench/load/generator"
	"github.com/concord-inference/concord/bench/load/process"
)

var (
	protocol = flag.String("protocol", "grpc", "grpc or http")
	target   = flag.String("target", "", "HOST:PORT of the server")
	method   = flag.String("method", "/inference.v1.InferenceService/Predict", "method of gRPC, path of HTTP")
	request  = flag.String("request", "", "file with the request's bytes")
	expect   = flag.String("expect", "", "file with what the answer shall hold, as JSON")
	form     = flag.String("answer", "concord", "form of the answer: concord, json, v2json, v2grpc, any")
	callers  = flag.Int("callers", 64, "closed loop: callers at once; open loop: at most so many at once")
	conns    = flag.Int("connections", 0, "connections of gRPC (default: by callers)")
	rate     = flag.Float64("rate", 0, "open loop: requests a second")
	seconds  = flag.Float64("seconds", 2, "seconds that are measured")
	warm     = flag.Float64("warm", 0.5, "seconds before that")
	pid      = flag.Int("pid", 0, "process of the server, whose CPU and memory count with its descendants'")
	start    = flag.Bool("start", false, "start the command and measure the time to its first right answer")
	within   = flag.Float64("within", 120, "with --start: seconds it may take")
)

func main() {
	flag.Parse()
	debug.SetGCPercent(400)
	result, err := run()
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func run() (any, error) {
	body, err := os.ReadFile(*request)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(*expect)
	if err != nil {
		return nil, err
	}
	var expected answer.Expected
	if err := json.Unmarshal(text, &expected); err != nil {
		return nil, err
	}
	read := answer.Readers[*form]
	if read == nil {
		return nil, fmt.Errorf("--answer: expected a known form, got %q", *form)
	}
	check := func(b []byte) error { return expected.Check(read, b) }
	connect := func(n, connections int) ([]generator.Caller, error) {
		switch *protocol {
		case "grpc":
			return generator.GRPC(*target, *method, body, check, n, connections)
		case "http":
			return generator.HTTP(*target, *method, body, check, n), nil
		}
		return nil, fmt.Errorf("--protocol: expected grpc or http, got %q", *protocol)
	}
	if *start {
		return first(connect)
	}
	connections := *conns
	if connections == 0 {
		connections = generator.Connections(*callers)
	}
	made, err := connect(*callers, connections)
	if err != nil {
		return nil, err
	}
	plan := generator.Plan{
		Callers: made, Rate: *rate, Warm: duration(*warm), Measured: duration(*seconds),
		Server: process.Of(*pid), Client: process.Group{os.Getpid()},
	}
	return plan.Run(), nil
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * 1e9) }

// started is what a start took.
type started struct {
	FirstAnswerMilliseconds float64 `json:"first_answer_ms"`
	RSSMegabytes            float64 `json:"rss_mb"`
	PSSMegabytes            float64 `json:"pss_mb"`
	CPUSeconds              float64 `json:"cpu_seconds"`
}

// first starts the command, asks until there is a right answer, and ends it. Each attempt has a connection of its
// own, since what gRPC waits between attempts would count as the server's time.
func first(connect func(int, int) ([]generator.Caller, error)) (any, error) {
	command := exec.Command(flag.Arg(0), flag.Args()[1:]...)
	command.Stderr = os.Stderr
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	began := time.Now()
	if err := command.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	stop := func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
		}
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) // what is left of its group
	}
	defer stop()
	for last := error(nil); ; {
		// Asked only once somebody listens, so that failed attempts leave no clients behind that try again by themselves.
		var probe net.Conn
		if probe, last = net.DialTimeout("tcp", *target, time.Second); last == nil {
			_ = probe.Close()
			made, err := connect(1, 1)
			if err != nil {
				return nil, err
			}
			if last = made[0](true); last == nil {
				break
			}
		}
		if time.Since(began).Seconds() > *within {
			return nil, fmt.Errorf("no right answer within %v s: %w", *within, last)
		}
		select {
		case err := <-ended:
			ended <- err
			return nil, fmt.Errorf("the server ended: %v", err)
		case <-time.After(2 * time.Millisecond):
		}
	}
	took := time.Since(began)
	time.Sleep(300 * time.Millisecond) // what a server does right after its first answer belongs to its memory
	group := process.Of(command.Process.Pid)
	return started{float64(took.Microseconds()) / 1000, group.RSSMegabytes(), group.PSSMegabytes(), group.CPUSeconds()}, nil
}
