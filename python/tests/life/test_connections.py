# SPDX-License-Identifier: Apache-2.0
"""Connections are told to go when they are old: no request fails, and new servers get their share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

AGES = int(os.environ.get("CONCORD_AGES", "4"))
AGE_MS = 500


async def test_a_client_outlives_its_connections(
    kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]
) -> None:
    """One channel with calls all the time: it comes back by itself, from another port each time.

    It has the usual retry policy: a call that crosses a GOAWAY may end as UNAVAILABLE before a server has it.
    """
    kit.write(tmp_path / "models/m/1", 1)
    server = start(tmp_path / "models", "--max-connection-age-ms", str(AGE_MS), "--request-log-ppm", "1000000")
    answers = []

    async def call(name: str) -> None:
        for count in range(1, 1 << 30):
            if len(peers()) > AGES:
                return
            answers.append(await kit.ask(channel, count % 1000, request_id=f"{name}.{count}"))
            await asyncio.sleep(0.005)

    seen: set[str] = set()
    looked = [0.0]

    def peers() -> set[str]:
        if time.monotonic() - looked[0] > 0.2:  # the log grows
            looked[0] = time.monotonic()
            seen.update(line["peer"] for line in server.lines("request"))
        return seen

    async with grpc.aio.insecure_channel(server.target, options=kit.options(True)) as channel:
        async with asyncio.timeout(kit.LIMIT):
            await asyncio.gather(*(call(str(name)) for name in range(8)))
    assert server.end() == 0
    codes = {(one.code.name, one.details) for one in answers}
    assert codes == {("OK", "")}
    assert all(one.whole for one in answers)


async def test_connections_may_be_more_than_the_soft_limit(
    kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]
) -> None:
    """Of open files; it is 1024 nearly everywhere, and servers may raise it."""
    kit.write(tmp_path / "models/m/1", 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1024:
        pytest.skip(f"the hard limit of open files is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        server = start(tmp_path / "models")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1024), hard))
    host, port = server.target.rsplit(":", 1)
    with contextlib.ExitStack() as idle:
        for _ in range(400):
            idle.enter_context(socket.create_connection((host, int(port)), timeout=kit.LIMIT))
        async with grpc.aio.insecure_channel(server.target, options=kit.options(True)) as channel:
            answer = await kit.ask(channel, 1)
    assert answer.whole, answer
    assert server.end() == 0


async def test_new_servers_get_their_share(kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]) -> None:
    """A client of two addresses is bound to the one that was there; the other comes, and gets calls by and by."""
    for number in (1, 2):
        kit.write(tmp_path / f"models{number}/m/1", number)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        later = free.getsockname()[1]
    first = start(tmp_path / "models1", "--max-connection-age-ms", str(AGE_MS))
    target = f"ipv4:127.0.0.1:{later},{first.target}"  # pick_first prefers the one that comes later
    marks: list[float] = []
    codes = set()
    async with grpc.aio.insecure_channel(target, options=kit.options(True)) as channel:
        async with asyncio.timeout(kit.LIMIT):
            while not marks:
                marks.append((await kit.ask(channel, 1)).mark)
            assert marks == [1]
            second = await asyncio.to_thread(start, tmp_path / "models2", listen=f"127.0.0.1:{later}")
            while marks[-1] != 2:
                one = await kit.ask(channel, 1)
                marks.append(one.mark)
                codes.add(one.code)
    assert codes == {grpc.StatusCode.OK}
    assert (first.end(), second.end()) == (0, 0)


async def test_a_call_may_outlast_its_connection(
    kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]
) -> None:
    """A watch that is open when its connection is told to go has the grace, and no more."""
    (tmp_path / "models").mkdir()
    flags = ("--max-connection-age-ms", "200", "--drain-grace-ms", "400")
    server = start(tmp_path / "models", *flags)
    async with grpc.aio.insecure_channel(server.target, options=kit.options(False)) as channel:
        begin = time.monotonic()
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=kit.LIMIT)
        assert await watch.read() == b"\x08\x01"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert time.monotonic() - begin > 0.4
    assert server.end() == 0


@pytest.mark.parametrize(("size", "code"), [(2000, "OK"), (30000, "RESOURCE_EXHAUSTED")])
async def test_headers_are_limited(
    kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any], size: int, code: str
) -> None:
    kit.write(tmp_path / "models/m/1", 1)
    server = start(tmp_path / "models", "--max-header-bytes", "8192")
    async with grpc.aio.insecure_channel(server.target, options=kit.options(False)) as channel:
        call = channel.unary_unary(kit.PREDICT)(kit.request(1), metadata=(("x-large", "a" * size),), timeout=kit.LIMIT)
        got = await call.code()
        # Whoever sends too much is told so, or loses the connection; the next that comes is answered.
        assert (got is grpc.StatusCode.OK) == (code == "OK"), got
    async with grpc.aio.insecure_channel(server.target, options=kit.options(True)) as channel:
        assert (await kit.ask(channel, 1)).whole
    assert server.end() == 0
