// SPDX-License-Identifier: Apache-2.0

package client

import "testing"

func TestIsLoopback(t *testing.T) {
	for target, want := range map[string]bool{
		"127.0.0.1:50051":             true,
		"127.8.9.10:1":                true,
		"localhost:50051":             true,
		"LocalHost:50051":             true,
		"[::1]:50051":                 true,
		"dns:///localhost:50051":      true,
		"dns:127.0.0.1:50051":         true,
		"unix:/run/concord.sock":      true,
		"unix:///run/concord.sock":    true,
		"unix-abstract:concord":       true,
		"example.com:50051":           false,
		"10.0.0.1:50051":              false,
		"0.0.0.0:50051":               false,
		"[::]:50051":                  false,
		"[::ffff:127.0.0.1]:50051":    false,
		"localhost.example.com:50051": false,
		"foo.localhost:50051":         false,
		"localhost.:50051":            false,
		"localhost@example.com:50051": false,
		"127.1:50051":                 false,
		"2130706433:50051":            false,
		"dns:///example.com:50051":    false,
		"dns://10.0.0.1/localhost:1":  false,
		"passthrough:///127.0.0.1:1":  false,
		"xds:///localhost:50051":      false,
	} {
		if got, err := isLoopback(target); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", target, got, err, want)
		}
	}
	for _, target := range []string{
		"", "localhost", "127.0.0.1", ":50051", "localhost:", "localhost:port", "localhost:1@example.com:443", "::1:50051",
		"http://localhost:50051", "localhost:50051/path", "dns:///localhost", "a/b:1", "ipv4:127.0.0.1:1",
	} {
		if got, err := isLoopback(target); err == nil {
			t.Errorf("%s: got %v, want an error", target, got)
		}
	}
}
