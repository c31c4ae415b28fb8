# SPDX-License-Identifier: Apache-2.0
"""Features to tensors, and output tensors to predictions and outputs, by a Plan made once when a model loads."""

from __future__ import annotations

from concord_server.feature.bind import from_graph, from_manifest
from concord_server.feature.encode import EncodeError
from concord_server.feature.limit import limit
from concord_server.feature.plan import BindError, Plan

__all__ = ["BindError", "EncodeError", "Plan", "from_graph", "from_manifest", "limit"]
