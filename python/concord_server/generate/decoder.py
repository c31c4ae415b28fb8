# SPDX-License-Identifier: Apache-2.0
"""What runs a network over the caches of its slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from concord_server.model.session import Call

__all__ = ["Decoder", "Logits", "Row"]

Logits = npt.NDArray[np.float32]
"""Of one token: as many as the vocabulary has."""


class Row(NamedTuple):
    """What one slot's generation brings to a run."""

    slot: int
    """Below `slots`."""
    position: int
    """How many tokens the slot's cache holds already."""
    tokens: Sequence[int]
    """Those that come next, at least one; position and they together are at most `context`."""


class Decoder(Protocol):
    """The network and its slots. One caller at a time."""

    @property
    def slots(self) -> int:
        """How many generations it has room for, at least 1."""

    @property
    def context(self) -> int:
        """How many tokens one slot holds, at least 1."""

    @property
    def vocabulary(self) -> int:
        """How many logits each token gets."""

    @property
    def cache_bytes(self) -> int:
        """The memory of all slots' keys and values."""

    @property
    def end_tokens(self) -> Sequence[int]:
        """Those with which the model ends its text."""

    def run(self, rows: Sequence[Row], call: Call) -> Sequence[Logits]:
        """Appends each row's tokens to its slot's cache from its position on.

        Gives the logits after each row's last token, in the rows' order: valid until the next run. Either every row has
        exactly one token, or there is one row with any number. Rows are in the order of their slots.

        Raises the call's Fault where it has ended, before or during the run, which then ends as soon as ONNX Runtime
        can: what the slots of its rows hold up to their positions is as before. Raises SessionError where ONNX Runtime
        failed.
        """

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies the first tokens of a slot's cache to another slot, so that those in use stay the first ones.

        A joint run costs as much as the slots up to its last.
        """

    def close(self) -> None:
        """Frees the decoder, which must not be used afterwards. A second time does nothing."""
