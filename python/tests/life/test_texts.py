# SPDX-License-Identifier: Apache-2.0
"""Texts that are generated while things happen: versions that are replaced, servers that stop, callers that leave."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from concord_proto.inference.v1 import inference_service_pb2, inference_service_pb2_grpc

FIXTURES = Path(__file__).resolve().parents[3] / "conformance/fixtures"
SLOW = "Z"
"""A prompt of token-lm, each token of which takes a while, and which has no end but max_tokens."""
CANCELS = 200
MOST_GROWTH = 48 << 20
"""Bytes that a server's memory may grow while callers leave: what allocators keep, not what was lost."""


def asking(text: str, tokens: int, model_id: str = "chat") -> inference_service_pb2.PredictRequest:
    request = inference_service_pb2.PredictRequest(model_id=model_id)
    request.features["prompt"].string_value = text
    request.features["raw"].bool_value = True
    request.config.max_tokens = tokens
    return request


@asynccontextmanager
async def stub_of(server: Any, kit: SimpleNamespace) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(server.target, options=kit.options(False)) as channel:
        yield inference_service_pb2_grpc.InferenceServiceStub(channel)


def bring(root: Path, version: str, name: str = "token-lm") -> None:
    """Puts a version into a repository, whole at once."""
    beside = root.parent / f"beside-{version}"
    shutil.copytree(FIXTURES / name / "1", beside)
    (root / "chat").mkdir(parents=True, exist_ok=True)
    beside.rename(root / "chat" / version)


async def until(kit: SimpleNamespace, what: str, holds: Callable[[], Any]) -> None:
    """Waits for a condition while streams go on."""
    await asyncio.to_thread(kit.until, what, holds)


async def rest(call: Any) -> None:
    """Reads a stream to its end."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_a_version_that_leaves_finishes_its_texts(
    kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]
) -> None:
    root = tmp_path / "models"
    bring(root, "1")
    server = start(root, "--repository-poll-ms", "20")
    async with stub_of(server, kit) as stub:
        running = stub.StreamPredict(asking(SLOW, 400), timeout=kit.LIMIT)
        assert (await running.read()).model_version == "1"
        bring(root, "2")
        await until(kit, "the new version", lambda: len(server.lines("model version ready")) == 2)
        shutil.rmtree(root / "chat/1")
        await until(kit, "the old version's end", lambda: server.lines("model version removed"))
        assert (await stub.Predict(asking("x", 1), timeout=kit.LIMIT)).model_version == "2"
        count = 1
        while not (message := await running.read()).is_final:
            assert (message.model_version, message.token) == ("1", "Z")
            count += 1
        assert count == message.usage.completion_tokens == 400
        gone = asking("x", 1)
        gone.model_version = "1"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Predict(gone, timeout=kit.LIMIT)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert server.end() == 0


async def test_a_drain_waits_for_texts(kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]) -> None:
    root = tmp_path / "models"
    bring(root, "1")
    server = start(root, "--drain-grace-ms", "60000", "--generation-slots", "2")
    async with stub_of(server, kit) as stub:
        # Two run, one waits for its slot: all of them were accepted.
        calls = [stub.StreamPredict(asking(SLOW, 150), timeout=kit.LIMIT) for _ in range(3)]
        for call in calls[:2]:
            await call.read()
        server.popen.terminate()
        for call in calls:
            while not (message := await call.read()).is_final:
                assert message.token == "Z"
            assert message.usage.completion_tokens == 150
    assert await asyncio.to_thread(server.popen.wait, kit.LIMIT) == 0


async def test_a_grace_that_is_over_ends_texts(kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]) -> None:
    root = tmp_path / "models"
    bring(root, "1")
    server = start(root, "--drain-grace-ms", "200")
    async with stub_of(server, kit) as stub:
        call = stub.StreamPredict(asking(SLOW, 90_000), timeout=kit.LIMIT)
        await call.read()
        server.popen.terminate()
        assert await asyncio.to_thread(server.popen.wait, kit.LIMIT) == 0
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rest(call)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def generations(server: Any, state: str) -> float:
    """The metric of the generations in a state."""
    with urllib.request.urlopen(f"http://{server.ready['http']}/metrics") as answer:
        text = answer.read().decode()
    found = [line for line in text.splitlines() if line.startswith("inference_generations{") and f'"{state}"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def resident(server: Any) -> int:
    """The server's memory, in bytes."""
    status = Path(f"/proc/{server.popen.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found
    return int(found[1]) << 10


async def test_200_callers_leave_at_random_moments(
    kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]
) -> None:
    root = tmp_path / "models"
    bring(root, "1", "tiny-chat")
    server = start(root, "--http", "127.0.0.1:0", "--generation-slots", "4", "--prefill-chunk-tokens", "16")
    chance = random.Random(20261121)
    async with stub_of(server, kit) as stub:
        whole = await stub.Predict(asking("Tell me a story.", 40), timeout=kit.LIMIT)

        async def leave(after: int, prompt: int) -> None:
            """Reads so many messages, -1 is not even the first, then leaves."""
            call = stub.StreamPredict(asking("Tell me a story. " * prompt, 150), timeout=kit.LIMIT)
            if after < 0:
                await asyncio.sleep(0)
            for _ in range(after):
                await call.read()
            call.cancel()

        async def leaving(count: int) -> None:
            for _ in range(0, count, 8):
                async with asyncio.TaskGroup() as group:
                    for _ in range(8):
                        group.create_task(leave(chance.randrange(-1, 30), chance.randrange(1, 8)))
                # Who stays is answered as ever.
                again = await stub.Predict(asking("Tell me a story.", 40), timeout=kit.LIMIT)
                assert (again.outputs, again.finish_reason) == (whole.outputs, whole.finish_reason)

        await leaving(48)
        before = resident(server)
        await leaving(CANCELS)
        for state in ("running", "waiting"):
            await until(kit, f"nothing {state}", lambda state=state: not generations(server, state))
        assert resident(server) - before < MOST_GROWTH
    assert server.end() == 0
