// SPDX-License-Identifier: Apache-2.0

package client

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// isLoopback tells whether a target stays on this machine: 127.0.0.0/8, ::1, localhost or a unix socket. A name other than localhost
// is not loopback, whatever it resolves to: that may change until the connection.
func isLoopback(target string) (bool, error) {
	address := target
	switch scheme, rest, _ := strings.Cut(target, ":"); strings.ToLower(scheme) {
	case "unix", "unix-abstract":
		return true, nil
	case "passthrough", "xds": // a dialer or a control plane says where it goes
		return false, nil
	case "dns":
		if strings.HasPrefix(rest, "//") && !strings.HasPrefix(rest, "///") {
			return false, nil // somebody's name server decides
		}
		address = strings.TrimPrefix(rest, "///")
	}
	host, port, err := net.SplitHostPort(address)
	if _, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || host == "" || strings.Contains(host, "/") {
		return false, fmt.Errorf("target: expected HOST:PORT or a gRPC name such as unix:PATH, got %q", target)
	}
	if strings.EqualFold(host, "localhost") {
		return true, nil
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ((ip.Is4() && ip.IsLoopback()) || ip == netip.IPv6Loopback()), nil
}
