# SPDX-License-Identifier: Apache-2.0
"""Graphs, packages, a session that plays ONNX Runtime, and servers in this process and in their own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_proto.inference.v1 import inference_service_pb2, model_pb2
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2
from concord_server.model import Call, SessionError
from concord_server.tensor import DType, Spec, Tensor
from google.protobuf import json_format
from onnx import TensorProto, helper

LIMIT = 20.0  # seconds that a test waits for what should happen at once


@dataclass
class FakeSession:
    """Plays ONNX Runtime: `work` makes all outputs from all inputs. It keeps what it was given."""

    inputs: Sequence[Spec]
    outputs: Sequence[Spec]
    work: Callable[[Sequence[Tensor]], list[Tensor]]
    runs: list[Sequence[Tensor]] = field(default_factory=list)

    def run(self, inputs: Sequence[Tensor], wanted: Sequence[int], call: Call) -> list[Tensor]:
        call.begin(lambda: None)
        self.runs.append(inputs)
        outputs = self.work(inputs)
        return [outputs[i] for i in wanted]


class Gate(FakeSession):
    """Runs until it is told to end or its call is cancelled."""

    def __init__(self, inputs: Sequence[Spec], outputs: Sequence[Spec]) -> None:
        super().__init__(inputs, outputs, lambda given: list(given))
        self.begun = threading.Event()
        self.open = threading.Event()
        self.terminated = threading.Event()

    def run(self, inputs: Sequence[Tensor], wanted: Sequence[int], call: Call) -> list[Tensor]:
        def terminate() -> None:
            self.terminated.set()
            self.open.set()

        call.begin(terminate)
        self.begun.set()
        assert self.open.wait(LIMIT)
        call.check()
        return super().run(inputs, wanted, call)


def floats(*values: Any, rows: int = 1) -> Tensor:
    """A tensor of float32 with a batch axis."""
    return Tensor(DType.FLOAT, np.array(values, np.float32).reshape(rows, -1))


def doubling(columns: int = 2) -> FakeSession:
    """y = 2 x, row by row; a row that holds -1 fails the whole run."""

    def work(given: Sequence[Tensor]) -> list[Tensor]:
        if (given[0].array == -1).any():
            raise SessionError("Non-zero status code: x must not be -1, see /opt/models/x.cc at 0x7ffe")
        return [Tensor(DType.FLOAT, given[0].array * np.float32(2))]

    spec = Spec("x", DType.FLOAT, (-1, columns))
    return FakeSession([spec], [Spec("y", DType.FLOAT, (-1, columns))], work)


def graph(
    nodes: Sequence[Any],
    inputs: Sequence[tuple[str, int, Sequence[Any] | None]],
    outputs: Sequence[tuple[str, int, Sequence[Any] | None]],
    initializers: Sequence[Any] = (),
    opset: int = 21,
) -> bytes:
    """A serialized ONNX model."""
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        list(initializers),
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return bytes(model.SerializeToString())


def identity(dtype: int = TensorProto.FLOAT, shape: Sequence[Any] | None = (None, 2)) -> bytes:
    """y = x."""
    return graph([helper.make_node("Identity", ["x"], ["y"])], [("x", dtype, shape)], [("y", dtype, shape)])


def manifest(**changes: Any) -> dict[str, Any]:
    """A manifest of identity(): features a and b, predictions a and b, the row as output."""
    document: dict[str, Any] = {
        "kind": "MODEL_KIND_TABULAR",
        "features": [
            {"feature": {"name": name, "type": "FEATURE_TYPE_FLOAT", "required": True}, "input": "x", "column": column}
            for column, name in enumerate("ab")
        ],
        "predictions": [{"prediction": {"name": name}, "output": "y", "index": i} for i, name in enumerate("ab")],
        "outputs": [{"output": {"name": "row", "type": "FEATURE_TYPE_FLOAT", "shape": [2]}, "onnxOutput": "y"}],
        "batching": {"batchable": True},
    }
    document.update(changes)
    return document


def golden(a: float = 1.0, b: float = 2.0, /, **expected: float) -> golden_pb2.GoldenSet:
    """One case for identity(): a and b in, a and b out unless something else is expected."""
    made = golden_pb2.GoldenSet(absolute_tolerance=1e-6)
    case = made.cases.add()
    for name, value in (("a", a), ("b", b)):
        case.features.features[name].float_value = value
        case.predictions.predictions[name] = expected.get(name, value)
    return made


def write_version(directory: Path, files: Mapping[str, bytes], document: Mapping[str, Any] | None) -> Path:
    """Writes a version's directory; a manifest is completed with the files' hashes."""
    directory.mkdir(parents=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    if document is not None:
        listed = [
            {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "sizeBytes": str(len(data))}
            for name, data in files.items()
        ]
        (directory / "manifest.json").write_text(json.dumps({"files": listed, **document}))
    return directory


def write_identity(root: Path, model_id: str = "m", version: str = "1", **changes: Any) -> Path:
    """Writes a good package of identity(); changes go into the manifest."""
    files = {"model.onnx": identity(), "golden.binpb": golden().SerializeToString()}
    return write_version(root / model_id / version, files, manifest(**changes))


def parse_manifest(document: Mapping[str, Any]) -> manifest_pb2.Manifest:
    """A manifest from its proto JSON."""
    return json_format.ParseDict(dict(document), manifest_pb2.Manifest())


def request(model_id: str = "m", version: str = "", request_id: str = "", **features: Any) -> Any:
    """A PredictRequest; the kind of each value follows its Python type."""
    made = inference_service_pb2.PredictRequest(model_id=model_id, model_version=version, request_id=request_id)
    for name, value in features.items():
        set_value(made.features[name], value)
    return made


def set_value(value: Any, given: Any) -> None:
    """Sets the kind of a FeatureValue that the Python type stands for; None sets none."""
    match given:
        case bool():
            value.bool_value = given
        case int():
            value.int64_value = given
        case np.float64():
            value.double_value = given
        case float():
            value.float_value = given
        case str():
            value.string_value = given
        case list() | tuple():
            kind = {float: "float_array", int: "int64_array", str: "string_array"}[type(given[0]) if given else float]
            getattr(value, kind).values.extend(given)
            getattr(value, kind).SetInParent()


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Polls until the condition holds; fails after the limit."""
    end = time.monotonic() + LIMIT
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, f"{what} did not hold within {LIMIT} s"
        pause.wait(0.01)


