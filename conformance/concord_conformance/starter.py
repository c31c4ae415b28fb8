# SPDX-License-Identifier: Apache-2.0
"""Starts servers: the one that the cases share, and a case's own with a repository and a configuration for it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from concord_proto.conformance.v1 import suite_pb2
from google.protobuf import json_format

from concord_conformance.process import ServerProcess
from concord_conformance.scratch import Scratch

__all__ = ["CONFIG", "MODELS", "OwnProcess", "Starter"]

# What stands in a command for the directory of the models and for the configuration file.
MODELS, CONFIG = "{models}", "{config}"


class OwnProcess:
    """A case's own server, its repository and its scratch directory."""

    def __init__(
        self, process: ServerProcess, repository: Scratch, directory: tempfile.TemporaryDirectory[str]
    ) -> None:
        self.process = process
        self.repository = repository
        self._directory = directory

    def stop(self) -> list[str]:
        """Ends the server, removes its directory and tells what was wrong with the end."""
        try:
            return self.process.stop()
        finally:
            self._directory.cleanup()


class Starter:
    """Knows the command. Files that servers are given lie below `scratch`, what they say below `logs`; both exist."""

    def __init__(self, command: Sequence[str], fixtures: Path, scratch: Path, logs: Path, ready_seconds: float) -> None:
        self._command = command
        self._fixtures = fixtures
        self._scratch = scratch
        self._logs = logs
        self._ready_seconds = ready_seconds

    def why_not(self, server: suite_pb2.OwnServer) -> str:
        """Why this command cannot start such a server; empty if it can."""
        whole = "\n".join(self._command)
        if MODELS not in whole:
            return f"needs a server of its own: the command has no {MODELS}"
        if server.HasField("config") and CONFIG not in whole:
            return f"needs a server of its own with a configuration: the command has no {CONFIG}"
        return ""

    def start_shared(self) -> ServerProcess:
        """The server with all fixtures and no configuration. Raises process.ServerError."""
        config = self._scratch / "config.json"
        config.write_text("{}\n", encoding="utf-8")
        return ServerProcess(self._filled(self._fixtures, config), self._logs / "server.log", self._ready_seconds)

    def start(self, case_id: str, server: suite_pb2.OwnServer) -> OwnProcess:
        """A case's own server. Raises process.ServerError, scratch.ScratchError."""
        directory = tempfile.TemporaryDirectory(prefix="own-", dir=self._scratch)
        try:
            root = Path(directory.name)
            repository = Scratch(root, self._fixtures, server.models)
            config = root / "config.json"
            text = json_format.MessageToJson(server.config, preserving_proto_field_name=True)
            config.write_text(text + "\n", encoding="utf-8")
            logs = self._logs / "servers"
            logs.mkdir(exist_ok=True)
            process = ServerProcess(self._filled(repository.path, config), logs / f"{case_id}.log", self._ready_seconds)
        except BaseException:
            directory.cleanup()
            raise
        return OwnProcess(process, repository, directory)

    def _filled(self, models: Path, config: Path) -> list[str]:
        return [part.replace(MODELS, str(models)).replace(CONFIG, str(config)) for part in self._command]
