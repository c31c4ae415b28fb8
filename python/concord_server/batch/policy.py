# SPDX-License-Identifier: Apache-2.0
"""How requests of a version come to executions: what its author, the configuration or a measurement says."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass
from typing import NamedTuple

from concord_proto.inference.v1 import model_pb2

from concord_server.model import Measured, Model

__all__ = ["Choice", "Policy", "Settings", "choose", "cores"]

# What a hand-over to a thread and back costs on a small machine: what takes less gains nothing from a thread.
INLINE_SECONDS = 100e-6
# Who asks for inline gets it up to here: health and all others wait for as long.
MOST_INLINE_SECONDS = 1e-3
# The share of its time that a row must save in a batch: the first of a batch pays for it with a wait.
LEAST_SAVED = 0.2


class Policy(enum.IntEnum):
    """inference.v1.BatchingPolicy."""

    UNSPECIFIED = model_pb2.BATCHING_POLICY_UNSPECIFIED
    INLINE = model_pb2.BATCHING_POLICY_INLINE
    DIRECT = model_pb2.BATCHING_POLICY_DIRECT
    ADAPTIVE = model_pb2.BATCHING_POLICY_ADAPTIVE


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says of one model."""

    policy: Policy = Policy.UNSPECIFIED
    """UNSPECIFIED leaves it to the model."""
    own_policy: bool = False
    """Whether the policy is said of this very model: then it wins over the model's manifest."""
    max_batch_rows: int = 64
    own_max_batch_rows: bool = False
    """Whether that is said of this very model."""
    max_delay_seconds: float = 0
    max_queue_rows: int = 1024
    executors: int | None = None
    """None leaves it to the policy."""


class Choice(NamedTuple):
    """How a version runs."""

    policy: Policy
    source: model_pb2.PolicySource
    executors: int
    max_batch_rows: int
    """Most rows of several requests in one execution; 1 where they are not joined."""
    max_chunk_rows: int
    """Most rows of one call in one execution."""
    max_delay_seconds: float
    max_queue_rows: int
    joins: bool
    """Whether rows may share an execution."""
    inline: bool
    """Whether what is small runs on the event loop."""


def choose(model: Model, settings: Settings, processors: int) -> Choice:
    """How a version runs under these settings, with so many processors."""
    measured = model.measured
    policy, source = _wanted(model, settings)
    joins = model.batchable or (
        not model.has_manifest and policy is Policy.ADAPTIVE and settings.own_policy and model.open_axes
    )
    if policy is Policy.ADAPTIVE and not joins:
        policy = Policy.DIRECT
    most = settings.max_batch_rows
    rows = (most if settings.own_max_batch_rows else min(most, model.most_rows)) if joins else 1
    return Choice(
        policy=policy,
        source=source,
        executors=settings.executors or (1 if policy is Policy.ADAPTIVE else processors),
        max_batch_rows=rows if policy is Policy.ADAPTIVE else 1,
        max_chunk_rows=min(rows, settings.max_queue_rows),
        max_delay_seconds=settings.max_delay_seconds if policy is Policy.ADAPTIVE else 0,
        max_queue_rows=settings.max_queue_rows,
        joins=joins,
        inline=policy is Policy.INLINE and _is_quick(measured, MOST_INLINE_SECONDS),
    )


def _wanted(model: Model, settings: Settings) -> tuple[Policy, model_pb2.PolicySource]:
    by_configuration = (settings.policy, model_pb2.POLICY_SOURCE_CONFIGURATION)
    if settings.policy and settings.own_policy:
        return by_configuration
    if model.policy:
        return Policy(model.policy), model_pb2.POLICY_SOURCE_MANIFEST
    if settings.policy:
        return by_configuration
    return _best(model), model_pb2.POLICY_SOURCE_MEASURED


def _best(model: Model) -> Policy:
    measured = model.measured
    if _is_quick(measured, INLINE_SECONDS):
        return Policy.INLINE
    alone = measured.alone
    if not model.batchable or alone is None:
        return Policy.DIRECT
    saved = max(alone - seconds / rows for rows, seconds in measured.least)
    return Policy.ADAPTIVE if saved >= LEAST_SAVED * alone else Policy.DIRECT


def _is_quick(measured: Measured, seconds: float) -> bool:
    alone = measured.alone
    return measured.steady and alone is not None and alone <= seconds


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0))
