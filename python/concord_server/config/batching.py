# SPDX-License-Identifier: Apache-2.0
"""How requests come to executions: the server's settings, and those of single models over them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from concord_proto.serverconfig.v1 import server_config_pb2

from concord_server.config.merge import ConfigError, quoted, within

__all__ = ["POLICIES", "Batching", "Generation", "ModelSettings", "read"]

POLICIES = ("auto", "inline", "direct", "adaptive")

_MAX_BATCH_ROWS = 1024
_MAX_DELAY_MS = 1000
_MAX_EXECUTORS = 256
_MAX_SLOTS = 64
_MIN_KV_BYTES = 1 << 20
_MAX_CHUNK_TOKENS = 8192
_MAX_INT64 = (1 << 63) - 1

# The contract's grammar of model ids.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Batching:
    """How requests of a model come to executions."""

    policy: str = "auto"
    """One of POLICIES."""
    max_batch_rows: int = 64
    """1 to 1024."""
    max_delay_seconds: float = 0
    """0 to 1."""
    max_queue_rows: int = 1024
    """At least 1."""
    executors: int | None = None
    """1 to 256; None: chosen with the policy."""
    own_policy: bool = False
    """Whether the policy was set for this very model: then it wins over the model's manifest. Else what the manifest
    says wins over it."""
    own_max_batch_rows: bool = False
    """The same for max_batch_rows."""


@dataclass(frozen=True, slots=True)
class Generation:
    """How a model generates text."""

    slots: int = 8
    """Most generations at once, 1 to 64."""
    max_kv_bytes: int = 1 << 30
    """Of the keys and values of all slots, at least 1 MiB."""
    prefill_chunk_tokens: int = 512
    """Of a prompt in one execution, 1 to 8192."""
    threads: int = 0
    """Within one operator where that was set; 0: all processors, as one token is all there is to compute at a time."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """All settings of one model: its own and, where it has none, the server's."""

    batching: Batching
    intra_op_threads: int
    generation: Generation = Generation()


def read(message: server_config_pb2.ServerConfig) -> tuple[ModelSettings, Mapping[str, ModelSettings]]:
    """The server's settings, and those of the models that have their own, by id. Raises ConfigError."""
    settings = _overlay("", ModelSettings(Batching(), 1), message)
    server = replace(settings, batching=replace(settings.batching, own_policy=False, own_max_batch_rows=False))
    models = {}
    for model_id in sorted(message.model_settings):
        if not _ID.fullmatch(model_id):
            raise ConfigError(f"model_settings: expected a model id, got {quoted(model_id)}")
        models[model_id] = _overlay(f"model_settings.{model_id}.", server, message.model_settings[model_id])
    return server, models


def _overlay(
    path: str, below: ModelSettings, message: server_config_pb2.ServerConfig | server_config_pb2.ModelSettings
) -> ModelSettings:
    """The settings that are set over those below. The path comes before the fields' names in errors."""
    batching, threads, generation = below.batching, below.intra_op_threads, below.generation
    if message.batching:
        if message.batching not in POLICIES:
            text = f"expected auto, inline, direct or adaptive, got {quoted(message.batching)}"
            raise ConfigError(f"{path}batching: {text}")
        batching = replace(batching, policy=message.batching, own_policy=True)
    if message.HasField("max_batch_rows"):
        rows = within(f"{path}max_batch_rows", message.max_batch_rows, 1, _MAX_BATCH_ROWS)
        batching = replace(batching, max_batch_rows=rows, own_max_batch_rows=True)
    if message.HasField("max_delay_ms"):
        delay = within(f"{path}max_delay_ms", message.max_delay_ms, 0, _MAX_DELAY_MS)
        batching = replace(batching, max_delay_seconds=delay / 1000)
    if message.HasField("max_queue_rows"):
        batching = replace(batching, max_queue_rows=within(f"{path}max_queue_rows", message.max_queue_rows, 1))
    if message.HasField("executors"):
        batching = replace(batching, executors=within(f"{path}executors", message.executors, 1, _MAX_EXECUTORS))
    if message.HasField("intra_op_threads"):
        threads = within(f"{path}intra_op_threads", message.intra_op_threads, 1)
        generation = replace(generation, threads=threads)
    if message.HasField("generation_slots"):
        slots = within(f"{path}generation_slots", message.generation_slots, 1, _MAX_SLOTS)
        generation = replace(generation, slots=slots)
    if message.HasField("max_kv_bytes"):
        most = within(f"{path}max_kv_bytes", message.max_kv_bytes, _MIN_KV_BYTES, _MAX_INT64)
        generation = replace(generation, max_kv_bytes=most)
    if message.HasField("prefill_chunk_tokens"):
        tokens = within(f"{path}prefill_chunk_tokens", message.prefill_chunk_tokens, 1, _MAX_CHUNK_TOKENS)
        generation = replace(generation, prefill_chunk_tokens=tokens)
    return ModelSettings(batching, threads, generation)
