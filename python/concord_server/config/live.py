# SPDX-License-Identifier: Apache-2.0
"""A configuration that is read again while the server runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from concord_server.config.check import Config, check
from concord_server.config.merge import ConfigError, ServerConfig, config_file, merge

__all__ = ["Change", "config_file", "reread"]

_LIVE = frozenset(
    (
        "max_batch_requests",
        "drain_delay_ms",
        "drain_grace_ms",
        "repository_poll_ms",
        "batching",
        "max_batch_rows",
        "max_delay_ms",
        "max_queue_rows",
        "executors",
        "max_request_ms",
        "max_output_bytes",
        "request_log_ppm",
        "model_settings",
    )
)
"""The fields that a running server takes over."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a configuration read again brings."""

    config: Config
    """What runs, with the fields of the new one that a running server takes over."""
    applied: Sequence[str]
    """The fields among them that are others than before."""
    restart: Sequence[str]
    """The fields that are others than what runs, and stay so until a restart."""


def reread(arguments: Sequence[str], running: Config) -> Change:
    """Parses the arguments again, with the file as it is now.

    Raises ConfigError where the configuration is bad; then nothing changes.
    """
    written = merge(arguments)
    if isinstance(written, str):
        raise ConfigError(f"expected a configuration, got --{written}")
    check(written)
    following = ServerConfig()
    following.CopyFrom(running.written)
    new, old = _set_fields(written), _set_fields(following)
    changed = [field.name for field in ServerConfig.DESCRIPTOR.fields if new.get(field.name) != old.get(field.name)]
    applied = [name for name in changed if name in _LIVE]
    # Of both, each field comes from the one that says it: there is nothing else in either.
    for name in set(old) & set(applied):
        following.ClearField(name)
    for name in set(new) - set(applied):
        written.ClearField(name)
    following.MergeFrom(written)
    restart = [name for name in changed if name not in _LIVE]
    return Change(check(following), applied, restart)


def _set_fields(message: ServerConfig) -> Mapping[str, object]:
    """The values of the fields that are set, by name."""
    copied = ServerConfig()
    copied.CopyFrom(message)
    return {field.name: value for field, value in copied.ListFields()}
