# SPDX-License-Identifier: Apache-2.0
"""Which targets stay on this machine, so that plaintext is harmless there."""

from __future__ import annotations

import pytest
from concord_client._address import is_loopback


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:50051",
        "127.8.9.10:1",
        "localhost:50051",
        "LocalHost:50051",
        "[::1]:50051",
        "dns:///localhost:50051",
        "dns:127.0.0.1:50051",
        "ipv4:127.0.0.1:1,127.0.0.2:2",
        "ipv6:[::1]:50051",
        "ipv6:%5B::1%5D:50051",
        "unix:/run/concord.sock",
        "unix:///run/concord.sock",
        "unix-abstract:concord",
    ],
)
def test_loopback(target: str) -> None:
    assert is_loopback(target)


@pytest.mark.parametrize(
    "target",
    [
        "example.com:50051",
        "10.0.0.1:50051",
        "0.0.0.0:50051",
        "128.0.0.1:50051",
        "[::]:50051",
        "[2001:db8::1]:50051",
        "[::ffff:127.0.0.1]:50051",
        "localhost.example.com:50051",
        "foo.localhost:50051",
        "localhost.:50051",
        "localhost@example.com:50051",
        "127.0.0.1.example.com:50051",
        "127.1:50051",
        "2130706433:50051",
        "dns:///example.com:50051",
        "dns://10.0.0.1/localhost:50051",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "xds:///localhost:50051",
        "vsock:1:2",
    ],
)
def test_not_loopback(target: str) -> None:
    assert not is_loopback(target)


@pytest.mark.parametrize(
    "target",
    ["", "localhost", "127.0.0.1", ":50051", "localhost:", "localhost:port", "localhost:1@example.com:443", "::1:50051",
     "http://localhost:50051", "https://localhost:50051", "localhost:50051/path", "dns:///localhost", "a/b:1"],
)  # fmt: skip
def test_no_host_and_port(target: str) -> None:
    with pytest.raises(ValueError, match="target: expected HOST:PORT"):
        is_loopback(target)
