# SPDX-License-Identifier: Apache-2.0
"""Calls that are under way, seen from another thread than their callers': cancelled, told to end, counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Live"]


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class Live:
    """The calls of one step. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._calls: list[_Cancellable] = []
        self._messages = 0
        self._first_end: float | None = None
        self._over = threading.Event()
        self._reading = threading.Event()
        # The client has cancelled.
        self.cancelled = False

    @property
    def over(self) -> bool:
        """Whether the callers make no further call."""
        return self._over.is_set()

    def rest(self, seconds: float) -> bool:
        """A pause of a caller, which ends early when there is to be no further call; tells whether it did."""
        return self._over.wait(seconds) if seconds > 0 else False

    def read(self) -> None:
        """Messages that were left unread are read from now on."""
        self._reading.set()

    def wait_for_reading(self, ended: Callable[[], bool], seconds: float) -> None:
        """Returns once messages are to be read, the call has ended, or after so long."""
        end = time.monotonic() + seconds
        while not self._reading.wait(0.01) and not self.cancelled and not ended() and time.monotonic() < end:
            pass

    def add(self, call: _Cancellable) -> None:
        """A call has been sent; where the client cancelled meanwhile, this one too."""
        with self._lock:
            if not self.cancelled:
                self._calls.append(call)
                return
        call.cancel()

    def remove(self, call: _Cancellable) -> None:
        """A call has ended."""
        with self._lock:
            if call in self._calls:
                self._calls.remove(call)

    def one_ended(self) -> None:
        """A caller has its answer."""
        with self._lock:
            if self._first_end is None:
                self._first_end = time.perf_counter()

    def arrived(self) -> None:
        """A message of a stream has come, or what another call came to."""
        with self._lock:
            self._messages += 1
            self._lock.notify_all()

    def finish(self) -> None:
        """Every caller ends with the call that it is at."""
        self._over.set()

    def cancel(self) -> None:
        """Cancels what is under way, and every call that was about to be made."""
        with self._lock:
            self.cancelled = True
            self._over.set()
            calls = list(self._calls)
        # Not under the lock: a callback of the library may come back here.
        for call in calls:
            call.cancel()

    @property
    def messages(self) -> int:
        """How many have come."""
        with self._lock:
            return self._messages

    def wait_for_messages(self, count: int, seconds: float) -> int:
        """Waits until so many messages have come, or so long; tells how many came."""
        with self._lock:
            self._lock.wait_for(lambda: self._messages >= count, timeout=seconds)
            return self._messages

    def none_ended_before(self, moment: float) -> bool:
        """Whether no call had ended at a moment of time.perf_counter."""
        with self._lock:
            return self._first_end is None or self._first_end > moment
