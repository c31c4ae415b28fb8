# SPDX-License-Identifier: Apache-2.0
"""A trial load in a child process: whatever the graph does there, this process goes on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from concord_server import ort, telemetry
from concord_server.generate import GENAI_CONFIG
from concord_server.model import SessionError

__all__ = ["Limits", "Outcome", "TextGenerator", "Trials"]

_MAX_WORD_BYTES = 64 << 10
_SHOWN_STDERR_BYTES = 2 << 10

_log = telemetry.log(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a trial may take."""

    seconds: float
    memory_bytes: int
    """Of address space, beyond what the child has mapped before it looks at the model."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial."""

    refused: str
    """Why the graph is refused; "" where it is admitted."""
    said: bool
    """Whether the child itself said so, by the rules or ONNX Runtime's words, and not what became of it."""


@dataclass(frozen=True, slots=True)
class TextGenerator:
    """What makes a model a text generator."""

    files: Mapping[str, bytes]
    """Of its tokenizer, and genai_config.json, by name."""
    library: Path
    """onnxruntime-genai's."""


class Trials:
    """Runs trials, several at a time if need be."""

    def __init__(self, limits: Limits, command: Sequence[str] | None = None) -> None:
        """`command` starts the child; tests have others."""
        self._limits = limits
        # With our own module path, and without the working directory unless it is on that path already.
        self._command = command or (sys.executable, "-P", "-m", "concord_server.admission")
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._closed = False

    def run(
        self,
        graph: bytes,
        files: Mapping[str, bytes],
        *,
        intra_op_threads: int,
        integer_division: bool,
        generator: TextGenerator | None = None,
    ) -> Outcome:
        """Judges and loads a graph in a child process, and waits for its word or its end.

        A text generator also gets a tokenizer, and says a few tokens.
        """
        if generator is None:
            return self._run(graph, files, intra_op_threads, integer_division, {})
        # Not the child, which may end at any time and leave them, nor write as much.
        try:
            with ort.tokenizer_folder(generator.files) as folder:
                settings = generator.files.get(GENAI_CONFIG, b"").decode("utf-8", "surrogateescape")
                told = {"genai": os.fspath(generator.library), "tokenizer": folder, "settings": settings}
                return self._run(graph, files, intra_op_threads, integer_division, told)
        except ort.UnwrittenError as error:
            _log.warning("trial load failed", reason=f"trial load: {error}")
            return Outcome(f"trial load: {error}", said=False)
        except SessionError as error:
            return Outcome(str(error), said=True)

    def _run(
        self,
        graph: bytes,
        files: Mapping[str, bytes],
        intra_op_threads: int,
        integer_division: bool,
        generator: Mapping[str, str],
    ) -> Outcome:
        header = {
            "parent": os.getpid(),
            "memory_bytes": self._limits.memory_bytes,
            "intra_op_threads": intra_op_threads,
            "integer_division": integer_division,
            "graph": len(graph),
            "files": [[name, len(data)] for name, data in files.items()],
            **generator,
        }
        with _scratch() as given, _scratch() as word, _scratch() as errors:
            given.write(json.dumps(header).encode() + b"\n")
            given.write(graph)
            for data in files.values():
                given.write(data)
            given.seek(0)
            child = self._start(given, word, errors)
            if isinstance(child, Outcome):
                return child
            try:
                child.wait(self._limits.seconds)
            except subprocess.TimeoutExpired:
                return Outcome(f"trial load: did not finish in {self._limits.seconds:g} s", said=False)
            finally:
                self._end(child)
            if self._closed:
                return Outcome("the server is shutting down", said=False)
            word.seek(0)
            outcome = self._heard(word.read(_MAX_WORD_BYTES), child.returncode)
            if not outcome.said:
                errors.seek(0)
                stderr = errors.read(_SHOWN_STDERR_BYTES).decode("utf-8", "replace")
                _log.warning("trial load failed", reason=outcome.refused, stderr=stderr)
            return outcome

    def close(self) -> None:
        """Ends the trials under way and begins no more."""
        with self._lock:
            self._closed = True
            for child in self._running:
                child.kill()

    def _start(self, given: IO[bytes], word: IO[bytes], errors: IO[bytes]) -> subprocess.Popen[bytes] | Outcome:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            # glibc maps 64 MiB for each thread's arena: that is not the model's.
            "MALLOC_ARENA_MAX": "1",
        }
        with self._lock:
            if self._closed:
                return Outcome("the server is shutting down", said=False)
            try:
                # Its own process group: a Ctrl-C at the terminal is ours to handle.
                child = subprocess.Popen(  # noqa: S603 - our own words
                    self._command, stdin=given, stdout=word, stderr=errors, env=environment, process_group=0
                )
            except OSError as error:
                _log.warning("trial load failed", reason="the process could not be started", cause=error.strerror)
                return Outcome("trial load: the process could not be started", said=False)
            self._running.add(child)
            return child

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        child.kill()  # nothing where it has ended
        child.wait()
        with self._lock:
            self._running.discard(child)

    def _heard(self, word: bytes, code: int) -> Outcome:
        if code < 0:
            name = f"signal {-code}"
            with contextlib.suppress(ValueError):
                name = signal.Signals(-code).name
            return Outcome(f"trial load: the process died ({name})", said=False)
        try:
            document: Any = json.loads(word)
        except (ValueError, RecursionError):
            document = None
        match document:
            case {"admitted": True}:
                return Outcome("", said=True)
            case {"refused": str(why)} if why:
                return Outcome(why, said=True)
            case {"memory": True}:
                needs = f"needs more than {self._limits.memory_bytes} bytes of memory"
                return Outcome(f"trial load: {needs}", said=False)
            case _:
                return Outcome(f"trial load: the process ended with exit code {code}", said=False)


def _scratch() -> IO[bytes]:
    """A file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("trial"), "w+b")
    return tempfile.TemporaryFile()
