# SPDX-License-Identifier: Apache-2.0
"""What a request must say to name a model and a version."""

from __future__ import annotations

import re

from concord_server import fault
from concord_server.fault import Reason, quote

__all__ = ["check_id", "check_name", "is_id", "is_label", "is_version", "version_order"]

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]*")
_LABEL = re.compile(r"[a-z][a-z0-9-]{0,62}")


def is_id(text: str) -> bool:
    """Whether the text is a model id."""
    return _ID.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Whether the text is a version number: a positive integer without leading zeros, of any size."""
    return _VERSION.fullmatch(text) is not None


def is_label(text: str) -> bool:
    """Whether the text is a label."""
    return _LABEL.fullmatch(text) is not None


def version_order(version: str) -> tuple[int, str]:
    """Sorts version numbers by value, however long they are."""
    return len(version), version


def check_id(model_id: str) -> None:
    """Raises Fault unless the text is a model id."""
    if not is_id(model_id):
        got = quote(model_id) if model_id else "nothing"
        text = f"expected {_ID.pattern}, got {got}"
        raise fault.invalid(Reason.MODEL_ID_INVALID, "model_id", text)


def check_name(model_id: str, version: str) -> None:
    """Raises Fault unless a request names a model and a version, a label or nothing in their grammar."""
    check_id(model_id)
    if version and not is_version(version) and not is_label(version):
        text = (
            f"expected a positive integer without leading zeros or a label [a-z][a-z0-9-]{{0,62}}, got {quote(version)}"
        )
        raise fault.invalid(Reason.MODEL_VERSION_INVALID, "model_version", text).at(model_id)
