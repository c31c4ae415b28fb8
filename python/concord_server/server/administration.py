# SPDX-License-Identifier: Apache-2.0
"""inference.v1.ModelAdminService, on a listener of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from concord_proto.inference.v1 import model_admin_service_pb2
from google.protobuf.message import Message

from concord_server import fault
from concord_server.batch import Executor
from concord_server.fault import Reason, quote
from concord_server.model import Call, check_id, is_label, is_version
from concord_server.repository import Editor
from concord_server.server.guard import Guard, Received
from concord_server.server.health import Health
from concord_server.server.listener import Listener, Transport
from concord_server.telemetry import Calls

__all__ = ["ADMIN_SERVICE", "AdminServer"]

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)

ADMIN_SERVICE = "inference.v1.ModelAdminService"
"""The name that health knows where there is an admin listener."""

_THREADS = 4  # one that waits for a lock, or copies a large package, holds up no other


class AdminServer(Listener):
    """Edits a repository on disk, on its callers' behalf."""

    def __init__(
        self,
        editor: Editor,
        health: Health,
        *,
        max_message_bytes: int,
        reflection: bool,
        calls: Calls | None = None,
        transport: Transport | None = None,
    ) -> None:
        """`calls` hears of each call."""
        self._editor = editor
        self._health = health
        self._executor = Executor(_THREADS)
        guard = Guard(max_message_bytes, calls)
        unary: list[tuple[str, type[Message], Any]] = [
            ("LoadModel", model_admin_service_pb2.LoadModelRequest, self._in_thread(self._load_model)),
            ("UnloadModel", model_admin_service_pb2.UnloadModelRequest, self._in_thread(self._unload_model)),
            ("SetLabel", model_admin_service_pb2.SetLabelRequest, self._in_thread(self._set_label)),
        ]
        methods = {}
        for method, request_type, behavior in unary:
            name = f"/{ADMIN_SERVICE}/{method}"
            methods[name] = guard.unary(name, request_type, behavior)
        super().__init__(guard, health, (ADMIN_SERVICE,), methods, reflection=reflection, transport=transport)

    async def drain(self, delay_seconds: float, grace_seconds: float) -> None:
        """Takes no more calls after the delay, and ends those that are under way after the grace."""
        await asyncio.sleep(delay_seconds)
        self._health.end()
        await self.stop(grace_seconds)
        self._executor.close()

    @property
    def busy(self) -> bool:
        """Whether an edit is under way."""
        return self._executor.busy

    def _in_thread(self, work: Callable[[Q, Call], R]) -> Callable[[Received[Q]], Any]:
        async def behavior(received: Received[Q]) -> R:
            call, message = received.call, received.message
            return await self._executor.run(call, lambda _waited: work(message, call))

        return behavior

    def _load_model(
        self, request: model_admin_service_pb2.LoadModelRequest, call: Call
    ) -> model_admin_service_pb2.LoadModelResponse:
        _check(request.model_id, request.model_version)
        self._editor.load(request.model_id, request.model_version, call)
        return model_admin_service_pb2.LoadModelResponse()

    def _unload_model(
        self, request: model_admin_service_pb2.UnloadModelRequest, call: Call
    ) -> model_admin_service_pb2.UnloadModelResponse:
        _check(request.model_id, request.model_version)
        self._editor.unload(request.model_id, request.model_version, call)
        return model_admin_service_pb2.UnloadModelResponse()

    def _set_label(
        self, request: model_admin_service_pb2.SetLabelRequest, call: Call
    ) -> model_admin_service_pb2.SetLabelResponse:
        check_id(request.model_id)
        if not is_label(request.label):
            text = f"expected [a-z][a-z0-9-]{{0,62}}, got {_got(request.label)}"
            raise fault.invalid(Reason.LABEL_INVALID, "label", text).at(request.model_id)
        if request.model_version:
            _check_version(request.model_id, request.model_version)
        labels = self._editor.set_label(request.model_id, request.label, request.model_version, call)
        return model_admin_service_pb2.SetLabelResponse(labels=labels)


def _check(model_id: str, version: str) -> None:
    check_id(model_id)
    _check_version(model_id, version)


def _check_version(model_id: str, version: str) -> None:
    if not is_version(version):
        text = f"expected a positive integer without leading zeros, got {_got(version)}"
        raise fault.invalid(Reason.MODEL_VERSION_INVALID, "model_version", text).at(model_id)


def _got(text: str) -> str:
    return quote(text) if text else "nothing"
