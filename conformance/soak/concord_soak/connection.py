# SPDX-License-Identifier: Apache-2.0
"""Calls over gRPC as bytes, each with how it ended; every call is counted in a Tally."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from concord_soak.tally import Tally

__all__ = ["LONGEST_SECONDS", "Connection", "Outcome", "reason_of"]

# A call that takes longer hangs: on a machine however slow an answer comes before.
LONGEST_SECONDS = 90.0

_DETAILS = "grpc-status-details-bin"
_PUSHBACK = "grpc-retry-pushback-ms"


@dataclass(frozen=True)
class Outcome:
    """How a call ended. `reason` is empty where no details came: a library, or the client itself, made the status."""

    code: str
    began: float
    ended: float
    data: bytes = b""
    messages: list[bytes] = field(default_factory=list)
    reason: str = ""
    message: str = ""
    retry: bool = False
    pushback_ms: str = ""

    @property
    def seconds(self) -> float:
        """From the call to its end."""
        return self.ended - self.began

    def __str__(self) -> str:
        return f"{self.code} {self.reason or '(no details)'}: {self.message[:200]}" if self.code != "OK" else "OK"


def reason_of(status: status_pb2.Status) -> tuple[str, bool]:
    """The contract's reason in a status and whether it says that a retry helps; no reason is empty."""
    reason, retry = "", False
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
            reason = info.reason if info.domain == "concord" else f"of domain {info.domain!r}"
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = True
    return reason, retry


class Connection:
    """One connection of its own to `address`.

    `authority` is the PEM that signed the server's certificate, None for plaintext.
    """

    def __init__(self, address: str, authority: bytes | None, tally: Tally) -> None:
        options: list[tuple[str, Any]] = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            # A call that is quietly repeated would hide what the server did.
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if authority is None:
            self._channel = grpc.aio.insecure_channel(address, options)
        else:
            self._channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority), options)
        self._tally = tally
        self._unary: dict[str, Callable[..., Any]] = {}

    async def close(self, grace: float | None = None) -> None:
        """Ends the connection; calls on it are cancelled after `grace` seconds."""
        await self._channel.close(grace)

    async def ready(self, seconds: float = 30.0) -> None:
        """Returns once the connection stands. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            await self._channel.channel_ready()

    async def unary(
        self,
        path: str,
        data: bytes,
        *,
        deadline: float = LONGEST_SECONDS,
        cancel_after: float | None = None,
        passing: bool = False,
    ) -> Outcome:
        """One request, one answer; `deadline` and `cancel_after` are seconds from now.

        `passing` is said of a model whose versions come and go; see Tally.
        """
        stub = self._unary.get(path)
        if stub is None:
            made: Any = self._channel.unary_unary(path)
            stub = self._unary[path] = made
        began = time.perf_counter()
        call: Any = stub(data, timeout=deadline)
        timer = asyncio.get_running_loop().call_later(cancel_after, call.cancel) if cancel_after is not None else None
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            return self._failed(path, error, began, passing=passing)
        except asyncio.CancelledError:
            if not call.cancelled() or _task_cancelled():
                raise
            self._tally.ended(path, "CANCELLED", certain=False, passing=passing)
            return Outcome("CANCELLED", began, time.perf_counter())
        except grpc.aio.UsageError:  # the connection was closed first
            self._tally.ended(path, "CANCELLED", certain=False, passing=passing)
            return Outcome("CANCELLED", began, time.perf_counter(), message="the connection is closed")
        finally:
            if timer is not None:
                timer.cancel()
        self._tally.ended(path, "OK", certain=True, passing=passing)
        return Outcome("OK", began, time.perf_counter(), answer)

    async def stream(
        self,
        path: str,
        data: bytes,
        *,
        deadline: float = LONGEST_SECONDS,
        cancel_after: float | None = None,
        read_after: float = 0.0,
    ) -> Outcome:
        """One request, many answers; see `unary`. Nothing is read before `read_after` seconds."""
        began = time.perf_counter()
        method: Callable[..., Any] = self._channel.unary_stream(path)
        call = method(data, timeout=deadline)
        timer = asyncio.get_running_loop().call_later(cancel_after, call.cancel) if cancel_after is not None else None
        messages: list[bytes] = []
        try:
            end = time.perf_counter() + read_after
            while not call.done() and (left := end - time.perf_counter()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(min(left, 0.05))
            async for message in call:
                messages.append(message)
        except grpc.aio.AioRpcError as error:
            return self._failed(path, error, began, messages)
        except asyncio.CancelledError:
            if not call.cancelled() or _task_cancelled():
                raise
            self._tally.ended(path, "CANCELLED", certain=False)
            return Outcome("CANCELLED", began, time.perf_counter(), messages=messages)
        finally:
            if timer is not None:
                timer.cancel()
        self._tally.ended(path, "OK", certain=True)
        return Outcome("OK", began, time.perf_counter(), messages=messages)

    def _failed(
        self,
        path: str,
        error: grpc.aio.AioRpcError,
        began: float,
        messages: list[bytes] | None = None,
        *,
        passing: bool = False,
    ) -> Outcome:
        ended = time.perf_counter()
        reason, retry, pushback = "", False, ""
        for key, value in error.trailing_metadata():
            if key == _DETAILS:
                try:
                    reason, retry = reason_of(status_pb2.Status.FromString(value))
                except DecodeError:
                    reason = "details that are none"
            elif key == _PUSHBACK:
                pushback = str(value)
        code = error.code().name
        self._tally.ended(path, code, certain=reason != "", passing=passing)
        return Outcome(
            code, began, ended, b"", messages or [], reason, error.details() or "", retry=retry, pushback_ms=pushback
        )


def _task_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
