# SPDX-License-Identifier: Apache-2.0
"""What turns text into tokens and back."""

from __future__ import annotations

from typing import Protocol

__all__ = ["TextStream", "Tokenizer", "TokenizerError"]


class TokenizerError(Exception):
    """A text that has no tokens, or messages that the template refuses; the text says why, not yet fit for callers."""


class TextStream(Protocol):
    """The text of one generation as it grows. One thread uses it."""

    def add(self, token: int) -> str:
        """The text that became complete with this token: often "", as a character may take several tokens."""

    def close(self) -> None:
        """Frees the stream. A second time does nothing."""


class Tokenizer(Protocol):
    """Of one model. Several threads may use it at once."""

    def template(self, messages: str) -> str:
        """The model's chat template applied to messages, with what lets the model answer added.

        The messages are a JSON list of {"role","content"}. Raises TokenizerError where the template refuses them.
        """

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, none for none. Raises TokenizerError where the text has none, as a NUL may."""

    def stream(self) -> TextStream:
        """Begins the text of one generation."""

    def close(self) -> None:
        """Frees the tokenizer. No stream of it may be in use."""
