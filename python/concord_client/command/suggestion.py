# SPDX-License-Identifier: Apache-2.0
"""The name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from concord_client._values import quote

# The comparison takes time with the square of the length.
_LONGEST = 200


def nearest(name: str, names: Collection[str]) -> str | None:
    """The one of names that is most like name, if any is like it."""
    if len(name) > _LONGEST:
        return None
    by_folded = {_folded(each): each for each in sorted(names, reverse=True) if len(each) <= _LONGEST}
    matches = difflib.get_close_matches(_folded(name), by_folded, n=1, cutoff=0.6)
    return by_folded[matches[0]] if matches else None


def did_you_mean(name: str, names: Collection[str]) -> str:
    """Words to put behind a message about an unknown name; empty where nothing is near."""
    found = nearest(name, names)
    return f"; did you mean {quote(found)}?" if found is not None else ""


def _folded(name: str) -> str:
    """Case, and which of blank, _ and - joins words, are what people mix up."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()
