# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_proto.inference.v1 import inference_service_pb2
from concord_proto.modelpackage.v1 import golden_pb2
from concord_server import ort
from concord_server.admission import AdmissionError
from concord_server.fault import Fault, Reason
from concord_server.model import Call, Session
from concord_server.repository import Repository, State, Version
from concord_server.repository.disk import RefusedError
from concord_server.repository.package import parse_manifest
from concord_server.repository.scan import parse_labels
from concord_server.tensor import DType, Spec, Tensor
from hypothesis import given
from hypothesis import strategies as st


def identity_loader(kit: SimpleNamespace) -> Callable[..., Session]:
    def load(_graph: bytes, _files: Mapping[str, bytes]) -> Session:
        spec = Spec("x", DType.FLOAT, (-1, 2))
        session: Session = kit.FakeSession([spec], [Spec("y", DType.FLOAT, (-1, 2))], list)
        return session

    return load


def loaded(kit: SimpleNamespace, root: Path, load: Callable[..., Session] | None = None, **more: Any) -> Repository:
    repository = Repository(root, load or identity_loader(kit), **more)
    repository.list()
    repository.load()
    return repository


def only(repository: Repository) -> Version:
    (entry,) = repository.entries
    (version,) = entry.versions
    return version


def why(version: Version) -> str:
    assert version.state is State.FAILED
    assert version.fault is not None
    assert version.fault.reason is Reason.MODEL_FAILED
    prefix = f'model "m" version {version.number} failed to load: '
    assert version.fault.message.startswith(prefix)
    return version.fault.message.removeprefix(prefix)


def reason(repository: Repository, model_id: str, version: str = "") -> Reason | str:
    try:
        return repository.resolve(model_id, version).version
    except Fault as fault:
        return fault.reason


