# SPDX-License-Identifier: Apache-2.0
"""What a version of a generator is made of, and what makes its tokenizer and decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from concord_server.generate.decoder import Decoder
from concord_server.generate.tokenizer import Tokenizer

__all__ = ["GENAI_CONFIG", "Open", "Package", "Sizes"]

GENAI_CONFIG = "genai_config.json"
"""The one source of facts about a decoder: the names of its inputs and outputs, its sizes, its end tokens."""


@dataclass(slots=True)
class Package:
    """Verified bytes, by name."""

    graph: bytes
    """model.onnx."""
    external: Mapping[str, bytes]
    """What the graph's external initializers may lie in."""
    files: Mapping[str, bytes]
    """genai_config.json, tokenizer.json, tokenizer_config.json, chat_template.jinja and the like."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What bounds a decoder."""

    slots: int = 8
    """At least 1."""
    bytes: int = 1 << 30
    """Most memory of the keys and values of all slots."""
    threads: int = 0
    """Within one operator; 0: as many as there are processors."""


class Open(Protocol):
    """Makes a package's tokenizer and decoder.

    Raises SessionError: its text is ONNX Runtime's, or says what of the package cannot be.
    """

    def __call__(self, package: Package, sizes: Sizes, /) -> tuple[Tokenizer, Decoder]: ...
