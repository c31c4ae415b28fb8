# SPDX-License-Identifier: Apache-2.0
"""What runs a graph, and what a caller still wants of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from concord_server import fault
from concord_server.fault import Fault
from concord_server.tensor import Spec, Tensor

__all__ = ["Call", "NoTensors", "OutputTooLargeError", "Session", "SessionError"]


class SessionError(Exception):
    """ONNX Runtime refused a graph, or failed on these inputs; the text is its own message, not yet fit for callers."""


class OutputTooLargeError(Exception):
    """A run's outputs hold more bytes than its caller takes; nothing of them was copied."""

    def __init__(self, size: int, most: int) -> None:
        super().__init__(f"outputs of {size} bytes, the most is {most}")
        self.size = size
        self.most = most


class Call:
    """What the caller of a run still wants: a deadline and whether it has gone. Safe for threads."""

    __slots__ = (
        "_cancelled",
        "_deadline",
        "_lock",
        "_most_seconds",
        "_on_cancel",
        "max_output_bytes",
        "requests",
        "terminable",
    )

    def __init__(self, deadline: float | None = None, max_output_bytes: int = 0) -> None:
        """`deadline` is a time of time.monotonic(), in seconds; None is none."""
        self._deadline = deadline
        self._most_seconds = 0.0
        self.max_output_bytes = max_output_bytes
        """Most bytes of outputs for one request; 0 is any."""
        self.requests = 1
        """Requests that share the run."""
        self.terminable = True
        """Whether anybody may end the run."""
        self._cancelled = False
        self._lock = threading.Lock()
        self._on_cancel: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Ends the run that is under way as soon as the runtime can, and lets none begin."""
        with self._lock:
            self._cancelled = True
            terminate = self._on_cancel
        if terminate is not None:
            terminate()

    @property
    def deadline(self) -> float | None:
        """A time of time.monotonic(); None is none."""
        return self._deadline

    def within(self, seconds: float) -> None:
        """Sets the server's own limit: a deadline that is no later than so many seconds from now."""
        latest = time.monotonic() + seconds
        if self._deadline is None or self._deadline > latest:
            self._deadline = latest
            self._most_seconds = seconds

    @property
    def cancelled(self) -> bool:
        """Whether the caller has gone."""
        return self._cancelled

    def check(self) -> None:
        """Raises the Fault of a call that has ended."""
        ended = self.ended()
        if ended is not None:
            raise ended

    def ended(self) -> Fault | None:
        """The Fault of a call that has ended; None where it goes on."""
        if self._cancelled:
            return fault.cancelled()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            return self.expired()
        return None

    def expired(self) -> Fault:
        """The Fault of a call whose deadline has passed."""
        if self._most_seconds:
            return fault.too_long(self._most_seconds)
        return fault.deadline_exceeded()

    def begin(self, terminate: Callable[[], None] | None) -> None:
        """Says how to end the run that begins now. Raises Fault where it must not begin."""
        self.check()
        if terminate is None:
            return
        with self._lock:
            self._on_cancel = terminate
            cancelled = self._cancelled
        if cancelled:
            raise fault.cancelled()

    def end(self) -> None:
        """The run has ended; nothing is left to terminate."""
        if self._on_cancel is None:
            return
        with self._lock:
            self._on_cancel = None


class Session(Protocol):
    """One ONNX graph, ready to run. Several threads may run it at once."""

    @property
    def inputs(self) -> Sequence[Spec]:
        """The graph's inputs, in its order. All are tensors of types that are served."""

    @property
    def outputs(self) -> Sequence[Spec]:
        """The graph's outputs, in its order. All are tensors of types that are served."""

    def run(self, inputs: Sequence[Tensor], wanted: Sequence[int], call: Call) -> list[Tensor]:
        """Takes a tensor for each input, in order, and gives the outputs whose indices are wanted, in that order.

        Raises the call's Fault where it has ended, before or during the run; OutputTooLargeError where the outputs hold
        more than the call's max_output_bytes for each of its requests; SessionError where ONNX Runtime failed on these
        inputs.
        """


class NoTensors:
    """The Session of a model that takes no tensors: its kind says what it takes."""

    inputs: Sequence[Spec] = ()
    outputs: Sequence[Spec] = ()

    def run(self, inputs: Sequence[Tensor], wanted: Sequence[int], call: Call) -> list[Tensor]:
        """Raises SessionError."""
        raise SessionError("it takes no tensors")
