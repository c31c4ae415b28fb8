# SPDX-License-Identifier: Apache-2.0
"""What a configuration must hold."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from concord_proto.serverconfig.v1 import server_config_pb2

from concord_server.config import batching
from concord_server.config.batching import Batching, Generation, ModelSettings
from concord_server.config.certificates import Certificates, read
from concord_server.config.merge import ConfigError, merge, quoted, within

__all__ = ["Address", "Config", "check", "parse"]

_MAX_INT32 = (1 << 31) - 1
_MAX_INT64 = (1 << 63) - 1
_MIN_MESSAGE_BYTES = 1 << 10
_MIN_ADMISSION_BYTES = 256 << 20
_MAX_PROCESSES = 64
_MIN_HEADER_BYTES = 4 << 10
_MIN_OUTPUT_BYTES = 1 << 10
_MAX_PPM = 1_000_000


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
    onnxruntime_genai: Path | None
    """None: that of the package onnxruntime-genai, if it is there."""
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
    device: str
    """"cpu" or "cuda:N"."""
    processes: int
    """1 to 64."""
    batching: Batching
    generation: Generation
    model_settings: Mapping[str, ModelSettings]
    """Of the models that have their own, by model id."""
    max_request_seconds: float
    max_connection_age_seconds: float
    """0: connections stay."""
    max_concurrent_streams: int
    max_header_bytes: int
    max_output_bytes: int
    """Of one execution for one request."""
    request_log_ppm: int
    """0 to 1000000."""
    written: server_config_pb2.ServerConfig = field(
        default_factory=server_config_pb2.ServerConfig, compare=False, repr=False
    )
    """What it was checked from."""

    def settings_of(self, model_id: str) -> ModelSettings:
        """The settings of a model, its own over the server's."""
        return self.model_settings.get(model_id) or ModelSettings(self.batching, self.intra_op_threads, self.generation)

    def batching_of(self, model_id: str) -> Batching:
        """How requests of a model come to executions, its own settings over the server's."""
        return self.settings_of(model_id).batching


def parse(arguments: Sequence[str]) -> Config | str:
    """Reads the arguments, without the program's name, and the file that they name.

    Gives "help" or "version" where they ask for a text instead. Raises ConfigError.
    """
    merged = merge(arguments)
    return merged if isinstance(merged, str) else check(merged)


def check(message: server_config_pb2.ServerConfig) -> Config:
    """The configuration that is in a message. Raises ConfigError."""
    if not message.models:
        raise ConfigError("models: expected a directory, got nothing")
    models = Path(message.models)
    if not models.is_dir():
        raise ConfigError(f"models: expected a directory, got {quoted(message.models)}, which is none")
    has = message.HasField
    listen = _address("listen", message.listen if has("listen") else "127.0.0.1:50051")
    http_text = message.http if has("http") else "127.0.0.1:9090"
    http = None if http_text == "off" else _address("http", http_text)
    admin = None
    if has("admin_listen") and message.admin_listen != "off":
        admin = _address("admin_listen", message.admin_listen)
        if not admin.loopback:
            raise ConfigError(f"admin_listen: expected a loopback address, got {quoted(message.admin_listen)}")
    if message.staging and not Path(message.staging).is_dir():
        raise ConfigError(f"staging: expected a directory, got {quoted(message.staging)}, which is none")
    cache = _cache(message.admission_cache if has("admission_cache") else None)
    certificates = read(message)
    if certificates is None and not listen.loopback and not message.plaintext:
        raise ConfigError(
            f"listen: expected a loopback address where there are no certificates, got {quoted(str(listen))}: "
            "set tls_cert and tls_key (`make certs` makes some for development), or plaintext"
        )
    device = _device(message.device)

    def number(name: str, default: int, low: int, high: int = _MAX_INT32) -> int:
        given: int = getattr(message, name)
        return within(name, given if has(name) else default, low, high)

    max_message_bytes = number("max_message_bytes", 100 << 20, _MIN_MESSAGE_BYTES)
    settings, of_models = batching.read(message)
    return Config(
        models=models,
        listen=listen,
        http=http,
        certificates=certificates,
        require_manifest=message.require_manifest,
        reflection=message.reflection if has("reflection") else listen.loopback,
        max_message_bytes=max_message_bytes,
        max_batch_requests=number("max_batch_requests", 10000, 1),
        drain_delay_seconds=within("drain_delay_ms", message.drain_delay_ms, 0) / 1000,
        drain_grace_seconds=number("drain_grace_ms", 30_000, 0) / 1000,
        repository_poll_seconds=number("repository_poll_ms", 1000, 0) / 1000,
        admission_timeout_seconds=number("admission_timeout_ms", 60_000, 1) / 1000,
        admission_memory_bytes=number("admission_memory_bytes", 16 << 30, _MIN_ADMISSION_BYTES, _MAX_INT64),
        processes=number("processes", 1, 1, _MAX_PROCESSES),
        max_request_seconds=number("max_request_ms", 300_000, 1) / 1000,
        max_connection_age_seconds=number("max_connection_age_ms", 1_800_000, 0) / 1000,
        max_concurrent_streams=number("max_concurrent_streams", 1024, 1),
        max_header_bytes=number("max_header_bytes", 64 << 10, _MIN_HEADER_BYTES),
        max_output_bytes=number("max_output_bytes", max_message_bytes, _MIN_OUTPUT_BYTES, _MAX_INT64),
        request_log_ppm=number("request_log_ppm", 0, 0, _MAX_PPM),
        intra_op_threads=settings.intra_op_threads,
        onnxruntime=Path(message.onnxruntime) if message.onnxruntime else None,
        onnxruntime_genai=Path(message.onnxruntime_genai) if message.onnxruntime_genai else None,
        admin_listen=admin,
        admin_reflection=message.reflection if has("reflection") else True,
        staging=Path(message.staging) if message.staging else None,
        allow_integer_division=message.allow_integer_division,
        admission_cache=cache,
        device=device,
        batching=settings.batching,
        generation=settings.generation,
        model_settings=of_models,
        written=message,
    )


_DEVICE = re.compile(r"cpu|cuda:(?:0|[1-9][0-9]{0,3})")


def _device(text: str) -> str:
    """Where models are to run; nothing is the CPU."""
    if not _DEVICE.fullmatch(text or "cpu"):
        raise ConfigError(f"device: expected cpu or cuda:N, got {quoted(text)}")
    return text or "cpu"


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
