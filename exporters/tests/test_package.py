# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import onnx
import pytest
from concord_export import package
from concord_export.errors import PackageExistsError, PackageInvalidError, PackageNameError
from concord_export.package import check_model_id, check_version, next_version, read_package, write_package
from concord_export.verification import verify_package
from concord_proto.inference.v1 import model_pb2, tensor_pb2
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper


def identity_model() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def manifest() -> manifest_pb2.Manifest:
    return manifest_pb2.Manifest(
        kind=model_pb2.MODEL_KIND_TENSOR, description="naïve", library_versions={"b": "2", "a": "1"}
    )


def golden() -> golden_pb2.GoldenSet:
    golden = golden_pb2.GoldenSet()
    case = golden.cases.add()
    for tensor in (case.tensors.inputs["x"], case.outputs.outputs["y"]):
        tensor.dtype = tensor_pb2.DATA_TYPE_FLOAT
        tensor.data = b"\x00\x00\x80\x3f\x00\x00\x00\x40"
        tensor.shape.extend([1, 2])
    return golden


def write(directory: Path, **options: object) -> Path:
    write_package(directory, model=identity_model(), manifest=manifest(), golden=golden(), **options)  # type: ignore[arg-type]
    return directory


def visible(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_what_is_written_is_read_and_verified(tmp_path: Path) -> None:
    directory = write(tmp_path / "models" / "identity" / "1", extra_files={"labels.txt": b"a\nb\n"})
    read = read_package(directory)
    assert [file.name for file in read.manifest.files] == ["golden.binpb", "labels.txt", "model.onnx"]
    assert read.manifest.opsets == {"": 21}
    assert read.manifest.producer.startswith("concord-export/")
    assert read.manifest.library_versions["a"] == "1"
    assert read.manifest.library_versions["onnx"] == onnx.__version__
    assert read.golden == golden()
    assert verify_package(directory).golden_cases == 1


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = write(tmp_path / "m" / "1"), write(tmp_path / "m" / "2")
    assert visible(first) == visible(second)
    for name in visible(first):
        assert (first / name).read_bytes() == (second / name).read_bytes()


@pytest.mark.parametrize("model_id", ["", ".m", "a/b", "a b", "ä", "a" * 129, "m\n"])
def test_model_ids_keep_the_grammar(model_id: str) -> None:
    with pytest.raises(PackageNameError):
        check_model_id(model_id)


@pytest.mark.parametrize("version", ["", "0", "01", "-1", "1.0", "v1", "1\n", "٣", "9" * 19])
def test_versions_keep_the_grammar(version: str) -> None:
    with pytest.raises(PackageNameError):
        check_version(version)


@given(st.integers(1, 10**18 - 1))
def test_positive_integers_are_versions(version: int) -> None:
    check_version(str(version))


@pytest.mark.parametrize("name", ["", ".hidden", "../x", "a/b", "manifest.json", "model.onnx", "golden.binpb", "a\0"])
def test_extra_files_keep_the_grammar(tmp_path: Path, name: str) -> None:
    with pytest.raises(PackageNameError):
        write(tmp_path / "m" / "1", extra_files={name: b""})
    assert visible(tmp_path) == []


def test_an_existing_version_stays(tmp_path: Path) -> None:
    directory = write(tmp_path / "m" / "1")
    before = (directory / "manifest.json").read_bytes()
    with pytest.raises(PackageExistsError, match="is there already"):
        write(directory, extra_files={"more": b"1"})
    assert (directory / "manifest.json").read_bytes() == before
    write(directory, extra_files={"more": b"1"}, replace=True)
    assert (read_package(directory).directory / "more").read_bytes() == b"1"
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_version_that_appears_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "m" / "1")
    real = package._publish

    def publish(staging: Path, directory: Path, *, replace: bool) -> None:
        directory.mkdir()
        (directory / "theirs").write_bytes(b"")
        real(staging, directory, replace=replace)

    monkeypatch.setattr(package, "_publish", publish)
    with pytest.raises(PackageExistsError):
        write(tmp_path / "m" / "2")
    assert visible(tmp_path / "m" / "2") == ["theirs"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("step", range(6))
def test_a_crash_leaves_nothing_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, existing: bool
) -> None:
    """Every write and sync is a place to crash; a process that dies leaves only names that begin with a dot."""
    if existing:
        write(tmp_path / "m" / "1")
    before = visible(tmp_path)
    calls = 0
    real = os.fsync

    def crash(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            # The last sync comes after the rename: then the package is whole.
            seen = [name for name in visible(tmp_path) if not name.startswith(".m.2.")]
            assert step == 5 or seen == before
            raise KeyboardInterrupt
        real(descriptor)

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "m" / "2")
    monkeypatch.undo()
    if step < 5:
        assert visible(tmp_path) == before
    else:
        assert read_package(tmp_path / "m" / "2").manifest.files


