# SPDX-License-Identifier: Apache-2.0
"""The server under test: started on free ports, watched from outside, ended by a signal."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

__all__ = ["Server", "ServerError", "busy_seconds"]

READY_SECONDS = 180.0
END_SECONDS = 90.0


def busy_seconds() -> float:
    """Processor time that everything on this machine has used so far; 0 where it cannot be read."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split(maxsplit=9)
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq = (int(field) for field in fields[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class ServerError(RuntimeError):
    """The server did not start, or not as it should."""


class Server:
    """Runs `command` and waits for its ready line `{"grpc":"HOST:PORT","http":"HOST:PORT","pid":N}`.

    Standard error goes to `log`. Raises ServerError. As a context it is killed at the end if it is still there.
    """

    def __init__(self, command: Sequence[str], log: Path, ready_seconds: float = READY_SECONDS) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with log.open("wb") as errors:
            try:
                self._process = subprocess.Popen(  # noqa: S603
                    list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
                )
            except OSError as error:
                raise ServerError(f"{command[0]}: {error.strerror or error}") from None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._ready(ready_seconds, log)
        except ServerError:
            self.kill()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _read(self) -> None:
        if self._process.stdout is not None:
            with self._process.stdout as lines:
                for line in lines:
                    self._lines.put(line.decode("utf-8", "replace"))
        self._lines.put(None)

    def _ready(self, seconds: float, log: Path) -> None:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise ServerError(f"no ready line came within {seconds:g} s") from None
        if line is None:
            told = log.read_text(encoding="utf-8", errors="replace").strip()[-500:]
            raise ServerError(f"ended before it was ready, with exit code {self._process.wait()}: {told}")
        try:
            ready = json.loads(line)
            self.grpc, self.http, self.pid = str(ready["grpc"]), str(ready["http"]), int(ready["pid"])
        except (ValueError, KeyError, TypeError):
            raise ServerError(f"expected a ready line with grpc, http and pid, got {line.strip()[:200]!r}") from None

    def alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self._process.poll() is None

    def terminate(self) -> None:
        """Asks it to end."""
        if self.alive():
            self._process.send_signal(signal.SIGTERM)

    def end_problems(self, seconds: float = END_SECONDS) -> list[str]:
        """Waits for the end of a server that was asked to, and tells what was wrong with it."""
        problems = []
        try:
            code = self._process.wait(timeout=seconds)
            if code != 0:
                problems.append(f"after SIGTERM: expected exit code 0, got {code}")
        except subprocess.TimeoutExpired:
            problems.append(f"after SIGTERM: still there after {seconds:g} s")
        self.kill()
        while (line := self._lines.get()) is not None:
            problems.append(f"stdout: expected the ready line and nothing else, got {line.strip()[:200]!r}")
        return problems

    def kill(self) -> None:
        """Ends it at once, if it is still there."""
        if self.alive():
            self._process.kill()
        self._process.wait()
        self._reader.join(timeout=10)

    def cpu_seconds(self) -> float:
        """Processor time of the server so far, user and system; 0 where it cannot be read."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
