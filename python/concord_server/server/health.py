# SPDX-License-Identifier: Apache-2.0
"""The health of the server, its services and its models, and the grpc.health.v1 service.

Unlike grpcio's own, it has several watchers of one name, and its watches end when the server shuts down, so that they
do not hold up the drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from grpc_health.v1.health_pb2 import HealthCheckResponse

from concord_server.fault import Fault, Reason, quote

__all__ = ["Health"]

_SERVING = HealthCheckResponse.SERVING
_NOT_SERVING = HealthCheckResponse.NOT_SERVING


class Health:
    """Statuses by name, all of one event loop. Nothing is serving at first."""

    def __init__(self, services: Iterable[str]) -> None:
        """`services` are the names that stand for the server and for what it serves."""
        self._services = tuple(services)
        self._statuses = dict.fromkeys(self._services, _NOT_SERVING)
        self._changed = asyncio.Event()
        self._stopped = False
        self.ended = asyncio.Event()
        """Set when streams that never end by themselves are to end."""

    @property
    def serving(self) -> bool:
        """Whether the server as a whole answers."""
        return bool(self._statuses[""] == _SERVING)

    def set_model(self, model_id: str, ready: bool | None) -> None:
        """Says whether a version of a model is ready; None is that there is no such model any more."""
        name = f"models/{model_id}"
        if ready is not None:
            self._set({name: _SERVING if ready else _NOT_SERVING})
        elif not self._stopped and self._statuses.pop(name, None) is not None:
            self._wake()

    def set_serving(self, serving: bool = True) -> None:
        """Says that the server and its services answer, or that they do not for now."""
        self._set(dict.fromkeys(self._services, _SERVING if serving else _NOT_SERVING))

    def stop(self) -> None:
        """Says for good that nothing is serving."""
        self._set(dict.fromkeys(self._statuses, _NOT_SERVING))
        self._stopped = True

    def end(self) -> None:
        """Ends the watches, after stop."""
        self.ended.set()
        self._wake()

    def _set(self, statuses: dict[str, int]) -> None:
        if not self._stopped:
            self._statuses.update(statuses)
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def check(self, service: str) -> HealthCheckResponse:
        """The status of a name. Raises Fault where there is none of this name."""
        status = self._statuses.get(service)
        if status is None:
            raise Fault(Reason.SERVICE_NOT_FOUND, f"no service or model {quote(service)} here")
        return HealthCheckResponse(status=status)

    async def watch(self, service: str) -> AsyncIterator[HealthCheckResponse]:
        """The status at once, then each change. Raises Fault when the server shuts down."""
        last = None
        while True:
            changed = self._changed
            status = self._statuses.get(service, HealthCheckResponse.SERVICE_UNKNOWN)
            if status != last:
                last = status
                yield HealthCheckResponse(status=status)
                continue  # it may have changed while it was sent
            if self.ended.is_set():
                raise Fault(Reason.SERVER_DRAINING, "the server is shutting down")
            await changed.wait()
