# SPDX-License-Identifier: Apache-2.0
"""The answer no."""

from __future__ import annotations


class Refused(Exception):
    """A graph that must not be loaded; the message says why, for the catalog and the log."""

    def __init__(self, why: str) -> None:
        super().__init__(f"model.onnx: {why}")