def test_a_failed_replacement_brings_the_old_version_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write(tmp_path / "m" / "1")
    before = (directory / "manifest.json").read_bytes()
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if Path(target) == directory and self.name == "1":
            raise PermissionError("no")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(PermissionError):
        write(directory, replace=True, extra_files={"more": b""})
    monkeypatch.undo()
    assert (read_package(directory).directory / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden.binpb", "labels.txt"])
@pytest.mark.parametrize("how", ["flip", "cut", "grow", "remove", "link", "directory"])
def test_tampering_is_found(tmp_path: Path, name: str, how: str) -> None:
    directory = write(tmp_path / "m" / "1", extra_files={"labels.txt": b"a\nb\n"})
    path = directory / name
    data = path.read_bytes()
    path.unlink()
    if how == "flip":
        # In the manifest: a digit of a hash.
        at = data.index(b'"sha256": "') + 11 if name == "manifest.json" else len(data) // 2
        path.write_bytes(data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :])
    elif how == "cut":
        path.write_bytes(data[:-3])
    elif how == "grow":
        path.write_bytes(data + b"x")
    elif how == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    elif how == "directory":
        path.mkdir()
    with pytest.raises(PackageInvalidError, match=r"manifest|model\.onnx|golden\.binpb|labels\.txt"):
        verify_package(directory)


def test_an_unlisted_file_is_found(tmp_path: Path) -> None:
    directory = write(tmp_path / "m" / "1")
    (directory / ".extra").write_bytes(b"")
    with pytest.raises(PackageInvalidError, match=r"\.extra: is not in the manifest"):
        read_package(directory)


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    directory = write(tmp_path / "m" / "1")
    (directory / "model.onnx").unlink()
    os.mkfifo(directory / "model.onnx")
    with pytest.raises(PackageInvalidError, match=r"model\.onnx: is no regular file"):
        read_package(directory)


def test_a_linked_version_is_refused(tmp_path: Path) -> None:
    directory = write(tmp_path / "m" / "1")
    (tmp_path / "m" / "2").symlink_to(directory)
    with pytest.raises(PackageInvalidError, match="is a link"):
        read_package(tmp_path / "m" / "2")
    with pytest.raises(PackageNameError, match="links"):
        write(tmp_path / "m" / "2", replace=True)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"kind"', '"kindness"', "kindness"),
        ('"kind": "MODEL_KIND_TENSOR",', "", "kind is not set"),
        ('"kind": "MODEL_KIND_TENSOR",', '"kind": "MODEL_KIND_TENSOR", "kind": "MODEL_KIND_TENSOR",', "duplicate"),
        ('"model.onnx"', '"../model.onnx"', "no name of a package's file"),
        ('"golden.binpb"', '"model.onnx"', "listed twice"),
        ("{", "[", "manifest.json"),
    ],
)
def test_manifests_are_read_strictly(tmp_path: Path, old: str, new: str, message: str) -> None:
    directory = write(tmp_path / "m" / "1")
    text = (directory / "manifest.json").read_text()
    assert old in text
    (directory / "manifest.json").write_text(text.replace(old, new, 1))
    with pytest.raises(PackageInvalidError, match=message):
        read_package(directory)


def test_a_package_that_no_server_takes_needs_a_word(tmp_path: Path) -> None:
    arguments = {"model": identity_model(), "manifest": manifest_pb2.Manifest(), "golden": golden_pb2.GoldenSet()}
    with pytest.raises(PackageInvalidError, match="kind is not set"):
        write_package(tmp_path / "m" / "1", **arguments)  # type: ignore[arg-type]
    assert visible(tmp_path) == []
    write_package(tmp_path / "m" / "1", check=False, **arguments)  # type: ignore[arg-type]
    with pytest.raises(PackageInvalidError, match="kind is not set"):
        read_package(tmp_path / "m" / "1")


def test_a_wrong_golden_answer_is_found(tmp_path: Path) -> None:
    wrong = golden()
    wrong.cases[0].outputs.outputs["y"].data = b"\x00\x00\x80\x3f\x00\x00\x80\x3f"
    write_package(tmp_path / "m" / "1", model=identity_model(), manifest=manifest(), golden=wrong)
    with pytest.raises(PackageInvalidError, match='golden case 0: output "y": expected'):
        verify_package(tmp_path / "m" / "1")


def test_next_version(tmp_path: Path) -> None:
    assert next_version(tmp_path / "m") == "1"
    for version in ("2", "10", ".11.x", "v12"):
        (tmp_path / "m" / version).mkdir(parents=True)
    assert next_version(tmp_path / "m") == "11"
