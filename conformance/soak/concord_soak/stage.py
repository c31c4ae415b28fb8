# SPDX-License-Identifier: Apache-2.0
"""A server on a repository of its own, with TLS: what the soak and the proofs begin with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from concord_soak.certificates import make_certificates
from concord_soak.process import Server
from concord_soak.scratch import Scratch

__all__ = ["FIXTURES", "MODELS", "Stage", "prepare"]

_CONFORMANCE = Path(__file__).resolve().parents[2]
FIXTURES = _CONFORMANCE / "fixtures"
# What `make fitted-models` makes; the soak does without where it is not there.
MODELS = _CONFORMANCE.parent / "models"


@dataclass
class Stage:
    """A prepared repository and the command that serves it."""

    directory: Path
    scratch: Scratch
    authority: bytes
    _command: list[str]
    _started: int = 0

    def start(self) -> Server:
        """Starts the server. Raises ServerError."""
        self._started += 1
        return Server(self._command, self.log)

    @property
    def log(self) -> Path:
        """What the server that was started last wrote on standard error."""
        return self.directory / f"server-{self._started}.log"


@contextmanager
def prepare(
    command: Sequence[str],
    *,
    fixtures: Sequence[str],
    flags: Mapping[str, Any] | None = None,
    model_settings: Mapping[str, Any] | None = None,
    keep: Path | None = None,
) -> Iterator[Stage]:
    """Makes a repository with these fixtures, a certificate and a configuration; `keep` is where logs stay."""
    with TemporaryDirectory(prefix="concord-soak-") as temporary:
        directory = Path(temporary)
        scratch = Scratch(directory)
        scratch.copy(FIXTURES, fixtures)
        certificates = make_certificates(directory)
        config: dict[str, Any] = {
            "models": str(scratch.models),
            "listen": "127.0.0.1:0",
            "http": "127.0.0.1:0",
            "tls_cert": str(certificates.chain),
            "tls_key": str(certificates.key),
            "repository_poll_ms": 200,
            "drain_grace_ms": 60_000,
            "admission_cache": str(directory / "verdicts"),
            **(flags or {}),
        }
        if model_settings:
            config["model_settings"] = dict(model_settings)
        path = directory / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        logs = keep or directory
        logs.mkdir(parents=True, exist_ok=True)
        yield Stage(logs, scratch, certificates.authority, [*command, "--config", str(path)])
