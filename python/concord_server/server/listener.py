# SPDX-License-Identifier: Apache-2.0
"""One gRPC listener: the transport's settings, health, reflection, and an answer for whatever is not served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from concord_server.config import Certificates
from concord_server.server.connections import close_listeners, hang_up
from concord_server.server.guard import Guard, Received
from concord_server.server.health import Health
from concord_server.server.underway import UnderWay, ports

__all__ = ["Listener", "Transport"]

_HEALTH = "grpc.health.v1.Health"

_MAX_MESSAGE_BYTES = (1 << 31) - 1
_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients may ping every 10 s; a ping that comes a little early is no abuse.
    ("grpc.http2.min_ping_interval_without_data_ms", 9_000),
    # Messages arrive as they were sent, and the guard unpacks them: only so it knows that they were compressed.
    ("grpc.per_message_decompression", 0),
    # Identity and gzip; a level, not an algorithm, so that a client which takes no gzip gets none.
    ("grpc.compression_enabled_algorithms_bitset", 0b101),
    ("grpc.default_compression_level", 2),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),  # the guard is stricter
)

_LOOK_SECONDS = 0.005  # between two looks at what is under way
_HANG_UP_SECONDS = 1.0  # that clients have to close their side

if TYPE_CHECKING:
    Handler = grpc.RpcMethodHandler[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Transport:
    """Limits of a connection."""

    max_concurrent_streams: int = 1024
    max_header_bytes: int = 64 << 10
    max_connection_age_seconds: float = 0
    """When a connection is told to go; 0: never."""
    connection_grace_seconds: float = 30
    """How long what runs on it may then take."""

    def options(self) -> list[tuple[str, int]]:
        """As gRPC takes them."""
        options = [
            ("grpc.max_concurrent_streams", self.max_concurrent_streams),
            ("grpc.max_metadata_size", self.max_header_bytes),
            ("grpc.absolute_max_metadata_size", self.max_header_bytes),
        ]
        if self.max_connection_age_seconds:  # gRPC spreads it by a tenth itself
            options.append(("grpc.max_connection_age_ms", round(self.max_connection_age_seconds * 1000)))
            options.append(("grpc.max_connection_age_grace_ms", round(self.connection_grace_seconds * 1000)))
        return options


class Listener(grpc.GenericRpcHandler):
    """Serves methods on one address, and grpc.health.v1 with them."""

    def __init__(
        self,
        guard: Guard,
        health: Health,
        services: Sequence[str],
        methods: Mapping[str, Handler],
        *,
        reflection: bool,
        share_port: bool = False,
        transport: Transport | None = None,
    ) -> None:
        """`methods` by "/package.Service/Method"; `services` are theirs, for reflection.

        `share_port` lets other processes listen on the same port, which get their share of the connections.
        """
        self._unserved = guard.unserved
        self._methods = {**methods, **_health_methods(guard, health)}
        if reflection:
            # Imported here: it takes as long to import as half of the rest.
            from concord_server.server.reflection import handlers

            self._methods.update(handlers(guard, (*services, _HEALTH), health.ended))
        self._under_way = UnderWay()
        self._methods = {name: self._under_way.noting(handler) for name, handler in self._methods.items()}
        self._port = 0
        # A port that is taken is an error, not a second server on the same port, unless that is meant.
        shared = ("grpc.so_reuseport", int(share_port))
        options = (
            *_OPTIONS,
            *(transport or Transport()).options(),
            shared,
            ("grpc.max_receive_message_length", guard.library_limit),
        )
        self._grpc = grpc.aio.server(options=options)
        self._grpc.add_generic_rpc_handlers([self])

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """The handler of a method; also of those that are not served."""
        method = handler_call_details.method
        name = method.decode("utf-8", "replace") if isinstance(method, bytes) else str(method)
        return self._methods.get(name) or self._unserved(name)

    async def start(self, address: str, certificates: Certificates | None = None) -> int:
        """Listens, and gives the port. Raises RuntimeError where the address cannot be listened on."""
        if certificates is None:
            port = self._grpc.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials(
                [(certificates.key, certificates.chain)],
                root_certificates=certificates.client_authorities,
                require_client_auth=certificates.client_authorities is not None,
            )
            port = self._grpc.add_secure_port(address, credentials)
        await self._grpc.start()
        self._port = port
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Takes no more connections, hangs up where nothing runs, and ends what is under way after the grace.

        What is received from now on may not be answered.
        """
        end = time.monotonic() + grace_seconds
        accepted = self._under_way.now()
        if self._port:
            close_listeners(self._port)
        while self._port and time.monotonic() < end:
            running = accepted & self._under_way.now()
            # A client that does not close its side has a moment to do so.
            if not hang_up(self._port, ports(running)):
                break
            if not running:
                end = min(end, time.monotonic() + _HANG_UP_SECONDS)
                accepted = frozenset()
            await asyncio.sleep(_LOOK_SECONDS)
        await self._grpc.stop(max(0.0, end - time.monotonic()) if accepted & self._under_way.now() else 0)


def _health_methods(guard: Guard, health: Health) -> Mapping[str, Handler]:
    async def check(received: Received[health_pb2.HealthCheckRequest]) -> health_pb2.HealthCheckResponse:
        return health.check(received.message.service)

    async def watch(received: Received[health_pb2.HealthCheckRequest]) -> AsyncIterator[Message]:
        async for status in health.watch(received.message.service):
            yield status

    request = health_pb2.HealthCheckRequest
    check_name, watch_name = f"/{_HEALTH}/Check", f"/{_HEALTH}/Watch"
    return {
        check_name: guard.unary(check_name, request, check),
        watch_name: guard.server_streaming(watch_name, request, watch),
    }
