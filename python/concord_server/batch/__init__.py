# SPDX-License-Identifier: Apache-2.0
"""Runs rows together where that changes no answer, and all work off the event loop."""

from __future__ import annotations

from concord_server.batch.engine import Engine
from concord_server.batch.executor import Executor
from concord_server.batch.measure import measure, neutral_row, steady
from concord_server.batch.plan import Decision, Drop, Limits, plan
from concord_server.batch.policy import Policy, Settings, cores
from concord_server.batch.rows import Result, one, run
from concord_server.batch.watcher import Watcher

__all__ = [
    "Decision",
    "Drop",
    "Engine",
    "Executor",
    "Limits",
    "Policy",
    "Result",
    "Settings",
    "Watcher",
    "cores",
    "measure",
    "neutral_row",
    "one",
    "plan",
    "run",
    "steady",
]
