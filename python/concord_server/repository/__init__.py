# SPDX-License-Identifier: Apache-2.0
"""Model directories to models that are ready to run.

It reads what lies on disk, believes nothing of it, and knows at any time which versions are loading, ready or failed.
"""

from __future__ import annotations

from concord_server.repository.repository import About, Entry, Repository, State, Version

__all__ = ["About", "Entry", "Repository", "State", "Version"]
