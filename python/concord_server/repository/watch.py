# SPDX-License-Identifier: Apache-2.0
"""Hears from the operating system that something in directories has changed.

It hears nothing on some file systems, and it may miss changes: it only makes the next look come sooner.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

from concord_server import telemetry

__all__ = ["Watch"]

_log = telemetry.log(__name__)


class Watch:
    """Watches directories, not what is below them. Where there is nothing to watch with, it hears nothing."""

    def __init__(self, changed: Callable[[], None], what: str) -> None:
        """`changed` is called on the event loop that this is made on; `what` is the log's word for what is watched."""
        self._what = what
        self._full = False
        self._watched: frozenset[int] = frozenset()
        try:
            # Imported here: servers that follow nothing, and systems without it, go without.
            from inotify_simple import INotify, flags  # type: ignore[import-untyped]

            self._inotify = INotify(nonblocking=True)
        except (ImportError, OSError, AttributeError) as error:
            self._inotify = None
            _log.warning(f"{what} is not watched, only polled", cause=_plain(error))
            return
        self._mask = (
            flags.CREATE
            | flags.MODIFY
            | flags.DELETE
            | flags.MOVED_FROM
            | flags.MOVED_TO
            | flags.DELETE_SELF
            | flags.MOVE_SELF
            | flags.ONLYDIR
        )
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._inotify.fileno(), self._read)

    def close(self) -> None:
        """Watches no more."""
        if self._inotify is not None:
            self._loop.remove_reader(self._inotify.fileno())
            self._inotify.close()
            self._inotify = None

    def update(self, directories: Iterable[Path]) -> bool:
        """Watches these directories and no others.

        Tells whether one of them was not watched before: what happened in it so far was not heard. May be called on any
        thread, one at a time.
        """
        if self._inotify is None:
            return False
        watched = set()
        for directory in directories:
            try:
                # A directory that is watched already gives the number that it had.
                watched.add(self._inotify.add_watch(directory, self._mask))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if not self._full:
                    self._full = True
                    _log.warning(f"part of {self._what} is not watched, only polled", cause=_plain(error))
        before, self._watched = self._watched, frozenset(watched)
        for gone in before - watched:
            with contextlib.suppress(OSError):  # it is not watched any more where the directory is gone
                self._inotify.rm_watch(gone)
        return bool(watched - before)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if self._inotify is not None and self._inotify.read(timeout=0):
                self._changed()


def _plain(error: Exception) -> str:
    """An error without the path that it names."""
    return (error.strerror or "unknown error").lower() if isinstance(error, OSError) else str(error)
