# SPDX-License-Identifier: Apache-2.0
"""Fixtures that a server must refuse, each for one reason, and directories that are none of its business."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from build_fixtures import (
    BOOL,
    FLOAT,
    STRING,
    feature,
    golden,
    graph,
    identity_golden,
    identity_graph,
    identity_manifest,
    manifest,
    node,
    number,
    output,
    prediction,
    tensor,
    text,
    truth,
)
from concord_export.package import write_package
from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2
from onnx import TensorProto


def write_broken(root: Path) -> None:
    """All of them, and half-broken, whose first version is sound."""
    _write_edited(root)
    _write_bad_files(root)
    _write_bad_bindings(root)
    _write_bad_graphs(root)
    package(root, "half-broken")
    package(root, "half-broken", version="2")
    edit(root / "half-broken" / "2", _other_sha256)
    _write_ignored(root)


def package(
    root: Path,
    model_id: str,
    *,
    version: str = "1",
    model: onnx.ModelProto | None = None,
    by: manifest_pb2.Manifest | None = None,
    proof: golden_pb2.GoldenSet | None = None,
    extra_files: dict[str, bytes] | None = None,
) -> Path:
    """A package, sound unless told otherwise, that is not checked; its directory."""
    directory = root / model_id / version
    write_package(
        directory,
        model=model if model is not None else identity_graph(),
        manifest=by if by is not None else identity_manifest(),
        golden=proof if proof is not None else identity_golden(),
        extra_files=extra_files or {},
        check=False,
    )
    return directory


def edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes a package's manifest.json behind the writer's back."""
    path = directory / "manifest.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def replace(directory: Path, name: str, data: bytes) -> None:
    """Changes a file of a package and what the manifest says of it."""
    (directory / name).write_bytes(data)

    def rehash(document: dict[str, Any]) -> None:
        entry = _file(document, name)
        entry["sha256"], entry["sizeBytes"] = hashlib.sha256(data).hexdigest(), str(len(data))

    edit(directory, rehash)


def _file(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in document["files"] if entry["name"] == name)
    return found


def _other_sha256(document: dict[str, Any]) -> None:
    entry = _file(document, "model.onnx")
    entry["sha256"] = ("1" if entry["sha256"][0] == "0" else "0") + entry["sha256"][1:]


def _write_edited(root: Path) -> None:
    edit(package(root, "broken-sha256"), _other_sha256)

    def longer(document: dict[str, Any]) -> None:
        entry = _file(document, "model.onnx")
        entry["sizeBytes"] = str(int(entry["sizeBytes"]) + 1)

    edit(package(root, "broken-size"), longer)
    edit(package(root, "broken-unknown-field"), lambda document: document.update(surprise=1))

    def outside(document: dict[str, Any]) -> None:
        document["files"].append({"name": "../../identity/1/model.onnx", "sha256": "0" * 64, "sizeBytes": "1"})

    edit(package(root, "broken-file-name"), outside)

    def without_golden(document: dict[str, Any]) -> None:
        document["files"].remove(_file(document, "golden.binpb"))

    directory = package(root, "broken-no-golden")
    edit(directory, without_golden)
    (directory / "golden.binpb").unlink()
    directory = package(root, "broken-json")
    (directory / "manifest.json").write_text('{"kind": "MODEL_KIND_TABULAR",\n', encoding="utf-8")


