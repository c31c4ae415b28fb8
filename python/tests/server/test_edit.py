# SPDX-License-Identifier: Apache-2.0
"""Edits of a repository on disk, by several at once, and their way over gRPC."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from concord_proto.inference.v1 import (
    inference_service_pb2_grpc,
    model_admin_service_pb2,
    model_admin_service_pb2_grpc,
    model_catalog_service_pb2,
    model_catalog_service_pb2_grpc,
    model_pb2,
)
from concord_server.fault import Fault, Reason
from concord_server.model import Call
from concord_server.repository import Editor, edit
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc


class Disk:
    """A repository and a staging directory."""

    def __init__(self, kit: SimpleNamespace, root: Path) -> None:
        self.kit = kit
        self.models = root / "models"
        self.staging = root / "staging"
        self.models.mkdir()
        self.staging.mkdir()
        self.editor = Editor(self.models, self.staging)

    def stage(self, number: str = "1") -> Path:
        directory: Path = self.kit.write_identity(self.staging, "m", number)
        return directory

    def names(self, model_id: str = "m") -> list[str]:
        """What lies in the model's directory, but the lock."""
        return sorted(path.name for path in (self.models / model_id).iterdir() if path.name != ".lock")

    def labels(self) -> Any:
        return json.loads((self.models / "m/labels.json").read_text())


@pytest.fixture
def disk(kit: SimpleNamespace, tmp_path: Path) -> Disk:
    return Disk(kit, tmp_path)


def refused(edit: Callable[..., object], *arguments: str) -> tuple[Reason, str]:
    with pytest.raises(Fault) as caught:
        edit(*arguments, Call())
    assert caught.value.model_id == "m"
    return caught.value.reason, caught.value.message


def across(monkeypatch: pytest.MonkeyPatch) -> None:
    """Staging and repository are on different file systems."""
    rename = os.rename

    def refuse(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        if src_dir_fd != dst_dir_fd:
            raise OSError(errno.EXDEV, "cross-device")
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", refuse)


@pytest.mark.parametrize("copied", [False, True])
def test_load_moves_a_package(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, copied: bool
) -> None:
    caplog.set_level(logging.INFO)
    staged = disk.stage("2")
    files = {path.name: path.read_bytes() for path in staged.iterdir()}
    if copied:
        across(monkeypatch)
    disk.editor.load("m", "2", Call())
    assert disk.names() == ["2"]
    assert {path.name: path.read_bytes() for path in (disk.models / "m/2").iterdir()} == files
    assert not staged.exists()
    assert (disk.models / "m/.lock").stat().st_mode & 0o777 == 0o600
    assert [record.getMessage() for record in caplog.records] == ["model loaded from staging"]


def test_load_takes_a_bare_model_unless_manifests_are_required(disk: Disk) -> None:
    disk.kit.write_version(disk.staging / "m/1", {"model.onnx": disk.kit.identity()}, None)
    strict = Editor(disk.models, disk.staging, require_manifest=True)
    reason, message = refused(strict.load, "m", "1")
    assert reason is Reason.MODEL_FAILED
    assert message.endswith("manifest.json is missing, and this server requires it")
    disk.editor.load("m", "1", Call())
    assert disk.names() == ["1"]


def test_load_needs_a_staging_directory(disk: Disk) -> None:
    answer = refused(Editor(disk.models, None).load, "m", "1")
    assert answer == (Reason.STAGING_UNSET, "the server has no staging directory")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_load_is_never_over_anything(disk: Disk, make: Callable[[Path], object]) -> None:
    disk.stage()
    (disk.models / "m").mkdir()
    make(disk.models / "m/1")
    assert refused(disk.editor.load, "m", "1") == (Reason.VERSION_EXISTS, 'model "m" has version 1 already')
    assert (disk.staging / "m/1/model.onnx").exists()


@pytest.mark.parametrize("copied", [False, True])
def test_what_appears_meanwhile_stays_and_the_package_goes_back(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, copied: bool
) -> None:
    disk.stage()
    if copied:
        across(monkeypatch)
    bring = edit._bring

    def bring_and_meet(*arguments: Any) -> bool:
        brought = bring(*arguments)
        (disk.models / "m/1").mkdir()
        return brought

    monkeypatch.setattr(edit, "_bring", bring_and_meet)
    assert refused(disk.editor.load, "m", "1")[0] is Reason.VERSION_EXISTS
    assert disk.names() == ["1"]
    assert list((disk.models / "m/1").iterdir()) == []
    assert (disk.staging / "m/1/model.onnx").exists()


def test_load_of_what_is_not_staged(disk: Disk) -> None:
    missing = (Reason.VERSION_NOT_FOUND, 'model "m" has no version 1 in the staging directory')
    assert refused(disk.editor.load, "m", "1") == missing
    disk.stage("2")
    assert refused(disk.editor.load, "m", "1") == missing
    assert refused(disk.editor.load, "m", "9" * 300)[0] is Reason.VERSION_NOT_FOUND
    assert list(disk.models.iterdir()) == []


def swap_for_link(path: Path) -> None:
    path.rename(path.with_name(".moved"))
    path.symlink_to(path.with_name(".moved"))


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda d: (d / "model.onnx").write_bytes(b"short"), "size of model.onnx is not the manifest's"),
        (lambda d: (d / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda d: (d / "more").write_bytes(b""), "more is not listed in manifest.json"),
        (lambda d: swap_for_link(d), "its directory is a link"),
        (lambda d: swap_for_link(d.parent), "its directory is a link"),
        (lambda d: swap_for_link(d / "model.onnx"), ".moved is not listed in manifest.json"),
    ],
)
def test_load_refuses_what_would_not_load(disk: Disk, damage: Callable[[Path], object], why: str) -> None:
    damage(disk.stage())
    answer = refused(disk.editor.load, "m", "1")
    assert answer in (
        (Reason.MODEL_FAILED, f'model "m" version 1 failed to load: {why}'),
        (Reason.MODEL_FAILED, 'model "m" version 1 failed to load: model.onnx is a link'),
    )
    assert list(disk.models.iterdir()) == []


