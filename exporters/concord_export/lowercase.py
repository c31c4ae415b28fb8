# SPDX-License-Identifier: Apache-2.0
"""Lower-casing that every machine does alike."""

from __future__ import annotations

import string

__all__ = ["ascii_lower"]

_TABLE = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def ascii_lower(text: str) -> str:
    """A to Z become a to z, all else stays: as a vectorizer's `preprocessor` it is exported exactly.

    A vectorizer's own `lowercase` follows Unicode; its export needs the locale C.UTF-8 on the servers where texts hold
    other capital letters.
    """
    return text.translate(_TABLE)
