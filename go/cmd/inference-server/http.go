// SPDX-License-Identifier: Apache-2.0

package main

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof" // it also adds itself to the default mux, which nobody serves
	"time"

	"github.com/concord-inference/concord/go/internal/telemetry"
)

// Limits of an HTTP client. A profile may take longer: pprof adds the seconds that it was asked for.
const (
	headerTimeout  = 10 * time.Second
	requestTimeout = 30 * time.Second
	idleTimeout    = 2 * time.Minute
	maxHTTPHeaders = 64 << 10
)

// serveHTTP answers scrapers and probes, and, where only this machine can reach the address, profilers. The actual address tells the port, too.
func serveHTTP(address string, health http.Handler, shown *telemetry.Telemetry, log *slog.Logger) (actual string, stop func(), err error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", health)
	mux.Handle("GET /metrics", shown.Handler())
	if at, ok := listener.Addr().(*net.TCPAddr); ok && at.IP.IsLoopback() {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	s := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHTTPHeaders,
		// What net/http would print as plain lines becomes JSON.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	go s.Serve(listener) // until stop
	return listener.Addr().String(), func() { s.Close() }, nil
}