def test_loads_of_one_version_at_once(disk: Disk) -> None:
    disk.stage()

    def load() -> Reason | None:
        try:
            disk.editor.load("m", "1", Call())
        except Fault as fault:
            return fault.reason
        return None

    with ThreadPoolExecutor(8) as threads:
        answers = [future.result(disk.kit.LIMIT) for future in [threads.submit(load) for _ in range(8)]]
    assert answers.count(None) == 1
    assert set(answers) <= {None, Reason.VERSION_EXISTS, Reason.VERSION_NOT_FOUND}
    assert disk.names() == ["1"]


def test_unload_takes_a_version_out(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    disk.kit.write_identity(disk.models, "m", "1")
    elsewhere = disk.kit.write_identity(disk.staging, "m", "2")
    (disk.models / "m/2").symlink_to(elsewhere)
    disk.editor.unload("m", "1", Call())
    disk.editor.unload("m", "2", Call())
    assert disk.names() == []
    assert (elsewhere / "model.onnx").exists()  # only the link went
    assert [record.getMessage() for record in caplog.records] == ["model unloaded"] * 2


def test_unload_of_what_is_not_there(disk: Disk) -> None:
    no_model = (Reason.MODEL_NOT_FOUND, 'model "m" not found')
    assert refused(disk.editor.unload, "m", "1") == no_model
    (disk.models / "m").write_text("")
    assert refused(disk.editor.unload, "m", "1") == no_model
    (disk.models / "m").unlink()
    (disk.models / "m").symlink_to(disk.staging)
    assert refused(disk.editor.unload, "m", "1") == no_model
    (disk.models / "m").unlink()
    (disk.models / "m").mkdir()
    (disk.models / "m/1").write_text("a file is no version")
    no_version = (Reason.VERSION_NOT_FOUND, 'model "m" has no version 1')
    assert refused(disk.editor.unload, "m", "1") == no_version
    assert refused(disk.editor.unload, "m", "9" * 300)[0] is Reason.VERSION_NOT_FOUND


def test_set_label(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for number in ("1", "2"):
        disk.kit.write_identity(disk.models, "m", number)
    assert disk.editor.set_label("m", "stable", "1", Call()) == {"stable": "1"}
    assert disk.editor.set_label("m", "canary", "2", Call()) == {"canary": "2", "stable": "1"}
    assert (disk.models / "m/labels.json").read_text() == '{\n  "canary": "2",\n  "stable": "1"\n}\n'
    assert disk.editor.set_label("m", "stable", "", Call()) == {"canary": "2"}
    assert disk.editor.set_label("m", "stable", "", Call()) == {"canary": "2"}
    assert disk.editor.set_label("m", "canary", "", Call()) == {}
    assert disk.labels() == {}
    assert disk.names() == ["1", "2", "labels.json"]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["label set"] * 2 + ["label removed"] * 3


def test_set_label_keeps_what_it_does_not_know(disk: Disk) -> None:
    disk.kit.write_identity(disk.models, "m", "1")
    written = '\n{"Odd" : [1, {"a": "}"}] ,"f":1.50, "n": 2, "é\\u0041": "x", "big": 123456789012345678901234567890}'
    (disk.models / "m/labels.json").write_text(written)
    assert disk.editor.set_label("m", "new", "1", Call()) == {
        "n": "2",
        "new": "1",
        "big": "123456789012345678901234567890",
    }
    after = (disk.models / "m/labels.json").read_text()
    assert '"f": 1.50' in after
    assert '"Odd": [1, {"a": "}"}]' in after
    assert {**json.loads(written), "new": "1"} == json.loads(after)


@pytest.mark.parametrize("broken", ["", "[]", "{", '{"a": "1"', '"x"', "1", "null"])
def test_set_label_leaves_a_broken_file_alone(disk: Disk, broken: str) -> None:
    disk.kit.write_identity(disk.models, "m", "1")
    path = disk.models / "m/labels.json"
    path.write_text(broken)
    message = 'model "m": labels.json: expected a JSON object from label to version'
    assert refused(disk.editor.set_label, "m", "a", "1") == (Reason.MODEL_FAILED, message)
    assert path.read_text() == broken
    path.unlink()
    path.symlink_to(disk.staging / "labels.json")
    assert refused(disk.editor.set_label, "m", "a", "1") == (Reason.MODEL_FAILED, 'model "m": labels.json is a link')


def test_set_label_needs_the_version(disk: Disk) -> None:
    assert refused(disk.editor.set_label, "m", "a", "1")[0] is Reason.MODEL_NOT_FOUND
    (disk.models / "m").mkdir()
    assert refused(disk.editor.set_label, "m", "a", "1")[0] is Reason.VERSION_NOT_FOUND


def test_labels_set_by_several_processes_at_once_are_all_there(disk: Disk) -> None:
    disk.kit.write_identity(disk.models, "m", "1")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from concord_server.model import Call\n"
        "from concord_server.repository import Editor\n"
        "editor = Editor(Path(sys.argv[1]), None)\n"
        "for i in range(20): editor.set_label('m', f'{sys.argv[2]}{i}', '1', Call())\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, os.fspath(disk.models), name]) for name in ("a", "b", "c")
    ]
    for process in processes:
        assert process.wait(60) == 0
    assert set(disk.labels()) == {f"{name}{i}" for name in "abc" for i in range(20)}
    assert disk.names() == ["1", "labels.json"]


def test_a_lock_that_is_held_is_waited_for_until_the_call_ends(disk: Disk) -> None:
    disk.kit.write_identity(disk.models, "m", "1")
    with (disk.models / "m/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Fault) as caught:
            disk.editor.set_label("m", "a", "1", Call(time.monotonic() + 0.05))
        assert caught.value.reason is Reason.DEADLINE_EXCEEDED
        cancelled = Call()
        timer = threading.Timer(0.05, cancelled.cancel)
        timer.start()
        with pytest.raises(Fault) as caught:
            disk.editor.unload("m", "1", cancelled)
        timer.join()
        assert caught.value.reason is Reason.CANCELLED
    assert disk.names() == ["1"]
    disk.editor.set_label("m", "a", "1", Call())


def test_a_lock_is_no_link(disk: Disk) -> None:
    disk.kit.write_identity(disk.models, "m", "1")
    (disk.models / "m/.lock").symlink_to(disk.staging / "made")
    with pytest.raises(OSError, match="symbolic links"):
        disk.editor.set_label("m", "a", "1", Call())
    assert not (disk.staging / "made").exists()


# Over gRPC, in a process that follows its own edits.


@pytest.fixture
def served(disk: Disk, spawn: Callable[..., Any], tmp_path: Path) -> Iterator[SimpleNamespace]:
    process = spawn(
        disk.models,
        *("--staging", os.fspath(disk.staging)),
        *("--admin-listen", "127.0.0.1:0"),
        *("--repository-poll-ms", "20"),
        *("--admission-cache", os.fspath(tmp_path / "cache")),
    )
    with grpc.insecure_channel(process.ready["admin"]) as admin, grpc.insecure_channel(process.target) as main:
        yield SimpleNamespace(
            process=process,
            main=main,
            channel=admin,
            admin=model_admin_service_pb2_grpc.ModelAdminServiceStub(admin),
            catalog=model_catalog_service_pb2_grpc.ModelCatalogServiceStub(main),
            predict=inference_service_pb2_grpc.InferenceServiceStub(main).Predict,
        )


def reason_of(error: grpc.RpcError) -> tuple[grpc.StatusCode, str, str]:
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code(), info.reason, error.details()


def failing(call: Callable[..., Any], request: Any) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=20)
    return reason_of(caught.value)


def test_administration_over_grpc(disk: Disk, kit: SimpleNamespace, served: SimpleNamespace) -> None:
    load = model_admin_service_pb2.LoadModelRequest(model_id="m", model_version="1")
    assert failing(served.admin.LoadModel, load)[:2] == (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
    disk.stage("1")
    served.admin.LoadModel(load, timeout=kit.LIMIT)
    assert failing(served.admin.LoadModel, load)[:2] == (grpc.StatusCode.ALREADY_EXISTS, "VERSION_EXISTS")

    def state() -> Any:
        try:
            request = model_catalog_service_pb2.GetModelRequest(model_id="m")
            return [version.state for version in served.catalog.GetModel(request, timeout=kit.LIMIT).model.versions]
        except grpc.RpcError as error:
            return error.code()

    kit.wait_until(lambda: state() == [model_pb2.MODEL_STATE_READY])
    label = model_admin_service_pb2.SetLabelRequest(model_id="m", label="stable", model_version="1")
    assert dict(served.admin.SetLabel(label, timeout=kit.LIMIT).labels) == {"stable": "1"}

    def answered() -> bool:
        try:
            answer = served.predict(kit.request("m", "stable", a=1.0, b=2.0), timeout=kit.LIMIT)
        except grpc.RpcError as error:
            if reason_of(error)[1] != "LABEL_NOT_FOUND":
                raise
            return False
        return bool(answer.model_version == "1")

    kit.wait_until(answered)
    unload = model_admin_service_pb2.UnloadModelRequest(model_id="m", model_version="1")
    served.admin.UnloadModel(unload, timeout=kit.LIMIT)
    kit.wait_until(lambda: state() == [])
    assert failing(served.admin.UnloadModel, unload)[1] == "VERSION_NOT_FOUND"
    for channel in (served.main, served.channel):
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "inference.v1.ModelAdminService", "inference.v1.InferenceService"):
            assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=kit.LIMIT).status == 1
    # Neither listener serves what is the other's.
    assert failing(model_admin_service_pb2_grpc.ModelAdminServiceStub(served.main).LoadModel, load)[1] == (
        "METHOD_UNIMPLEMENTED"
    )
    predict = inference_service_pb2_grpc.InferenceServiceStub(served.channel).Predict
    assert failing(predict, kit.request())[1] == "METHOD_UNIMPLEMENTED"
    assert served.process.end() == 0
    messages = [line["msg"] for line in served.process.log()]
    assert [m for m in messages if m in ("model loaded from staging", "label set", "model unloaded")] == [
        "model loaded from staging",
        "label set",
        "model unloaded",
    ]


