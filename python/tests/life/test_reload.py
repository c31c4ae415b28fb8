# SPDX-License-Identifier: Apache-2.0
"""Versions come, change and go under load: no request fails, and each answer is one version's.

CONCORD_RELOADS is the number of reloads, CONCORD_RELOAD_RATE the requests a second that are asked meanwhile.
With -s it prints a line of what it did.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

RELOADS = int(os.environ.get("CONCORD_RELOADS", "20"))
RATE = float(os.environ.get("CONCORD_RELOAD_RATE", "500"))
CHANNELS = 4


class Load:
    """Asks at a rate, on several connections, until it is stopped."""

    def __init__(self, kit: SimpleNamespace, target: str, rate: float, version: str = "") -> None:
        self.kit = kit
        self.answers: list[Any] = []
        self.latest = 0.0
        """The mark of the newest answer."""
        self.begin = time.monotonic()
        self._rate = rate
        self._version = version
        self._stopped = False
        self._channels = [grpc.aio.insecure_channel(target, options=kit.options(False)) for _ in range(CHANNELS)]
        self._asking: set[asyncio.Task[None]] = set()
        self._running = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        count = 0
        while not self._stopped:
            due = int((time.monotonic() - self.begin) * self._rate)
            while count < due and len(self._asking) < 256:  # no more at once: the machine gives what it gives
                count += 1
                task = asyncio.ensure_future(self._ask(self._channels[count % CHANNELS], count % 1000))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
            if count < due:
                self.begin += (due - count) / self._rate
            await asyncio.sleep(1 / 200)

    async def _ask(self, channel: grpc.aio.Channel, x: float) -> None:
        answer = await self.kit.ask(channel, x, version=self._version)
        self.answers.append(answer)
        self.latest = answer.mark

    async def until(self, mark: float) -> None:
        """Until an answer bears the mark."""
        end = time.monotonic() + self.kit.LIMIT
        while self.latest != mark:
            assert time.monotonic() < end, f"{mark} does not answer, {self.latest} does"
            assert not self._running.done(), self._running.result()
            await asyncio.sleep(0.002)

    async def stop(self) -> float:
        """Ends it, and gives the rate that was reached."""
        self._stopped = True
        await self._running
        await asyncio.gather(*self._asking)
        rate = len(self.answers) / (time.monotonic() - self.begin)
        for channel in self._channels:
            await channel.close()
        return rate

    def check(self) -> None:
        failed = [one for one in self.answers if one.code is not grpc.StatusCode.OK]
        torn = [one for one in self.answers if one.code is grpc.StatusCode.OK and not one.whole]
        assert (failed[:3], len(failed), torn[:3], len(torn)) == ([], 0, [], 0)


@pytest.mark.parametrize("how", ["versions", "contents"])
@pytest.mark.timeout(900)
async def test_no_reload_fails_a_request(
    kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any], how: str
) -> None:
    """`versions`: a new version is renamed in and the one before removed. `contents`: one version's files change."""
    models, beside = tmp_path / "models", tmp_path / "models/.beside"
    kit.write(models / "m/1", 1)
    server = start(models, "--repository-poll-ms", "20")
    load = Load(kit, server.target, RATE)
    await load.until(1)
    begin = time.monotonic()
    for reload in range(2, RELOADS + 2):
        kit.write(beside, reload)
        place = models / "m" / (str(reload) if how == "versions" else "1")
        if how == "contents":
            place.rename(models / ".before")
        beside.rename(place)
        await load.until(reload)
        await asyncio.to_thread(shutil.rmtree, models / (".before" if how == "contents" else f"m/{reload - 1}"))
    took = time.monotonic() - begin
    rate = await load.stop()
    print(f"\n{how}: {RELOADS} reloads in {took:.1f} s, {len(load.answers)} requests, {rate:.0f} a second, 0 failed")
    load.check()
    assert server.end() == 0


@pytest.mark.timeout(300)
async def test_a_repository_that_is_swapped_by_a_link_fails_no_request(
    kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]
) -> None:
    """As git-sync deploys: each state is a directory of its own, and the link that is given as --models moves on."""
    models, beside = tmp_path / "models", tmp_path / "beside"

    def deploy(state: int) -> None:
        # The version's number changes each second time, its content always; the label names the one that there is.
        number = state // 2 + 1
        kit.write(tmp_path / f"state-{state}/m/{number}", state)
        (tmp_path / f"state-{state}/m/labels.json").write_text(f'{{"stable": "{number}"}}')
        beside.symlink_to(f"state-{state}")
        beside.rename(models)

    deploy(1)
    server = start(models, "--repository-poll-ms", "20")
    loads = [Load(kit, server.target, RATE / 2), Load(kit, server.target, RATE / 2, version="stable")]
    for state in range(1, 7):
        if state > 1:
            deploy(state)
        for load in loads:
            await load.until(state)
        if state > 1:
            await asyncio.to_thread(shutil.rmtree, tmp_path / f"state-{state - 1}")
    for load in loads:
        await load.stop()
        load.check()
    assert server.end() == 0


@pytest.mark.timeout(300)
async def test_what_is_bad_never_answers(kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]) -> None:
    """Versions that fail their own proof, and versions that are half written, while the old one is asked."""
    models = tmp_path / "models"
    kit.write(models / "m/1", 1)
    server = start(models, "--repository-poll-ms", "200")
    load = Load(kit, server.target, 200)
    await load.until(1)
    beside = models / ".beside"

    kit.write(beside, 2, golden=99)  # a new version that fails its golden case
    beside.rename(models / "m/2")
    await asyncio.to_thread(kit.until, "the log", lambda: server.lines("model version failed"))

    kit.write(beside, 3)  # the same number, with files that are not the manifest's
    (beside / "model.onnx").write_bytes(kit.graph(4))
    (models / "m/1").rename(models / ".before")
    beside.rename(models / "m/1")
    failed = ("model version failed", "model version failed to change, the old one goes on")
    await asyncio.to_thread(kit.until, "the log", lambda: sum(len(server.lines(message)) for message in failed) >= 2)

    kit.write(tmp_path / "whole", 5)  # a copy that takes its time, the manifest first
    (models / "m/3").mkdir()
    for name in ("manifest.json", "golden.binpb", "model.onnx"):
        data = (tmp_path / "whole" / name).read_bytes()
        with (models / "m/3" / name).open("wb") as file:
            for at in range(0, len(data), max(1, len(data) // 8)):
                file.write(data[at : at + max(1, len(data) // 8)])
                file.flush()
                await asyncio.sleep(0.03)
    await load.until(5)
    await load.stop()
    load.check()
    assert {one.mark for one in load.answers} == {1, 5}
    mentioned = [line for message in failed for line in server.lines(message) if line["model_version"] == "3"]
    assert mentioned == [], "a half-written version was tried"
    assert server.end() == 0
