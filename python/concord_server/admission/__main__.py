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
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

_PR_SET_PDEATHSIG = 1
_MAX_OUTPUT_BYTES = 1 << 20
# Chains of functions are followed one frame or two a link.
_MAX_RECURSION = 200_000
_LOOK_SECONDS = 0.001
_OUT_OF_MEMORY = {"memory": True}
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
    said = threading.Lock()

    def say(word: dict[str, Any]) -> NoReturn:
        with said:  # for ever: whoever is first says the only word
            os.write(say_to, json.dumps(word).encode() + b"\n")
            os._exit(0)

    try:
        word = _judge(header, stdin, say)
    except MemoryError:
        word = _OUT_OF_MEMORY
    say(word)


def _judge(header: dict[str, Any], stdin: BinaryIO, say: Callable[[dict[str, Any]], NoReturn]) -> dict[str, Any]:
    # Mapped before the watch begins, which then means the model.
    from concord_server import fault, ort
    from concord_server.admission.generator import rehearse
    from concord_server.admission.graph import check
    from concord_server.admission.refused import Refused
    from concord_server.model import SessionError

    sys.setrecursionlimit(_MAX_RECURSION)
    runtime = ort.Runtime(header["intra_op_threads"])
    library = ort.open_genai(Path(header["genai"])) if "genai" in header else None
    most = _mapped("VmSize") + header["memory_bytes"]
    threading.Thread(target=_watch, args=(most, say), daemon=True).start()
    graph = stdin.read(header["graph"])
    files = {name: stdin.read(size) for name, size in header["files"]}
    word: dict[str, Any] = {"admitted": True}
    try:
        check(
            graph,
            external_files=frozenset(files),
            integer_division=header["integer_division"],
            generator=library is not None,
        )
        if library is None:
            runtime.load(graph, files)
        else:
            settings = header["settings"].encode("utf-8", "surrogateescape")
            rehearse(settings, library, header["tokenizer"], lambda: runtime.load(graph, files))
    except Refused as refused:
        word = {"refused": str(refused)}
    except SessionError as error:
        word = _OUT_OF_MEMORY if _MEMORY.search(str(error)) else {"refused": fault.scrub(str(error))}
    # What was taken and given back between two looks counts as well.
    return _OUT_OF_MEMORY if _mapped("VmPeak") > most else word


def _die_with(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _mapped(line: str) -> int:
    """A size of this process, in bytes, by its name in /proc/self/status."""
    for entry in Path("/proc/self/status").read_text().splitlines():
        name, _, value = entry.partition(":")
        if name == line:
            return int(value.split()[0]) * 1024
    raise LookupError(line)


def _watch(most: int, say: Callable[[dict[str, Any]], NoReturn]) -> None:
    """Ends the trial when it maps more than `most` bytes.

    A resource limit would not do: where an allocation fails while ONNX Runtime computes constants ahead, it goes on
    without them, the trial passes, and the server, which has no such limit, takes the memory.
    """
    while _mapped("VmSize") <= most:
        time.sleep(_LOOK_SECONDS)
    say(_OUT_OF_MEMORY)


if __name__ == "__main__":
    main()