def _write_bad_files(root: Path) -> None:
    directory = package(root, "broken-missing-file", extra_files={"vocabulary.txt": b"a\nb\n"})
    (directory / "vocabulary.txt").unlink()
    (package(root, "broken-unlisted-file") / "notes.txt").write_text("not in the manifest\n", encoding="utf-8")
    package(root, "broken-golden", proof=golden(({"x": number(1)}, {"y": 2}, {})))
    replace(package(root, "broken-golden-bytes"), "golden.binpb", b"\xff\xff\xff")
    replace(package(root, "broken-not-onnx"), "model.onnx", b"<html>this is no model</html>\n")
    whole = identity_graph().SerializeToString(deterministic=True)
    replace(package(root, "broken-half-onnx"), "model.onnx", whole[: len(whole) // 2])


def _write_bad_bindings(root: Path) -> None:
    package(
        root,
        "broken-unknown-input",
        by=manifest("Bound to an input that the graph lacks.", [feature("x", FLOAT, to="z")], [prediction("y")]),
    )
    two = graph(
        [tensor("x", TensorProto.FLOAT, "N", 2)],
        [tensor("y", TensorProto.FLOAT, "N", 2)],
        [node("Identity", ["x"], ["y"])],
    )
    package(
        root,
        "broken-unbound-column",
        model=two,
        by=manifest("Column 1 of x has no feature.", [feature("x", FLOAT)], [prediction("y")]),
    )
    package(
        root,
        "broken-column-twice",
        model=two,
        by=manifest(
            "Column 0 of x has two features.",
            [feature("a", FLOAT, to="x"), feature("b", FLOAT, to="x"), feature("c", FLOAT, to="x", column=1)],
            [prediction("y")],
        ),
        proof=golden(({"a": number(1), "b": number(1), "c": number(1)}, {"y": 1}, {})),
    )
    package(
        root,
        "broken-feature-type",
        by=manifest("A text for a float tensor.", [feature("x", STRING)], [prediction("y")]),
        proof=golden(({"x": text("1")}, {"y": 1}, {})),
    )
    package(
        root,
        "broken-unknown-output",
        by=manifest("A prediction from an output that the graph lacks.", [feature("x", FLOAT)], [prediction("y", "z")]),
    )
    package(
        root,
        "broken-index",
        by=manifest("A prediction from beyond the row.", [feature("x", FLOAT)], [prediction("y", index=5)]),
    )
    package(
        root,
        "broken-bool-prediction",
        model=graph(
            [tensor("x", TensorProto.BOOL, "N", 1)],
            [tensor("y", TensorProto.BOOL, "N", 1)],
            [node("Identity", ["x"], ["y"])],
        ),
        by=manifest("A prediction from bools, which are no numbers.", [feature("x", BOOL)], [prediction("y")]),
        proof=golden(({"x": truth(True)}, {"y": 1}, {})),
    )
    without_default = feature("x", FLOAT)
    without_default.feature.required = False
    package(
        root,
        "broken-no-default",
        by=manifest("Neither required nor with a default.", [without_default], [prediction("y")]),
    )
    package(root, "broken-kind", by=manifest("No kind.", [feature("x", FLOAT)], [prediction("y")], kind=0))


def _write_bad_graphs(root: Path) -> None:
    package(
        root,
        "broken-sequence",
        model=graph(
            [tensor("x", TensorProto.FLOAT, "N", 1)],
            [onnx.helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, ["N", 1])],
            [node("SequenceConstruct", ["x"], ["y"])],
        ),
        by=manifest("A sequence comes out.", [feature("x", FLOAT)], [], [output("y", FLOAT, [-1])]),
    )
    package(
        root,
        "broken-float8",
        model=graph(
            [tensor("x", TensorProto.FLOAT8E4M3FN, "N", 1)],
            [tensor("y", TensorProto.FLOAT, "N", 1)],
            [node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        ),
        by=manifest("An 8-bit float goes in.", [feature("x", FLOAT)], [prediction("y")]),
    )
    package(
        root,
        "broken-operator",
        model=graph(
            [tensor("x", TensorProto.FLOAT, "N", 1)],
            [tensor("y", TensorProto.FLOAT, "N", 1)],
            [node("Frobnicate", ["x"], ["y"], domain="com.example")],
            domains={"com.example": 1},
        ),
    )
    # A kind that no server can load from these files: there is no tokenizer.
    package(
        root,
        "broken-generator",
        by=manifest(
            "A generator without a tokenizer.",
            [feature("x", FLOAT)],
            [prediction("y")],
            kind=model_pb2.MODEL_KIND_GENERATOR,
        ),
    )


def _write_ignored(root: Path) -> None:
    """Directories whose names are no model id or no version: a server leaves them out."""
    package(root, "odd-names")
    for name in ("01", "v2"):
        package(root, "odd-names", version="9").rename(root / "odd-names" / name)
    package(root, "temporary").rename(root / "temporary" / "keep")
    (root / "temporary").rename(root / "_odd")
    (root / "_odd" / "keep").rename(root / "_odd" / "1")
