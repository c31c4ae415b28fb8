# SPDX-License-Identifier: Apache-2.0
"""The repository follows the disk, look by look. No test waits for time: a look is a call."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_proto.inference.v1 import model_catalog_service_pb2, model_pb2
from concord_server import ort
from concord_server.batch import Engine
from concord_server.fault import Fault, Reason
from concord_server.model import Call, Model, Session
from concord_server.repository import Entry, Repository, State, scan
from concord_server.repository.disk import RefusedError
from concord_server.server.catalog import Catalog
from concord_server.tensor import DType, Spec, Tensor


class Followed:
    """A repository whose graphs are texts: a session gives the number of its graph, "bad" is refused."""

    def __init__(self, kit: SimpleNamespace, root: Path) -> None:
        self.kit = kit
        self.root = root
        self.changes: list[tuple[str, bool | None]] = []
        self.loads: list[bytes] = []
        self.gate: threading.Event | None = None
        self.repository = Repository(root, self._load, changed=lambda *change: self.changes.append(change))

    def start(self) -> Followed:
        self.repository.list()
        self.repository.load()
        return self

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            done, late = wait(self.repository.look(), self.kit.LIMIT)
            assert not late
            assert [future.result() for future in done] == [None] * len(done)

    def write(self, number: str, graph: bytes, model_id: str = "m") -> Path:
        directory = self.root / model_id / number
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "model.onnx").write_bytes(graph)
        return directory

    def states(self, model_id: str = "m") -> dict[str, str]:
        return {version.number: version.state.name for version in self.repository.entry(model_id).versions}

    def answer(self, version: str = "", model_id: str = "m") -> float | Reason:
        try:
            return value(self.repository.resolve(model_id, version))
        except Fault as fault:
            return fault.reason

    def _load(self, graph: bytes, _files: Mapping[str, bytes]) -> Session:
        self.loads.append(graph)
        if self.gate is not None:
            assert self.gate.wait(self.kit.LIMIT)
        number = float(graph)
        spec = Spec("x", DType.FLOAT, (-1, 1))

        def work(given: Any) -> list[Tensor]:
            return [Tensor(DType.FLOAT, np.full_like(given[0].array, number))]

        session: Session = self.kit.FakeSession([spec], [Spec("y", DType.FLOAT, (-1, 1))], work)
        return session


def value(model: Model) -> float:
    (output,) = model.run([Tensor(DType.FLOAT, np.zeros((1, 1), np.float32))], [0], Call())
    return float(output.array[0, 0])


@pytest.fixture
def followed(kit: SimpleNamespace, tmp_path: Path) -> Iterator[Followed]:
    made = Followed(kit, tmp_path / "models")
    made.root.mkdir()
    yield made
    made.repository.close()


def test_a_new_version_is_loaded_once_it_has_settled(followed: Followed) -> None:
    followed.write("1", b"1")
    followed.start()
    assert followed.answer() == 1  # what is there at the start is loaded at once
    followed.write("2", b"2")
    followed.look()
    assert followed.states() == {"1": "READY", "2": "LOADING"}
    assert followed.answer() == 1
    assert followed.answer("2") is Reason.MODEL_LOADING
    followed.look()
    assert followed.states() == {"1": "READY", "2": "READY"}
    assert followed.answer() == 2
    followed.look(3)
    assert followed.loads == [b"1", b"2"]


def test_a_model_appears_and_vanishes(followed: Followed) -> None:
    followed.start()
    assert followed.changes == []
    followed.write("1", b"1")
    followed.look()
    assert followed.changes == [("m", False)]
    followed.look()
    assert followed.changes == [("m", False), ("m", True)]
    shutil.rmtree(followed.root / "m")
    followed.look(2)
    assert followed.changes == [("m", False), ("m", True), ("m", None)]
    assert followed.answer() is Reason.MODEL_NOT_FOUND
    assert followed.repository.entries == []
    followed.write("1", b"7")
    followed.look(2)
    assert followed.answer() == 7


def test_half_copied_files_are_left_alone(followed: Followed) -> None:
    followed.start()
    directory = followed.write("1", b"")
    for length in range(1, 5):
        (directory / "model.onnx").write_bytes(b"1.25"[:length])
        followed.look()
    assert followed.loads == []
    assert followed.states() == {"1": "LOADING"}
    followed.look()
    assert (followed.loads, followed.answer()) == ([b"1.25"], 1.25)


def test_a_changed_version_is_swapped(followed: Followed) -> None:
    followed.write("1", b"1")
    followed.start()
    followed.write("1", b"5")
    followed.look()
    assert (followed.states(), followed.answer()) == ({"1": "READY"}, 1)
    followed.look()
    assert (followed.states(), followed.answer()) == ({"1": "READY"}, 5)
    assert followed.changes == [("m", False), ("m", True)]


def test_a_change_that_hides_its_time_is_seen(followed: Followed) -> None:
    path = followed.write("1", b"1") / "model.onnx"
    status = path.stat()
    followed.start()
    path.write_bytes(b"5")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    followed.look(2)
    assert followed.answer() == 5


def test_a_bad_change_leaves_the_old_one_serving(followed: Followed, caplog: pytest.LogCaptureFixture) -> None:
    followed.write("1", b"1")
    followed.start()
    followed.write("1", b"bad")
    followed.look(3)
    assert (followed.states(), followed.answer()) == ({"1": "READY"}, 1)
    assert followed.loads == [b"1", b"bad"]  # tried once
    failed = [record for record in caplog.records if record.getMessage() == "model version failed"]
    assert len(failed) == 1
    followed.write("1", b"3")
    followed.look(2)
    assert followed.answer() == 3


def test_a_failed_version_is_tried_again_when_it_changes(followed: Followed) -> None:
    followed.write("1", b"bad")
    followed.start()
    followed.look(3)
    assert followed.loads == [b"bad"]
    assert followed.answer() is Reason.MODEL_FAILED
    followed.write("1", b"4")
    followed.look()
    assert followed.states() == {"1": "LOADING"}
    followed.look()
    assert followed.answer() == 4


def test_a_removed_version_drains(followed: Followed) -> None:
    followed.write("1", b"1")
    followed.write("2", b"2")
    followed.start()
    held = followed.repository.resolve("m", "2")
    freed = weakref.ref(held.session)
    shutil.rmtree(followed.root / "m/2")
    followed.look()
    assert followed.answer() == 2  # it may be in the middle of being replaced
    followed.look()
    assert followed.states() == {"1": "READY", "2": "DRAINING"}
    catalog = Catalog(followed.repository, Engine())
    shown = catalog.get_model(model_catalog_service_pb2.GetModelRequest(model_id="m")).model
    assert [version.state for version in shown.versions][1] == model_pb2.MODEL_STATE_DRAINING
    assert shown.versions[1].input_tensors[0].name == "x"
    assert followed.answer() == 1
    assert followed.answer("2") is Reason.VERSION_NOT_FOUND
    assert value(held) == 2  # what it has taken it finishes
    followed.look()
    assert followed.states() == {"1": "READY", "2": "DRAINING"}
    gc.disable()  # freed by the last that lets it go, not some time later
    try:
        del held
        assert freed() is None
    finally:
        gc.enable()
    followed.look()
    assert followed.states() == {"1": "READY"}


def test_the_last_version_goes(followed: Followed) -> None:
    followed.write("1", b"1")
    followed.start()
    held = followed.repository.resolve("m", "1")
    shutil.rmtree(followed.root / "m/1")
    followed.look(2)
    assert followed.states() == {"1": "DRAINING"}
    assert followed.answer() is Reason.VERSION_NOT_FOUND
    assert followed.changes[-1] == ("m", False)
    with pytest.raises(Fault, match='model "m" has no versions'):
        followed.repository.resolve("m", "")
    assert value(held) == 1


def test_a_version_that_comes_back_while_it_drains_is_loaded_anew(followed: Followed) -> None:
    followed.write("1", b"1")
    followed.start()
    held = followed.repository.resolve("m", "1")
    shutil.rmtree(followed.root / "m/1")
    followed.look(2)
    followed.write("1", b"9")
    followed.look()
    assert followed.states() == {"1": "LOADING"}
    followed.look()
    assert (followed.answer(), value(held)) == (9, 1)


def test_a_directory_replaced_by_two_renames_is_never_gone(followed: Followed) -> None:
    directory = followed.write("1", b"1")
    followed.start()
    directory.rename(followed.root / "m/.old")
    followed.look()
    assert followed.answer() == 1
    followed.write("1", b"2")
    followed.look(2)
    assert followed.answer() == 2


def test_a_version_that_vanishes_while_it_is_loaded_is_forgotten(followed: Followed) -> None:
    followed.start()
    followed.gate = threading.Event()
    followed.write("1", b"1")
    followed.repository.look()
    begun = followed.repository.look()
    shutil.rmtree(followed.root / "m/1")
    followed.repository.look()
    followed.repository.look()
    assert followed.states() == {}
    followed.gate.set()
    wait(begun, followed.kit.LIMIT)
    assert followed.states() == {}
    assert not followed.repository.busy


def test_what_is_loading_holds_up_nothing_else(followed: Followed) -> None:
    followed.write("1", b"1")
    followed.start()
    followed.gate = threading.Event()
    followed.write("2", b"2")
    followed.repository.look()
    begun = followed.repository.look()
    (followed.root / "m/labels.json").write_text('{"stable": 1}')
    assert followed.repository.look() == []
    assert followed.answer("stable") == 1
    assert followed.repository.busy
    followed.gate.set()
    wait(begun, followed.kit.LIMIT)
    assert followed.answer() == 2


def test_labels_are_read_anew_and_a_broken_file_changes_nothing(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    followed.write("1", b"1")
    followed.write("2", b"2")
    path = followed.root / "m/labels.json"
    path.write_text('{"stable": "1"}')
    followed.start()
    assert followed.answer("stable") == 1
    path.write_text('{"stable": "2", "canary": 2}')
    followed.look()
    assert (followed.answer("stable"), followed.answer("canary")) == (2, 2)
    for broken in ('{"stable": "1"', "[]", "", '{"a": "1"}' + " " * (1 << 20)):
        path.write_text(broken)
        followed.look(2)
        assert (followed.answer("stable"), followed.answer("canary")) == (2, 2)
    path.unlink()
    path.symlink_to("elsewhere.json")
    followed.look()
    assert followed.answer("stable") == 2
    path.unlink()
    path.write_text('{"stable": "1"}')
    followed.look()
    assert (followed.answer("stable"), followed.answer("canary")) == (1, Reason.LABEL_NOT_FOUND)
    path.unlink()
    followed.look()
    assert followed.answer("stable") is Reason.LABEL_NOT_FOUND
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 3  # no object, too large, a link: each once, however many looks there were


def test_a_link_is_a_version_that_fails(followed: Followed) -> None:
    elsewhere = followed.write("1", b"1", "other")
    followed.write("1", b"1")
    followed.start()
    (followed.root / "m/2").symlink_to(elsewhere)
    followed.look(2)
    with pytest.raises(Fault, match="its directory is a link"):
        followed.repository.resolve("m", "2")
    # In the place of a version that is ready it is a bad change.
    shutil.rmtree(followed.root / "m/1")
    (followed.root / "m/1").symlink_to(elsewhere)
    followed.look(2)
    assert followed.answer("1") == 1


@pytest.mark.parametrize("which", ["m", "1"])
def test_what_cannot_be_read_changes_nothing(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    followed.write("1", b"1")
    followed.start()
    open_directory = scan.open_directory

    def refuse(path: str, parent: int | None = None) -> AbstractContextManager[int]:
        if path == which:
            raise RefusedError("permission denied")
        return open_directory(path, parent)

    with monkeypatch.context() as patch:
        patch.setattr(scan, "open_directory", refuse)
        followed.look(3)
        assert (followed.states(), followed.answer()) == ({"1": "READY"}, 1)
    followed.look(2)
    assert (followed.answer(), followed.loads) == (1, [b"1"])
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


def test_a_repository_that_is_away_changes_nothing(followed: Followed, caplog: pytest.LogCaptureFixture) -> None:
    followed.write("1", b"1")
    followed.start()
    followed.root.rename(followed.root.with_name("away"))
    followed.look(3)
    assert followed.answer() == 1
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    followed.root.with_name("away").rename(followed.root)
    followed.look(3)
    assert (followed.answer(), followed.loads) == (1, [b"1"])


def test_after_close_nothing_is_loaded(followed: Followed) -> None:
    followed.start()
    followed.write("1", b"1")
    followed.repository.close()
    followed.look(3)
    assert followed.loads == []


def test_a_failed_version_keeps_nothing_of_the_model(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_version(tmp_path / "m/1", {"model.onnx": b"graph", "golden.binpb": b"\xff"}, kit.manifest())
    sessions: list[weakref.ref[Any]] = []

    def load(_graph: bytes, _files: Mapping[str, bytes]) -> Session:
        session: Session = kit.doubling()
        sessions.append(weakref.ref(session))
        return session

    repository = Repository(tmp_path, load)
    repository.list()
    repository.load()
    assert repository.entry("m").versions[0].state is State.FAILED
    gc.collect()
    assert [session() for session in sessions] == [None]


def test_onnx_runtime_sessions_are_freed(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_identity(tmp_path)
    repository = Repository(tmp_path, ort.Runtime().load)
    repository.list()
    repository.load()
    gc.collect()
    gc.disable()
    try:
        session = weakref.ref(repository.resolve("m", "1").session)
        assert session() is not None
        shutil.rmtree(tmp_path / "m/1")
        repository.look()
        repository.look()
        assert session() is None
    finally:
        gc.enable()
    assert repository.entry("m") == Entry("m", {}, ())


def test_reloads_under_requests_lose_none(followed: Followed) -> None:
    """Each answer is wholly from one version, and no request fails."""
    followed.write("1", b"1")
    followed.write("2", b"2")
    followed.start()
    stop = threading.Event()

    def ask() -> set[tuple[float, float]]:
        seen = set()
        while not stop.is_set():
            model = followed.repository.resolve("m", "")
            seen.add((value(model), value(model)))
        return seen

    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(ask) for _ in range(4)]
        try:
            for round_ in range(3, 23):
                # One version is replaced by a rename, another comes and the one before goes.
                followed.write(".new", str(round_).encode()).rename(followed.root / f"m/{round_}")
                followed.look(2)
                shutil.rmtree(followed.root / f"m/{round_ - 2}")
                followed.look(2)
        finally:
            stop.set()
        seen = set().union(*(future.result(followed.kit.LIMIT) for future in asked))
    assert seen
    assert all(first == second for first, second in seen)
    assert {first for first, _ in seen} <= set(range(2, 23))


def test_a_process_follows_its_repository(kit: SimpleNamespace, tmp_path: Path, spawn: Callable[..., Any]) -> None:
    import grpc
    from concord_proto.inference.v1 import inference_service_pb2_grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    root = tmp_path / "models"
    root.mkdir()
    process = spawn(root, "--repository-poll-ms", "20", "--admission-cache", os.fspath(tmp_path / "cache"))
    with grpc.insecure_channel(process.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        predict = inference_service_pb2_grpc.InferenceServiceStub(channel).Predict

        def status() -> Any:
            try:
                return health.Check(health_pb2.HealthCheckRequest(service="models/m"), timeout=kit.LIMIT).status
            except grpc.RpcError as error:
                return error.code()

        assert status() is grpc.StatusCode.NOT_FOUND
        kit.write_identity(tmp_path / "made").parent.rename(root / "m")
        kit.wait_until(lambda: status() == health_pb2.HealthCheckResponse.SERVING)
        answer = predict(kit.request(a=1.0, b=2.0), timeout=kit.LIMIT)
        assert (answer.model_version, dict(answer.predictions)) == ("1", {"a": 1.0, "b": 2.0})
        shutil.rmtree(root / "m")
        kit.wait_until(lambda: status() is grpc.StatusCode.NOT_FOUND)
    assert process.end() == 0
    messages = [line["msg"] for line in process.log()]
    assert messages.count("model version ready") == 1
    assert messages.count("model version removed") == 1


async def test_requests_that_failed_keep_no_model(followed: Followed) -> None:
    import grpc
    from concord_proto.inference.v1 import inference_service_pb2_grpc
    from concord_server.batch import Engine
    from concord_server.server import Health, Server

    followed.write("1", b"1")
    followed.start()
    engine = Engine()
    limits = {"max_message_bytes": 1 << 20, "max_batch_requests": 10}
    server = Server(followed.repository, Health([""]), engine, **limits, reflection=False)
    port = await server.start("127.0.0.1:0")
    gc.collect()
    gc.disable()
    try:
        session = weakref.ref(followed.repository.resolve("m", "1").session)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            predict = inference_service_pb2_grpc.InferenceServiceStub(channel).Predict
            with pytest.raises(grpc.RpcError) as caught:
                await predict(followed.kit.request(), timeout=followed.kit.LIMIT)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        shutil.rmtree(followed.root / "m")
        followed.look(2)
        # Not the garbage collector: the last of the threads that lets go.
        await asyncio.to_thread(followed.kit.wait_until, lambda: session() is None)
    finally:
        gc.enable()
        await server.stop(0)
        engine.close()


def test_each_model_has_its_loader(kit: SimpleNamespace, tmp_path: Path) -> None:
    asked: list[str] = []
    spec = Spec("x", DType.FLOAT, (-1, 1))

    def loader_of(model_id: str) -> Callable[..., Session]:
        asked.append(model_id)
        return lambda _graph, _files: kit.FakeSession([spec], [spec], lambda given: list(given))

    def refuse(_graph: bytes, _files: Mapping[str, bytes]) -> Session:
        raise AssertionError("it has another")

    repository = Repository(tmp_path, refuse, loader_of=loader_of)
    for model_id in ("a", "b"):
        kit.write_version(tmp_path / model_id / "1", {"model.onnx": b"1"}, None)
    repository.list()
    repository.load()
    assert sorted(asked) == ["a", "b"]