def test_a_good_package_is_ready(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_identity(tmp_path, description="twins")
    version = only(loaded(kit, tmp_path))
    assert version.state is State.READY
    assert version.about is not None
    assert (version.about.description, version.about.verified) == ("twins", True)


def test_versions_and_labels_are_resolved_by_the_table(kit: SimpleNamespace, tmp_path: Path) -> None:
    for number in ("1", "2", "10"):
        kit.write_identity(tmp_path, version=number)
    (tmp_path / "m/11").mkdir()
    labels = {"stable": "2", "canary": 11, "gone": "7", "Bad": "1", "worse": "01", "worst": True, "float": 1.0}
    (tmp_path / "m/labels.json").write_text(json.dumps(labels))
    (tmp_path / "none").mkdir()
    repository = loaded(kit, tmp_path)
    assert repository.entry("m").labels == {"stable": "2", "canary": "11", "gone": "7"}
    assert [v.number for v in repository.entry("m").versions] == ["1", "2", "10", "11"]
    table = {
        ("m", ""): "10",
        ("m", "2"): "2",
        ("m", "stable"): "2",
        ("m", "11"): Reason.MODEL_FAILED,
        ("m", "canary"): Reason.MODEL_FAILED,
        ("m", "gone"): Reason.VERSION_NOT_FOUND,
        ("m", "3"): Reason.VERSION_NOT_FOUND,
        ("m", "worse"): Reason.LABEL_NOT_FOUND,
        ("m", "9" * 10_000): Reason.VERSION_NOT_FOUND,
        ("none", ""): Reason.VERSION_NOT_FOUND,
        ("other", ""): Reason.MODEL_NOT_FOUND,
    }
    assert {asked: reason(repository, *asked) for asked in table} == table


def test_messages_name_what_is_missing(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_identity(tmp_path)
    (tmp_path / "none").mkdir()
    repository = loaded(kit, tmp_path)
    for asked, message in {
        ("x", ""): 'model "x" not found',
        ("m", "7"): 'model "m" has no version 7',
        ("none", ""): 'model "none" has no versions',
        ("m", "canary"): 'model "m" has no label "canary"',
    }.items():
        with pytest.raises(Fault) as caught:
            repository.resolve(*asked)
        assert caught.value.message == message
        assert caught.value.model_id == asked[0]


def test_versions_are_loading_until_they_are_loaded(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_identity(tmp_path)
    begun, go_on = threading.Event(), threading.Event()
    changes: list[tuple[str, bool]] = []

    def load(*arguments: Any) -> Session:
        begun.set()
        assert go_on.wait(kit.LIMIT)
        return identity_loader(kit)(*arguments)

    repository = Repository(tmp_path, load, changed=lambda *change: changes.append(change))
    repository.list()
    assert reason(repository, "m") is Reason.MODEL_LOADING
    thread = threading.Thread(target=repository.load)
    thread.start()
    assert begun.wait(kit.LIMIT)
    with pytest.raises(Fault) as caught:
        repository.resolve("m", "1")
    assert caught.value.message == 'model "m" version 1 is loading'
    go_on.set()
    thread.join(kit.LIMIT)
    assert reason(repository, "m") == "1"
    assert changes == [("m", False), ("m", True)]


def test_without_a_ready_version_the_highest_says_why(kit: SimpleNamespace, tmp_path: Path) -> None:
    for number in ("1", "2"):
        (tmp_path / "m" / number).mkdir(parents=True)
    repository = loaded(kit, tmp_path)
    with pytest.raises(Fault) as caught:
        repository.resolve("m", "")
    assert caught.value.model_version == "2"
    # The same fault again: nothing of one request sticks to the next.
    with pytest.raises(Fault) as again:
        repository.resolve("m", "")
    assert again.value is not caught.value


def test_what_has_no_place_in_a_repository_is_left_out(kit: SimpleNamespace, tmp_path: Path) -> None:
    root = tmp_path / "models"
    elsewhere = kit.write_identity(tmp_path / "elsewhere")
    kit.write_identity(root, "m", "1")
    for name in ("_odd", "a b", ".staging"):
        (root / name / "1").mkdir(parents=True)
    (root / "README.md").write_text("hello")
    (root / "link").symlink_to(elsewhere.parent)
    for name in ("01", "v2", "0", ".2.tmp"):
        (root / "m" / name).mkdir()
    (root / "m/3").write_text("a file")
    (root / "m/4").symlink_to(elsewhere)
    repository = loaded(kit, root)
    assert [entry.model_id for entry in repository.entries] == ["m"]
    assert [(v.number, v.state) for v in repository.entry("m").versions] == [("1", State.READY), ("4", State.FAILED)]
    assert why(repository.entry("m").versions[1]) == "its directory is a link"


def test_an_empty_repository_is_one(kit: SimpleNamespace, tmp_path: Path) -> None:
    assert loaded(kit, tmp_path).entries == []


def test_a_repository_that_cannot_be_read(kit: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(RefusedError):
        Repository(tmp_path / "none", identity_loader(kit)).list()


def change_manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def replace(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes(data)


def edit(**changes: Any) -> Callable[[Path], object]:
    return lambda directory: change_manifest(directory, lambda document: document.update(changes))


def edit_file(**changes: Any) -> Callable[[Path], object]:
    return lambda directory: change_manifest(directory, lambda document: document["files"][0].update(changes))


def link(name: str) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        (directory / name).rename(directory.parent.parent / f"moved-{name}")
        (directory / name).symlink_to(directory.parent.parent / f"moved-{name}")

    return change


def pipe(name: str) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        (directory / name).unlink()
        os.mkfifo(directory / name)

    return change


def swap_for_directory(directory: Path) -> None:
    (directory / "golden.binpb").unlink()
    (directory / "golden.binpb").mkdir()


def shuffle(directory: Path) -> None:
    data = bytearray((directory / "model.onnx").read_bytes())
    data[-1] ^= 1
    (directory / "model.onnx").write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shuffle, "sha256 of model.onnx is not the manifest's"),
        (replace("model.onnx", b"short"), "size of model.onnx is not the manifest's"),
        (lambda d: (d / "model.onnx").unlink(), "model.onnx is missing"),
        (lambda d: (d / "manifest.json").unlink() or (d / "model.onnx").unlink(), "expected manifest.json or model.onnx, got neither"),  # noqa: E501
        (replace("notes.txt", b""), "notes.txt is not listed in manifest.json"),
        (replace(".hidden", b""), ".hidden is not listed in manifest.json"),
        (lambda d: (d / "sub").mkdir(), "sub is not listed in manifest.json"),
        (link("model.onnx"), "model.onnx is a link"),
        (link("manifest.json"), "manifest.json is a link"),
        (pipe("model.onnx"), "model.onnx is no regular file"),
        (pipe("manifest.json"), "manifest.json is no regular file"),
        (swap_for_directory, "golden.binpb is no regular file"),
        (replace("manifest.json", b"{"), "manifest.json is no manifest"),
        (replace("manifest.json", b"\xff"), "manifest.json is no manifest"),
        (replace("manifest.json", b"{}"), "files: model.onnx is not listed"),
        (replace("manifest.json", b"[1]"), "manifest.json is no manifest"),
        (replace("manifest.json", b"[" * 100_000), "manifest.json is no manifest"),
        (replace("manifest.json", b" " * (16 << 20) + b"{}"), "manifest.json: expected at most 16777216 bytes, got 16777218"),  # noqa: E501
        (edit(surprise=1), "manifest.json is no manifest"),
        (edit(kind="MODEL_KIND_UNSPECIFIED"), "kind: expected a kind, got nothing"),
        (edit(kind=99), "kind: expected a kind, got nothing"),
        (edit(kind="MODEL_KIND_GENERATOR"), "files: genai_config.json is not listed"),
        (edit(kind="MODEL_KIND_RECOMMENDER"), "kind recommender is not served here"),
        (edit(kind="MODEL_KIND_TENSOR"), "kind tensor: expected no features, predictions and outputs in the manifest"),
        (edit(files=[]), "files: model.onnx is not listed"),
        (edit(batching={"maxBatchRows": -1}), "batching: max_batch_rows: expected at least 0, got -1"),
        (edit_file(name="../model.onnx"), 'files: expected a file name without directory and leading dot, got "../model.onnx"'),  # noqa: E501
        (edit_file(name=""), 'files: expected a file name without directory and leading dot, got ""'),
        (edit_file(name="a\x00b"), 'files: expected a file name without directory and leading dot, got "a\\u0000b"'),
        (edit_file(name="manifest.json"), "files: manifest.json lists itself"),
        (edit_file(name="golden.binpb"), 'files: "golden.binpb" is listed twice'),
        (edit_file(sha256="A" * 64), 'files: sha256 of "model.onnx": expected 64 lower-case hexadecimal digits'),
        (edit_file(sizeBytes="-1"), 'files: size of "model.onnx": expected at least 0, got -1'),
        (edit_file(name="weights.bin"), "files: model.onnx is not listed"),
    ],
)  # fmt: skip
def test_packages_that_are_refused(
    kit: SimpleNamespace, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    change(kit.write_identity(tmp_path))
    got = why(only(loaded(kit, tmp_path)))
    assert got.startswith(message)
    assert str(tmp_path) not in got
    assert "\n" not in got


def test_a_bare_model_is_served_unverified_unless_manifests_are_required(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_version(tmp_path / "m/1", {"model.onnx": kit.identity()}, None)
    version = only(loaded(kit, tmp_path))
    assert version.state is State.READY
    assert version.about is not None
    assert version.model is not None
    assert (version.about.verified, version.model.batchable) == (False, False)
    refused = only(loaded(kit, tmp_path, require_manifest=True))
    assert why(refused) == "manifest.json is missing, and this server requires it"


def test_a_bare_models_data_must_have_one_name(kit: SimpleNamespace, tmp_path: Path) -> None:
    root = tmp_path / "models"
    directory = kit.write_version(root / "m/1", {"model.onnx": b"graph", "model.onnx.data": b"weights"}, None)
    seen: list[Mapping[str, bytes]] = []

    def load(graph: bytes, files: Mapping[str, bytes]) -> Session:
        seen.append(dict(files))
        return identity_loader(kit)(graph, files)

    assert only(loaded(kit, root, load)).state is State.READY
    assert seen == [{"model.onnx.data": b"weights"}]
    os.link(directory / "model.onnx.data", tmp_path / "second name")
    assert why(only(loaded(kit, root, load))) == "model.onnx.data has several links"


def test_the_session_is_made_of_the_verified_bytes(kit: SimpleNamespace, tmp_path: Path) -> None:
    files = {"model.onnx": b"graph", "golden.binpb": kit.golden().SerializeToString(), "model.onnx.data": b"weights"}
    kit.write_version(tmp_path / "m/1", files, kit.manifest())
    seen: list[Any] = []

    def load(graph: bytes, given: Mapping[str, bytes]) -> Session:
        seen.append((graph, dict(given)))
        return identity_loader(kit)(graph, given)

    assert only(loaded(kit, tmp_path, load)).state is State.READY
    assert seen == [(b"graph", {"model.onnx.data": b"weights"})]


def test_what_admission_refuses_is_not_loaded(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_identity(tmp_path)

    def admit(_graph: bytes, _files: Mapping[str, bytes]) -> None:
        raise AdmissionError("model.onnx: too large")

    def load(*_: Any) -> Session:
        raise AssertionError("loaded")

    assert why(only(loaded(kit, tmp_path, load, admit=admit))) == "model.onnx: too large"


def test_a_loader_that_breaks_fails_its_version_only(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_identity(tmp_path, version="1")
    kit.write_identity(tmp_path, version="2")
    calls = threading.Lock()
    broken: list[int] = []

    def load(*arguments: Any) -> Session:
        with calls:
            if not broken:
                broken.append(1)
                raise ZeroDivisionError("a defect")
        return identity_loader(kit)(*arguments)

    repository = loaded(kit, tmp_path, load)
    states = sorted(v.state.name for v in repository.entry("m").versions)
    assert states == ["FAILED", "READY"]
    failed = next(v for v in repository.entry("m").versions if v.state is State.FAILED)
    assert why(failed) == "internal error"


def batchable(spec: Spec, output: Spec) -> Callable[..., Session]:
    def load(_graph: bytes, _files: Mapping[str, bytes]) -> Session:
        from dataclasses import dataclass

        @dataclass
        class Bare:
            inputs: list[Spec]
            outputs: list[Spec]

            def run(self, *_: Any) -> list[Tensor]:
                return []

        return Bare([spec], [output])

    return load


def test_batching_needs_open_batch_axes(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_identity(tmp_path)
    x, y = Spec("x", DType.FLOAT, (-1, 2)), Spec("y", DType.FLOAT, (-1, 2))
    fixed = Spec("x", DType.FLOAT, (1, 2))
    assert (
        why(only(loaded(kit, tmp_path, batchable(fixed, y))))
        == 'batching: expected an open axis 0, got input "x", float [1, 2]'
    )
    scalar = Spec("y", DType.FLOAT, ())
    assert (
        why(only(loaded(kit, tmp_path, batchable(x, scalar))))
        == 'batching: expected an open axis 0, got output "y", float []'
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.ParseFromString(b""), "golden.binpb: expected at least 1 case, got 0"),
        (lambda g: setattr(g, "absolute_tolerance", -1), "golden.binpb: expected finite tolerances of at least 0, got -1 and 0"),  # noqa: E501
        (lambda g: setattr(g, "relative_tolerance", np.nan), "golden.binpb: expected finite tolerances of at least 0, got 1e-06 and nan"),  # noqa: E501
        (lambda g: setattr(g, "relative_tolerance", np.inf), "golden.binpb: expected finite tolerances of at least 0, got 1e-06 and inf"),  # noqa: E501
        (lambda g: g.cases[0].predictions.predictions.update({"a": 1.5}), 'golden case 0: prediction "a": expected 1.5, got 1'),  # noqa: E501
        (lambda g: g.cases[0].predictions.predictions.update({"z": 1.5}), 'golden case 0: prediction "z": expected 1.5, got nothing'),  # noqa: E501
        (lambda g: g.cases[0].predictions.outputs["z"].SetInParent(), 'golden case 0: output "z": expected nothing, got nothing'),  # noqa: E501
        (lambda g: g.cases[0].predictions.outputs["row"].float_array.values.append(1), 'golden case 0: output "row": expected other values (1 floats), got other values (2 floats)'),  # noqa: E501
        (lambda g: setattr(g.cases[0].predictions.outputs["row"], "string_value", "x"), 'golden case 0: output "row": expected "x", got other values (2 floats)'),  # noqa: E501
        (lambda g: g.cases[0].features.features.pop("a"), 'golden case 0: feature "a": expected a float, got nothing'),
        (lambda g: g.cases[0].ClearField("predictions"), "golden case 0: expected features and predictions, as for a model of kind tabular"),  # noqa: E501
        (lambda g: g.cases[0].tensors.SetInParent(), "golden case 0: expected features and predictions, as for a model of kind tabular"),  # noqa: E501
    ],
)  # fmt: skip
def test_golden_cases_that_are_missed(
    kit: SimpleNamespace, tmp_path: Path, change: Callable[[golden_pb2.GoldenSet], object], message: str
) -> None:
    golden = kit.golden()
    change(golden)
    files = {"model.onnx": kit.identity(), "golden.binpb": golden.SerializeToString()}
    kit.write_version(tmp_path / "m/1", files, kit.manifest())
    assert why(only(loaded(kit, tmp_path))) == message


def test_golden_bytes_that_are_no_set(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_version(tmp_path / "m/1", {"model.onnx": b"g", "golden.binpb": b"\xff"}, kit.manifest())
    assert why(only(loaded(kit, tmp_path))) == "golden.binpb is no golden set"


def test_golden_numbers_may_be_near_nan_or_infinite(kit: SimpleNamespace, tmp_path: Path) -> None:
    golden = kit.golden(np.nan, -np.inf)
    near = golden.cases.add()
    for name, value in (("a", 1.0), ("b", 2.0)):
        near.features.features[name].float_value = value
        near.predictions.predictions[name] = value + 5e-7
    files = {"model.onnx": kit.identity(), "golden.binpb": golden.SerializeToString()}
    kit.write_version(tmp_path / "m/1", files, kit.manifest())
    assert only(loaded(kit, tmp_path)).state is State.READY


def tensor_golden(answer: float, dtype: int = 1) -> golden_pb2.GoldenSet:
    golden = golden_pb2.GoldenSet(absolute_tolerance=1e-3)
    case = golden.cases.add()
    given, wanted = case.tensors.inputs["x"], case.outputs.outputs["y"]
    given.dtype = wanted.dtype = dtype  # type: ignore[assignment]
    given.shape.extend([1, 2])
    wanted.shape.extend([1, 2])
    given.data = np.array([1, 2], np.float32).tobytes()
    wanted.data = np.array([1, answer], np.float32).tobytes()
    return golden


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: None, None),
        (lambda g: g.CopyFrom(tensor_golden(2.5)), 'golden case 0: output "y": element 1: expected 2.5, got 2'),
        (lambda g: g.cases[0].tensors.inputs["x"].shape.append(1), 'golden case 0: input "x": expected shape [?, 2], got [1, 2, 1]'),  # noqa: E501
        (lambda g: g.cases[0].outputs.outputs["y"].shape.append(1), 'golden case 0: output "y": expected shape [?, 2], got [1, 2, 1]'),  # noqa: E501
        (lambda g: g.cases[0].outputs.outputs["z"].SetInParent(), 'golden case 0: output "z": the graph has no such output'),  # noqa: E501
        (lambda g: setattr(g.cases[0].outputs.outputs["y"], "data", b""), 'golden case 0: output "y": expected 8 bytes of data, got 0'),  # noqa: E501
        (lambda g: g.cases[0].features.SetInParent(), "golden case 0: expected tensors and outputs, as for a model of kind tensor"),  # noqa: E501
    ],
)  # fmt: skip
def test_golden_cases_of_tensors(
    kit: SimpleNamespace, tmp_path: Path, change: Callable[[golden_pb2.GoldenSet], object], message: str | None
) -> None:
    golden = tensor_golden(2.0005)
    change(golden)
    files = {"model.onnx": kit.identity(), "golden.binpb": golden.SerializeToString()}
    kit.write_version(tmp_path / "m/1", files, {"kind": "MODEL_KIND_TENSOR"})
    version = only(loaded(kit, tmp_path))
    if message is None:
        assert version.state is State.READY
    else:
        assert why(version) == message


def test_a_real_package_answers(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_identity(tmp_path)
    version = only(loaded(kit, tmp_path, ort.Runtime().load))
    assert version.model is not None
    plan = version.model.plan()
    answer = inference_service_pb2.PredictResponse()
    row = plan.decode(kit.request(a=0.5, b=-0.0).features)
    plan.encode(version.model.run(row, plan.wanted, Call()), answer)
    assert dict(answer.predictions) == {"a": 0.5, "b": -0.0}


@given(st.binary(max_size=200))
def test_whatever_labels_json_holds_is_read_or_refused(data: bytes) -> None:
    try:
        labels, bad = parse_labels(data)
    except RefusedError:
        return
    assert not set(labels) & set(bad)


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.none())),
    )
)
def test_only_good_labels_are_taken(document: dict[str, Any]) -> None:
    labels, bad = parse_labels(json.dumps(document).encode())
    assert set(labels) | set(bad) == set(document)
    for label, version in labels.items():
        assert str(document[label]) == version
        assert not isinstance(document[label], bool | float)


@given(st.binary(max_size=300))
def test_whatever_a_manifest_holds_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(RefusedError):
        parse_manifest(data)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["kind", "files", "name", "sha256", "sizeBytes", "features", "feature", "x"]),
            inner,
            max_size=4,
        ),
    ),
)


@given(st.dictionaries(st.sampled_from(["kind", "files", "features", "predictions", "batching", "opsets"]), JSON))
def test_whatever_json_a_manifest_holds_is_read_or_refused(document: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        parse_manifest(json.dumps(document).encode())
