# SPDX-License-Identifier: Apache-2.0
"""What a configuration must hold."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from concord_proto.serverconfig.v1 import server_config_pb2

from concord_server.config.certificates import Certificates, read
from concord_server.config.merge import ConfigError, merge, quoted

__all__ = ["Address", "Config", "parse"]

_MAX_INT32 = (1 << 31) - 1
_MAX_INT64 = (1 << 63) - 1
_MIN_MESSAGE_BYTES = 1 << 10
_MIN_ADMISSION_BYTES = 256 << 20


class Address(NamedTuple):
    """Where to listen."""

    host: str
    """Empty: all addresses of this machine."""
    port: int
    """0 picks a free one."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that has been checked."""

    models: Path
    listen: Address
    http: Address | None
    certificates: Certificates | None
    """None: plaintext."""
    require_manifest: bool
    reflection: bool
    max_message_bytes: int
    max_batch_requests: int
    drain_delay_seconds: float
    drain_grace_seconds: float
    intra_op_threads: int
    onnxruntime: Path | None
    admin_listen: Address | None
    """None: no admin listener."""
    admin_reflection: bool
    staging: Path | None
    repository_poll_seconds: float
    """0: the repository is read once."""
    allow_integer_division: bool
    admission_cache: Path | None
    """None: verdicts are not kept. It need not exist."""
    admission_timeout_seconds: float
    admission_memory_bytes: int


def parse(arguments: Sequence[str]) -> Config | str:
    """Reads the arguments, without the program's name, and the file that they name.

    Gives "help" or "version" where they ask for a text instead. Raises ConfigError.
    """
    merged = merge(arguments)
    return merged if isinstance(merged, str) else _check(merged)


def _check(message: server_config_pb2.ServerConfig) -> Config:
    if not message.models:
        raise ConfigError("models: expected a directory, got nothing")
    models = Path(message.models)
    if not models.is_dir():
        raise ConfigError(f"models: expected a directory, got {quoted(message.models)}, which is none")
    listen = _address("listen", message.listen if message.HasField("listen") else "127.0.0.1:50051")
    http_text = message.http if message.HasField("http") else "127.0.0.1:9090"
    http = None if http_text == "off" else _address("http", http_text)
    certificates = read(message)
    if certificates is None and not listen.loopback and not message.plaintext:
        raise ConfigError(
            f"listen: expected a loopback address where there are no certificates, got {quoted(str(listen))}: "
            "set tls_cert and tls_key (`make certs` makes some for development), or plaintext"
        )
    has = message.HasField
    message_bytes = message.max_message_bytes if has("max_message_bytes") else 100 << 20
    batch_requests = message.max_batch_requests if has("max_batch_requests") else 10000
    grace = message.drain_grace_ms if has("drain_grace_ms") else 30000
    threads = message.intra_op_threads if has("intra_op_threads") else 1
    admin = None
    if has("admin_listen") and message.admin_listen != "off":
        admin = _address("admin_listen", message.admin_listen)
        if not admin.loopback:
            raise ConfigError(f"admin_listen: expected a loopback address, got {quoted(message.admin_listen)}")
    if message.staging and not Path(message.staging).is_dir():
        raise ConfigError(f"staging: expected a directory, got {quoted(message.staging)}, which is none")
    poll = message.repository_poll_ms if has("repository_poll_ms") else 1000
    timeout = message.admission_timeout_ms if has("admission_timeout_ms") else 60_000
    memory = message.admission_memory_bytes if has("admission_memory_bytes") else 16 << 30
    return Config(
        models=models,
        listen=listen,
        http=http,
        certificates=certificates,
        require_manifest=message.require_manifest,
        reflection=message.reflection if has("reflection") else listen.loopback,
        max_message_bytes=_within("max_message_bytes", message_bytes, _MIN_MESSAGE_BYTES),
        max_batch_requests=_within("max_batch_requests", batch_requests, 1),
        drain_delay_seconds=_within("drain_delay_ms", message.drain_delay_ms, 0) / 1000,
        drain_grace_seconds=_within("drain_grace_ms", grace, 0) / 1000,
        intra_op_threads=_within("intra_op_threads", threads, 1),
        onnxruntime=Path(message.onnxruntime) if message.onnxruntime else None,
        admin_listen=admin,
        admin_reflection=message.reflection if has("reflection") else True,
        staging=Path(message.staging) if message.staging else None,
        repository_poll_seconds=_within("repository_poll_ms", poll, 0) / 1000,
        allow_integer_division=message.allow_integer_division,
        admission_cache=_cache(message.admission_cache if has("admission_cache") else None),
        admission_timeout_seconds=_within("admission_timeout_ms", timeout, 1) / 1000,
        admission_memory_bytes=_within("admission_memory_bytes", memory, _MIN_ADMISSION_BYTES, _MAX_INT64),
    )


def _within(field: str, value: int, low: int, high: int = _MAX_INT32) -> int:
    if not low <= value <= high:
        raise ConfigError(f"{field}: expected {low} to {high}, got {value}")
    return value


def _cache(given: str | None) -> Path | None:
    """Where verdicts are kept. A user without a cache directory keeps none unless one is named."""
    if given is not None:
        if not given:
            raise ConfigError("admission_cache: expected a directory or off, got nothing")
        return None if given == "off" else Path(given)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():
        return Path(base) / "concord"
    home = os.environ.get("HOME", "")
    return Path(home) / ".cache" / "concord" if Path(home).is_absolute() else None


_ADDRESS = re.compile(r"(?:\[(?P<six>[^\[\] /\t\r\n]*)\]|(?P<host>[^\[\]: /\t\r\n]*)):(?P<port>0|[1-9][0-9]{0,4})")


def _address(field: str, text: str) -> Address:
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 0xFFFF:
        raise ConfigError(f"{field}: expected HOST:PORT, got {quoted(text)}")
    return Address(match["host"] or match["six"] or "", int(match["port"]))
