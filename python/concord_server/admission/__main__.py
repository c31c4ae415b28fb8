# SPDX-License-Identifier: Apache-2.0
"""The child process of a trial load. It is told on stdin, and says one line of JSON on stdout.

Stdin holds a line of JSON, then the bytes of the graph and of its files, one after the other.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

_PR_SET_PDEATHSIG = 1
_MAX_OUTPUT_BYTES = 1 << 20
# Chains of functions are followed one frame or two a link.
_MAX_RECURSION = 200_000
_MEMORY = re.compile(r"bad_alloc|Failed to allocate memory|out of memory|annot allocate memory")


def main() -> None:
    """Judges one graph and loads it once."""
    say_to = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever else may print there is no word of ours
    stdin = sys.stdin.buffer
    header = json.loads(stdin.readline())
    _die_with(header["parent"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_OUTPUT_BYTES, _MAX_OUTPUT_BYTES))
    out_of_memory = b'{"memory":true}\n'
    try:
        word = json.dumps(_judge(header, stdin)).encode() + b"\n"
    except MemoryError:
        word = out_of_memory
    os.write(say_to, word)
    os._exit(0)


def _judge(header: dict[str, Any], stdin: BinaryIO) -> dict[str, Any]:
    # Mapped before the limit is set, which then means the model.
    from concord_server import fault, ort
    from concord_server.admission.graph import check
    from concord_server.admission.refused import Refused
    from concord_server.model import SessionError

    sys.setrecursionlimit(_MAX_RECURSION)
    runtime = ort.Runtime(header["intra_op_threads"])
    _limit_memory(header["memory_bytes"])
    graph = stdin.read(header["graph"])
    files = {name: stdin.read(size) for name, size in header["files"]}
    try:
        check(graph, external_files=frozenset(files), integer_division=header["integer_division"])
        runtime.load(graph, files)
    except Refused as refused:
        return {"refused": str(refused)}
    except SessionError as error:
        if _MEMORY.search(str(error)):
            return {"memory": True}
        return {"refused": fault.scrub(str(error))}
    return {"admitted": True}


def _die_with(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _limit_memory(more: int) -> None:
    mapped = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = min(mapped + more, (1 << 63) - 1)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()