@pytest.fixture
def kit() -> SimpleNamespace:
    """All of the above, since test modules cannot import each other."""
    return SimpleNamespace(
        LIMIT=LIMIT,
        FakeSession=FakeSession,
        Gate=Gate,
        floats=floats,
        doubling=doubling,
        graph=graph,
        identity=identity,
        manifest=manifest,
        golden=golden,
        write_version=write_version,
        write_identity=write_identity,
        parse_manifest=parse_manifest,
        request=request,
        set_value=set_value,
        wait_until=wait_until,
        tabular=model_pb2.MODEL_KIND_TABULAR,
    )


@dataclass
class Process:
    """A server in a process of its own."""

    popen: subprocess.Popen[str]
    ready: dict[str, Any]
    errors: Path

    @property
    def target(self) -> str:
        """Where it answers."""
        return str(self.ready["grpc"])

    def log(self) -> list[dict[str, Any]]:
        """The lines on stderr so far; each must be a JSON object."""
        return [json.loads(line) for line in self.errors.read_text().splitlines()]

    def end(self) -> int:
        """Asks it to stop and gives its exit code."""
        self.popen.terminate()
        return self.popen.wait(LIMIT)


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts servers on free ports; those that still run are ended."""
    started: list[subprocess.Popen[str]] = []

    def start(models: Path, *arguments: str, code: Sequence[str] = ("-m", "concord_server")) -> Process:
        errors = tmp_path / f"stderr.{len(started)}"
        command = [sys.executable, *code, "--models", os.fspath(models), *arguments]
        if "--listen" not in arguments:
            command += ["--listen", "127.0.0.1:0"]
        if "--http" not in arguments:
            command += ["--http", "127.0.0.1:0"]
        with errors.open("w") as stream:
            popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
        started.append(popen)
        assert popen.stdout is not None
        line = popen.stdout.readline()
        assert line, errors.read_text()
        return Process(popen, json.loads(line), errors)

    yield start
    for popen in started:
        with contextlib.suppress(ProcessLookupError):
            popen.kill()
        popen.wait(LIMIT)
        if popen.stdout is not None:
            popen.stdout.close()
