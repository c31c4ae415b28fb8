# SPDX-License-Identifier: Apache-2.0
"""Model directories to models that are ready to run.

It reads what lies on disk, believes nothing of it, follows its changes, and knows at any time which versions are
loading, ready, failed or draining.
"""

from __future__ import annotations

from concord_server.repository.edit import Editor
from concord_server.repository.follower import Follower
from concord_server.repository.repository import Repository
from concord_server.repository.version import About, Entry, State, Version

__all__ = ["About", "Editor", "Entry", "Follower", "Repository", "State", "Version"]
