# SPDX-License-Identifier: Apache-2.0
"""The estimators inside an estimator."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["members_of"]


def members_of(estimator: Any) -> list[Any]:
    """The estimator and all estimators inside it, found in its attributes, lists, tuples and arrays."""
    seen: set[int] = set()
    members: list[Any] = []
    pending: list[Any] = [estimator]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (list, tuple)):
            pending += item
        elif isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, np.ndarray):
            if item.dtype == object:
                pending += item.ravel().tolist()
        elif type(item).__module__.partition(".")[0] == "sklearn" or hasattr(item, "get_params"):
            members.append(item)
            pending += list(getattr(item, "__dict__", {}).values())
    return members
