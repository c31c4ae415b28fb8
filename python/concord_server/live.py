# SPDX-License-Identifier: Apache-2.0
"""The configuration of a running server, which follows its file."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from concord_server import telemetry
from concord_server.config import Config, ConfigError, config_file, reread
from concord_server.repository.watch import Watch

__all__ = ["Live"]

_POLL_SECONDS = 5.0  # where the operating system tells nothing
_SETTLE_SECONDS = 0.05  # from a change to reading: an editor may still write

_log = telemetry.log("concord_server")


class Live:
    """The configuration that holds now. All its methods are of one event loop."""

    def __init__(self, arguments: Sequence[str], config: Config, *, log: bool = True) -> None:
        """`arguments` are those that the configuration was parsed from. From now on SIGHUP does not end the process.

        Of several processes one has the `log`.
        """
        self._logs = log
        self.config = config
        self._arguments = arguments
        self._file = config_file(arguments)
        self._seen = _read(self._file)
        self._woken = asyncio.Event()
        self._anyway = False
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.wake)

    def wake(self) -> None:
        """Has the configuration read again, whether its file has changed or not."""
        self._anyway = True
        self._woken.set()

    async def follow(self, apply: Callable[[Config], None]) -> None:
        """Reads the file again when it changes, until it is cancelled; `apply` takes over what it says."""
        if self._file is None:
            while True:
                await self._woken.wait()
                self._woken.clear()
                self._reread(apply)
        watch = Watch(self._woken.set, "the configuration file")
        try:
            # The directory: files are replaced, and a link in it may lead elsewhere.
            watch.update([self._file.absolute().parent])
            while True:
                self._reread(apply)  # what has changed since the start, too
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), _POLL_SECONDS)
                    await asyncio.sleep(_SETTLE_SECONDS)
                self._woken.clear()
        finally:
            watch.close()

    def _reread(self, apply: Callable[[Config], None]) -> None:
        """Takes over what can be taken over of the file as it is now."""
        data = _read(self._file)
        anyway, self._anyway = self._anyway, False
        if not anyway and (data is None or data == self._seen):
            return  # a file that is being replaced is not there for a moment
        self._seen = data
        try:
            change = reread(self._arguments, self.config)
        except ConfigError as error:
            self._log(_log.error, "the configuration is bad, the old one goes on", error=str(error))
            return
        self.config = change.config
        apply(change.config)
        if change.applied or anyway:
            self._log(_log.info, "the configuration has changed", fields=change.applied)
        if change.restart:
            self._log(_log.warning, "the configuration needs a restart to change", fields=change.restart)

    def _log(self, write: Callable[..., None], message: str, **fields: object) -> None:
        if self._logs:
            write(message, **fields)


def _read(file: Path | None) -> bytes | None:
    if file is None:
        return None
    try:
        return file.read_bytes()
    except OSError:
        return None