def test_malformed_names_over_grpc(served: SimpleNamespace) -> None:
    load, unload = model_admin_service_pb2.LoadModelRequest, model_admin_service_pb2.UnloadModelRequest
    label = model_admin_service_pb2.SetLabelRequest
    version = "model_version: expected a positive integer without leading zeros, got "
    a_label = "label: expected [a-z][a-z0-9-]{0,62}, got "
    for call, request, reason, message in [
        (served.admin.LoadModel, load(model_id="../x"), "MODEL_ID_INVALID", None),
        (served.admin.LoadModel, load(model_id="m"), "MODEL_VERSION_INVALID", f"{version}nothing"),
        (served.admin.UnloadModel, unload(model_id="m", model_version="stable"), "MODEL_VERSION_INVALID", f'{version}"stable"'),  # noqa: E501
        (served.admin.UnloadModel, unload(model_id="m", model_version="../1"), "MODEL_VERSION_INVALID", f'{version}"../1"'),  # noqa: E501
        (served.admin.SetLabel, label(model_id="m"), "LABEL_INVALID", f"{a_label}nothing"),
        (served.admin.SetLabel, label(model_id="m", label="Stable"), "LABEL_INVALID", f'{a_label}"Stable"'),
        (served.admin.SetLabel, label(model_id="m", label="a", model_version="01"), "MODEL_VERSION_INVALID", f'{version}"01"'),  # noqa: E501
    ]:  # fmt: skip
        code, got, text = failing(call, request)
        assert (code, got) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
        assert message is None or text == message


def test_what_a_crash_left_of_an_unload_is_removed(kit: SimpleNamespace, tmp_path: Path) -> None:
    disk = Disk(kit, tmp_path)
    for path in ("m/.unload-1-aa", "m/.load-2-aa", "m/3", ".hidden/.unload-1-aa"):
        (disk.models / path).mkdir(parents=True)
        (disk.models / path / "model.onnx").write_bytes(b"bytes")
    (disk.models / "m/.unload-link").symlink_to(disk.staging)
    disk.editor.sweep()
    assert disk.names() == [".load-2-aa", ".unload-1-aa", ".unload-link", "3"]
    disk.editor.sweep(age_seconds=-60)
    assert disk.names() == [".load-2-aa", "3"]
    assert disk.names(".hidden") == [".unload-1-aa"]
    assert disk.staging.is_dir()
