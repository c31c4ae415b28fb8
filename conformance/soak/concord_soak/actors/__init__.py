# SPDX-License-Identifier: Apache-2.0
"""The actors of the soak, a file for each kind.

A new file here is all that a new actor needs: every module is imported.
"""

from __future__ import annotations

import importlib
import pkgutil

from concord_soak.world import Actor, registered

__all__ = ["all_actors"]


def all_actors() -> list[Actor]:
    """Every actor of every file here."""
    for module in pkgutil.iter_modules(__path__, __name__ + "."):
        importlib.import_module(module.name)
    return registered()
