# SPDX-License-Identifier: Apache-2.0
"""Where a client connects to, and whether that stays on this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote

_HOST_SCHEMES = ("dns:///", "dns:", "ipv4:", "ipv6:")
_LOCAL_SCHEMES = ("unix:", "unix-abstract:")
_OTHER_SCHEMES = ("xds:", "vsock:", "google-c2p:")


def is_loopback(target: str) -> bool:
    """Whether every address of a target is loopback: 127.0.0.0/8, ::1, localhost, or a socket of this machine.

    Takes HOST:PORT and gRPC's names (dns:///HOST:PORT, unix:PATH, ...); anything that names no host and port is a
    ValueError. A name other than localhost is not loopback, whatever it resolves to: that may change until the
    connection.
    """
    lower = target.lower()
    if lower.startswith(_LOCAL_SCHEMES):
        return True
    if lower.startswith(_OTHER_SCHEMES):
        return False
    for scheme in _HOST_SCHEMES:
        if lower.startswith(scheme):
            rest = target[len(scheme) :]
            if rest.startswith("//"):  # dns://authority/host:port: somebody's name server decides
                return False
            hosts = [_host(part, target) for part in unquote(rest).split(",")]
            return all(map(_is_loopback_host, hosts))
    return _is_loopback_host(_host(target, target))


def _host(address: str, target: str) -> str:
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if (
        not colon
        or not host
        or not (port.isascii() and port.isdigit())
        or (":" in host and not bracketed)
        or "/" in host
    ):
        raise ValueError(f"target: expected HOST:PORT or a gRPC name such as unix:PATH, got {target!r}")
    return host[1:-1] if bracketed else host


def _is_loopback_host(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        return address == ipaddress.IPv6Address("::1")
    return address.is_loopback
