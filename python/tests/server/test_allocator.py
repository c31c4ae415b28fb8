# SPDX-License-Identifier: Apache-2.0
"""How many heaps the process has, asked of glibc itself in processes of their own."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import pytest
from concord_server import allocator

GLIBC = platform.libc_ver()[0] == "glibc"

# Threads that all hold memory at the same time: glibc gives each a heap of its own while it may.
HEAPS = """
import ctypes, threading
from concord_server import allocator
limited = allocator.few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fflush.argtypes = [ctypes.c_void_p]
all_hold = threading.Barrier(8)
def hold():
    assert libc.malloc(1000)
    all_hold.wait(60)
threads = [threading.Thread(target=hold) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(limited, flush=True)
out = libc.fdopen(1, b"w")
libc.malloc_info(0, out)
libc.fflush(out)
"""

FREED = """
import ctypes
from concord_server import allocator
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = libc.free.argtypes = [ctypes.c_void_p]
def resident():
    status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
    print(status["VmRSS"].split()[0])
pieces = [libc.malloc(4096) for _ in range(16384)]
for piece in pieces:
    ctypes.memset(piece, 1, 4096)
resident()
last = pieces.pop()
for piece in pieces:
    libc.free(piece)
resident()
allocator.give_back()
resident()
"""


def heaps(**variables: str) -> tuple[str, int]:
    clean = {name: value for name, value in os.environ.items() if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")}
    out = subprocess.run(
        [sys.executable, "-c", HEAPS], env=clean | variables, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    return out.splitlines()[0], len(re.findall("<heap nr=", out))


@pytest.mark.skipif(not GLIBC, reason="only glibc has these heaps")
def test_threads_share_few_heaps() -> None:
    assert heaps() == ("True", allocator.ARENAS)


@pytest.mark.skipif(not GLIBC, reason="only glibc has these heaps")
@pytest.mark.parametrize(
    ("variables", "expected"),
    [({"MALLOC_ARENA_MAX": "5"}, 5), ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}, 4)],
    ids=["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"],
)
def test_the_environment_has_its_way(variables: dict[str, str], expected: int) -> None:
    assert heaps(**variables) == ("False", expected)


@pytest.mark.skipif(not GLIBC, reason="only glibc keeps what was freed")
def test_what_was_freed_is_given_back() -> None:
    out = subprocess.run(
        [sys.executable, "-c", FREED], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()
    held, freed, given_back = (int(kibibytes) for kibibytes in out)
    # The last piece lies above all others, so that glibc by itself gives nothing back.
    assert freed > held - 8 * 1024
    assert given_back < held - 32 * 1024
