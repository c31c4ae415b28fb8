# SPDX-License-Identifier: Apache-2.0
"""Runs rows together where that changes no answer, and all work off the event loop."""

from __future__ import annotations

from concord_server.batch.executor import Executor
from concord_server.batch.rows import Result, one, plan, run

__all__ = ["Executor", "Result", "one", "plan", "run"]
