# SPDX-License-Identifier: Apache-2.0
"""glibc's allocator in a process that serves for weeks. Elsewhere - musl, macOS - nothing here does anything."""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import c_int, c_size_t
from typing import Any

__all__ = ["ARENAS", "few_arenas", "give_back"]

ARENAS = 2
"""Heaps that all threads share. glibc would make eight for each processor: what one thread frees the others cannot use,
and a request's memory comes from whichever thread had it. docs/operating.md has the figures."""

_M_ARENA_MAX = -8  # malloc.h


def few_arenas() -> bool:
    """Limits glibc to ARENAS heaps, before the process has more threads; false where it cannot be or was not wished.

    The environment's own MALLOC_ARENA_MAX or GLIBC_TUNABLES with glibc.malloc.arena_max count before it.
    """
    if "MALLOC_ARENA_MAX" in os.environ or "glibc.malloc.arena_max" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = _function("mallopt")
    return mallopt is not None and mallopt(c_int(_M_ARENA_MAX), c_int(ARENAS)) == 1


def give_back() -> None:
    """Gives what has been freed back to the system: glibc keeps it, and a large model in many pieces is all of it."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(c_size_t(0))


@functools.cache
def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
