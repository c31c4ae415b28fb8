# SPDX-License-Identifier: Apache-2.0
"""When the repository is looked at: the rhythm without a clock, the follower with the operating system's word."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from concord_proto.inference.v1 import inference_service_pb2
from concord_server.repository import Follower, Repository
from concord_server.repository.rhythm import Rhythm
from concord_server.tensor import DType, Spec

PREDICT = "/inference.v1.InferenceService/Predict"


def test_rhythm() -> None:
    rhythm = Rhythm(60, 1000)

    def due() -> tuple[float, bool]:
        at, look = rhythm.next
        return round(at - 1000, 6), look

    assert due() == (60, True)
    rhythm.changed(1000.1)
    assert due() == (0.125, False)
    rhythm.changed(1000.12)  # what is due stays due
    assert due() == (0.125, False)
    rhythm.glanced(1000.126, 0.001)
    assert due() == (0.151, False)
    rhythm.changed(1000.14)
    assert due() == (0.151, False)
    rhythm.glanced(1000.152, 0.04)  # slow: it takes a tenth of the time
    assert due() == (0.552, False)
    rhythm.glanced(1000.56, 0)
    assert due() == (1.1, True)
    rhythm.looked(1001.101)
    assert due() == (2.101, True)
    rhythm.changed(1001.5)
    assert due() == (1.525, False)
    rhythm.glanced(1001.525, 0)
    rhythm.glanced(1001.55, 0)
    assert due() == (2.101, True)
    rhythm.looked(1002.101)
    assert due() == (3.101, True)
    rhythm.looked(1003.101)
    assert due() == (63.101, True)

    rhythm = Rhythm(0.005, 1000)
    rhythm.changed(1000)
    assert due() == (0.005, True)  # a short period needs no glances
    rhythm.looked(1000.005)
    assert due() == (0.01, True)


def opened(kit: SimpleNamespace, root: Path) -> Repository:
    spec = Spec("x", DType.FLOAT, (-1, 1))

    def load(_graph: bytes, _files: Any) -> Any:
        return kit.FakeSession([spec], [Spec("y", DType.FLOAT, (-1, 1))], lambda given: [given[0]])

    repository = Repository(root, load)
    repository.list()
    repository.load()
    return repository


def states(repository: Repository) -> dict[str, str]:
    return {
        f"{entry.model_id}/{version.number}": version.state.name
        for entry in repository.entries
        for version in entry.versions
    }


async def until(kit: SimpleNamespace, what: str, holds: Callable[[], bool]) -> None:
    end = time.monotonic() + kit.LIMIT
    while not holds():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.002)  # a look at a condition, not a wait for time


def place(root: Path, kit: SimpleNamespace, number: str) -> None:
    """Writes a version beside, and renames it in."""
    kit.write_identity(root / ".beside", "m", number)
    (root / "m").mkdir(exist_ok=True)
    (root / ".beside/m" / number).rename(root / "m" / number)


async def test_it_is_woken(kit: SimpleNamespace, tmp_path: Path) -> None:
    """The period is one in which the test would end."""
    repository = opened(kit, tmp_path)
    following = asyncio.ensure_future(Follower(repository, 3600).run())
    try:
        for number in ("1", "2"):
            place(tmp_path, kit, number)
            await until(kit, "it is tried", lambda n=number: states(repository).get(f"m/{n}") in ("READY", "FAILED"))
        (tmp_path / "m/labels.json").write_text('{"stable": "2"}')
        await until(kit, "the label", lambda: repository.entry("m").labels == {"stable": "2"})
        # Complete or not: who knows, so a look finds it.
        kit.write_version(tmp_path / "bare/1", {"model.onnx": b"one"}, None)
        await until(kit, "the bare model", lambda: states(repository).get("bare/1") == "READY")
        shutil.rmtree(tmp_path / "m")
        await until(kit, "it is gone", lambda: "m" not in {entry.model_id for entry in repository.entries})
    finally:
        following.cancel()


async def test_a_period_of_zero_never_looks(kit: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    still, quick = opened(kit, tmp_path / "one"), opened(kit, tmp_path / "other")
    follower = Follower(still, 0)
    following = [asyncio.ensure_future(one.run()) for one in (follower, Follower(quick, 0.001))]
    try:
        for root in ("one", "other"):
            kit.write_version(tmp_path / root / "bare/1", {"model.onnx": b"one"}, None)
        await until(kit, "the other", lambda: states(quick) == {"bare/1": "READY"})
        assert states(still) == {}
        follower.set_period(3600)
        await until(kit, "this one as well", lambda: states(still) == {"bare/1": "READY"})
    finally:
        for task in following:
            task.cancel()


def test_glances_leave_what_is_being_written(kit: SimpleNamespace, tmp_path: Path) -> None:
    repository = opened(kit, tmp_path)
    kit.write_identity(tmp_path)
    graph = tmp_path / "m/1/model.onnx"
    data = graph.read_bytes()
    graph.write_bytes(data[:-1])
    for _ in range(5):
        assert not repository.glance()
    assert states(repository) == {"m/1": "LOADING"}
    graph.write_bytes(data)
    assert not repository.glance()
    (load,) = repository.glance()
    load.result(kit.LIMIT)
    assert states(repository)["m/1"] in ("READY", "FAILED")


def test_where_nothing_can_be_watched_it_is_polled(
    kit: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inotify = pytest.importorskip("inotify_simple")

    def no_more(_self: Any, _path: Any, _mask: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inotify.INotify, "add_watch", no_more)
    repository = opened(kit, tmp_path)

    async def follow() -> None:
        following = asyncio.ensure_future(Follower(repository, 0.001).run())
        kit.write_version(tmp_path / "bare/1", {"model.onnx": b"one"}, None)
        await until(kit, "it is ready", lambda: states(repository) == {"bare/1": "READY"})
        following.cancel()

    asyncio.run(follow())
    told = [record for record in caplog.records if "only polled" in record.message]
    assert len(told) == 1
    assert told[0].fields["cause"] == "no space left on device"  # type: ignore[attr-defined]


def test_a_version_renamed_in_is_served_soon(kit: SimpleNamespace, tmp_path: Path, spawn: Callable[..., Any]) -> None:
    models = tmp_path / "models"
    kit.write_identity(models)
    server = spawn(models, "--repository-poll-ms", "60000", "--http", "off")

    def answering(version: str, want: str) -> None:
        end = time.monotonic() + kit.LIMIT
        while time.monotonic() < end:
            request = kit.request(version=version, a=1.0, b=1.0)
            try:
                data = channel.unary_unary(PREDICT)(request.SerializeToString(), timeout=kit.LIMIT)
            except grpc.RpcError:
                continue
            if inference_service_pb2.PredictResponse.FromString(data).model_version == want:
                return
        raise AssertionError(f"version {version!r} is not {want} in time")

    with grpc.insecure_channel(server.target) as channel:
        answering("", "1")
        for number in ("2", "3"):
            place(models, kit, number)
            answering("", number)
            (models / "m/labels.json.new").write_text(json.dumps({"stable": number}))
            (models / "m/labels.json.new").rename(models / "m/labels.json")
            answering("stable", number)
    assert server.end() == 0
