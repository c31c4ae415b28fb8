# SPDX-License-Identifier: Apache-2.0
"""The TCP connections of a gRPC listener, ended from outside of gRPC.

When gRPC's core is told to shut down, it ends what clients had sent before they heard of it, as CANCELLED, which nobody
retries. So before that the listener is closed and each connection on which nothing runs is hung up: what had been sent
and answered arrives, and what the server has not begun fails as UNAVAILABLE, which clients retry elsewhere. gRPC has no
such call, but the kernel has.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Container, Iterator
from pathlib import Path

__all__ = ["close_listeners", "hang_up"]

_DESCRIPTORS = Path("/dev/fd")


def close_listeners(port: int) -> None:
    """Takes no more connections on a local port."""
    for each in _sockets(port):
        with contextlib.suppress(OSError):
            if each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                each.shutdown(socket.SHUT_RDWR)


def hang_up(port: int, busy: Container[int]) -> int:
    """Ends the connections to a local port, but for those from the ports in `busy`, and tells how many are left.

    Nothing more is sent on them than what the kernel has already; the client closes the other direction.
    """
    left = 0
    for each in _sockets(port):
        with contextlib.suppress(OSError):
            client = each.getpeername()[1]
            left += 1
            if client not in busy:
                each.shutdown(socket.SHUT_WR)
    return left


def _sockets(port: int) -> Iterator[socket.socket]:
    """The TCP sockets of this process on a local port, each until the next is asked for."""
    try:
        names = os.listdir(_DESCRIPTORS)  # noqa: PTH208 - names alone
    except OSError:
        return  # then gRPC ends them, as it does
    for name in names:
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            found = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue  # it has been closed meanwhile
        with found:
            if found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM:
                with contextlib.suppress(OSError):
                    if found.getsockname()[1] == port:
                        yield found
