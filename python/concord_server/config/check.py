# SPDX-License-Identifier: Apache-2.0
"""What a configuration must hold."""

from __future__ import annotations

import ipaddress
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
_MIN_MESSAGE_BYTES = 1 << 10


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
    )


def _within(field: str, value: int, low: int) -> int:
    if not low <= value <= _MAX_INT32:
        raise ConfigError(f"{field}: expected {low} to {_MAX_INT32}, got {value}")
    return value


_ADDRESS = re.compile(r"(?:\[(?P<six>[^\[\] /\t\r\n]*)\]|(?P<host>[^\[\]: /\t\r\n]*)):(?P<port>0|[1-9][0-9]{0,4})")


def _address(field: str, text: str) -> Address:
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > 0xFFFF:
        raise ConfigError(f"{field}: expected HOST:PORT, got {quoted(text)}")
    return Address(match["host"] or match["six"] or "", int(match["port"]))
