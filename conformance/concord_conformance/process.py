# SPDX-License-Identifier: Apache-2.0
"""A server that the runner starts: its ready line, its life, its end."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

__all__ = ["ServerError", "ServerProcess"]

_END_SECONDS = 60.0


class ServerError(RuntimeError):
    """The server did not start, or not as it should."""


class ServerProcess:
    """Starts `command` and waits for the one JSON line that says where it listens.

    Standard error goes to `log`. Raises ServerError when the line does not come within `ready_seconds`, or is none.
    """

    def __init__(self, command: Sequence[str], log: Path, ready_seconds: float) -> None:
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._log: IO[bytes] = log.open("wb")
        self._exit_awaited = False
        try:
            self._process = subprocess.Popen(  # noqa: S603
                list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log
            )
        except OSError as error:
            self._log.close()
            raise ServerError(f"{command[0]}: {error.strerror or error}") from None
        threading.Thread(target=self._read, daemon=True).start()
        try:
            self._ready(ready_seconds)
        except ServerError:
            self._end()
            raise

    def _read(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line.decode("utf-8", "replace"))
        self._lines.put(None)

    def _ready(self, seconds: float) -> None:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise ServerError(f"no ready line came within {seconds:g} s; see its log") from None
        if line is None:
            raise ServerError(f"ended before it was ready, with exit code {self._process.wait()}; see its log")
        try:
            ready = json.loads(line)
            self.address, self.pid = str(ready["grpc"]), int(ready["pid"])
            self.http = str(ready.get("http", ""))
        except (ValueError, KeyError, TypeError):
            raise ServerError(
                f'expected a ready line {{"grpc":"HOST:PORT","http":"HOST:PORT","pid":N}}, got {line.strip()[:200]!r}'
            ) from None
        if not self.address or ":" not in self.address:
            raise ServerError(f"ready line: grpc: expected HOST:PORT, got {self.address!r}")
        if self.pid < 2:
            raise ServerError(f"ready line: pid: expected a process id, got {self.pid}")

    def alive(self) -> bool:
        """Whether the process that said it was ready still runs."""
        if self._process.poll() is not None:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the server; none where it has ended."""
        self._process.send_signal(number)

    def wait_for_exit(self, seconds: float) -> int | None:
        """The exit code of a server that ends by itself, or None where it is still there after so many seconds."""
        try:
            code = self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        self._exit_awaited = True
        return code

    def stop(self) -> list[str]:
        """Ends the server by SIGTERM, where nobody awaited its end, and tells what was wrong with it."""
        problems = []
        code = self._process.poll()
        if code is not None and self._exit_awaited:
            pass
        elif code is not None:
            problems.append(f"the server ended by itself, with exit code {code}")
        else:
            self._process.send_signal(signal.SIGTERM)
            try:
                code = self._process.wait(timeout=_END_SECONDS)
                if code != 0:
                    problems.append(f"after SIGTERM: expected exit code 0, got {code}")
            except subprocess.TimeoutExpired:
                problems.append(f"after SIGTERM: still there after {_END_SECONDS:g} s")
        self._end()
        while (line := self._lines.get()) is not None:
            problems.append(f"stdout: expected the ready line and nothing else, got {line.strip()[:200]!r}")
        return problems

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()
