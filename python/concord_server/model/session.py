# SPDX-License-Identifier: Apache-2.0
"""What runs a graph, and what a caller still wants of a run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from concord_server import fault
from concord_server.tensor import Spec, Tensor

__all__ = ["Call", "Session", "SessionError"]


class SessionError(Exception):
    """ONNX Runtime refused a graph, or failed on these inputs; the text is its own message, not yet fit for callers."""


class Call:
    """What the caller of a run still wants: a deadline and whether it has gone. Safe for threads."""

    def __init__(self, deadline: float | None = None) -> None:
        """`deadline` is a time of time.monotonic(), in seconds; None is none."""
        self._deadline = deadline
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

    def check(self) -> None:
        """Raises the Fault of a call that has ended."""
        if self._cancelled:
            raise fault.cancelled()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise fault.deadline_exceeded()

    def begin(self, terminate: Callable[[], None]) -> None:
        """Says how to end the run that begins now. Raises Fault where it must not begin."""
        self.check()
        with self._lock:
            self._on_cancel = terminate
            cancelled = self._cancelled
        if cancelled:
            raise fault.cancelled()

    def end(self) -> None:
        """The run has ended; nothing is left to terminate."""
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

        Raises the call's Fault where it has ended, before or during the run; SessionError where ONNX Runtime failed on
        these inputs.
        """
