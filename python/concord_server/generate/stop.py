# SPDX-License-Identifier: Apache-2.0
"""Stop texts: what may belong to one is held back, the first that is complete is found.

docs/sampling.md has the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["StopTexts"]


class StopTexts:
    """The text of one generation as its tokens bring it."""

    __slots__ = ("_begin", "_held", "_texts")

    def __init__(self, texts: Iterable[str]) -> None:
        """The texts are not empty."""
        self._texts = [_StopText(text) for text in texts]
        self._begin = {text.text[0] for text in self._texts}
        self._held: list[str] = []  # the texts of the tokens that are held back

    def add(self, text: str) -> tuple[Sequence[str], bool]:
        """Takes a token's text. Gives those of the oldest tokens that may go out now, and whether a stop text is there.

        Often it is this text alone; it is none while it is held back, several when others need not wait any longer.
        Where a stop text is complete, it is all of them, cut off before it.
        """
        held = self._held
        if not held and self._begin.isdisjoint(text):
            return (text,), False
        before = sum(map(len, held))
        held.append(text)
        for at, character in enumerate(text, before + 1):
            longest = 0
            for stop in self._texts:
                if stop.add(character):
                    longest = max(longest, len(stop.text))
            if longest:
                return _cut(self.rest(), at - longest), True
        keep = max(stop.matched for stop in self._texts)
        if not keep:
            return self.rest(), False
        left = before + len(text) - keep
        count = 0
        for each in held:
            left -= len(each)
            if left < 0:
                break
            count += 1
        self._held = held[count:]
        return held[:count], False

    def rest(self) -> list[str]:
        """The texts of all tokens that are held back, for the end of a generation without a stop text."""
        rest, self._held = self._held, []
        return rest


def _cut(texts: list[str], left: int) -> list[str]:
    cut = []
    for text in texts:
        cut.append(text[:left])
        left -= len(cut[-1])
    return cut


class _StopText:
    """One stop text and how much of it the text ends with, by Knuth, Morris and Pratt."""

    __slots__ = ("_border", "matched", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        """The text so far ends with text[:matched], and with no longer beginning."""
        # border[n] is how long the longest beginning of text[:n] is that also ends it, itself aside. It is found as far
        # as it is needed: a stop text may be longer than anything that is generated.
        self._border = [0, 0]

    def add(self, character: str) -> bool:
        """Takes a character; whether the stop text is complete."""
        text, matched = self.text, self.matched
        while matched and (matched == len(text) or text[matched] != character):
            matched = self._shorter(matched)
        if text[matched] == character:
            matched += 1
        self.matched = matched
        return matched == len(text)

    def _shorter(self, length: int) -> int:
        text, border = self.text, self._border
        for have in range(len(border) - 1, length):
            k = border[have]
            while k and text[k] != text[have]:
                k = border[k]
            border.append(k + 1 if text[k] == text[have] else k)
        return border[length]
