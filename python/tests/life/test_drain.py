# SPDX-License-Identifier: Apache-2.0
"""SIGTERM under a steady stream of requests: what was accepted is answered, nothing is lost.

CONCORD_DRAIN_RUNS is the number of runs of each test, 5 where it is not set.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

RUNS = int(os.environ.get("CONCORD_DRAIN_RUNS", "5"))
CHANNELS = 8
CALLERS = 4  # on each channel
WATCH = "/grpc.health.v1.Health/Watch"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
REFUSAL = "the server is shutting down"
ENOUGH = 300  # answers, before the signal


class Stream:
    """Callers that ask all the time, on channels of their own, until they are stopped."""

    def __init__(self, kit: SimpleNamespace, target: str, *, retry: bool) -> None:
        self.kit = kit
        self.answers: dict[str, Any] = {}
        self._stopped = False
        options = kit.options(retry, ("grpc.initial_reconnect_backoff_ms", 100))
        self.channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(CHANNELS)]
        self._callers = [
            asyncio.ensure_future(self._call(channel, f"{i}.{j}"))
            for i, channel in enumerate(self.channels)
            for j in range(CALLERS)
        ]

    async def _call(self, channel: grpc.aio.Channel, name: str) -> None:
        count = 0
        while not self._stopped:
            count += 1
            request_id = f"{name}.{count}"
            self.answers[request_id] = await self.kit.ask(channel, count % 1000, request_id=request_id, seconds=30)

    async def enough(self, count: int = ENOUGH) -> None:
        """Until so many more are answered."""
        count += len(self.answers)
        end = time.monotonic() + self.kit.LIMIT
        while len(self.answers) < count:
            assert time.monotonic() < end, self.counts
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Ends the callers once their calls have ended."""
        self._stopped = True
        await asyncio.gather(*self._callers)
        for channel in self.channels:
            await channel.close()

    @property
    def counts(self) -> Counter[str]:
        """How often each came of it."""
        return Counter(f"{one.code.name} {one.details}".strip() for one in self.answers.values())


@pytest.mark.parametrize("run", range(RUNS))
async def test_what_was_accepted_is_answered(
    kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any], run: int
) -> None:
    """Without retries, each request is answered or was never accepted, which the server's log of requests tells."""
    kit.write(tmp_path / "models/m/1", 1)
    server = start(tmp_path / "models", "--request-log-ppm", "1000000", "--drain-grace-ms", "20000")
    stream = Stream(kit, server.target, retry=False)
    watch = stream.channels[0].unary_stream(WATCH)(health_pb2.HealthCheckRequest().SerializeToString())
    await watch.read()

    async def questions() -> AsyncIterator[bytes]:
        yield reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
        await asyncio.Event().wait()

    reflect = stream.channels[1].stream_stream(REFLECT)(questions())
    await reflect.read()
    await stream.enough()
    begin = time.monotonic()
    server.popen.terminate()
    await asyncio.to_thread(server.popen.wait, kit.LIMIT)
    took = time.monotonic() - begin
    await stream.stop()
    reflect.cancel()
    watch.cancel()

    assert server.popen.returncode == 0
    assert took < 10, "an open stream held up the drain"
    accepted = {line["request_id"] for line in server.lines("request") if line["code"] == "OK"}
    answered = {name for name, one in stream.answers.items() if one.code is grpc.StatusCode.OK}
    assert len(answered) >= ENOUGH
    assert all(one.whole for one in stream.answers.values() if one.code is grpc.StatusCode.OK)
    assert accepted - answered == set()
    assert {one.code.name for one in stream.answers.values()} <= {"OK", "UNAVAILABLE"}, stream.counts


@pytest.mark.parametrize("run", range(RUNS))
async def test_clients_with_another_server_see_no_failure(
    kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any], run: int
) -> None:
    kit.write(tmp_path / "models/m/1", 1)
    servers = [start(tmp_path / "models") for _ in range(2)]
    addresses = ",".join(server.target for server in servers)
    stream = Stream(kit, f"ipv4:{addresses}", retry=True)
    await stream.enough()
    servers[0].popen.terminate()
    assert await asyncio.to_thread(servers[0].popen.wait, kit.LIMIT) == 0
    await stream.enough()
    await stream.stop()
    assert servers[1].end() == 0
    assert set(stream.counts) == {"OK"}, stream.counts
    assert all(one.whole for one in stream.answers.values())
