# SPDX-License-Identifier: Apache-2.0
"""The answer no."""

from __future__ import annotations

__all__ = ["AdmissionError", "Refused"]


class AdmissionError(Exception):
    """A version that is not admitted; the message says why, for the catalog and the log."""


class Refused(Exception):
    """A graph that must not be loaded, by the rules."""

    def __init__(self, why: str) -> None:
        super().__init__(f"model.onnx: {why}")
