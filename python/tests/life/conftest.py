# SPDX-License-Identifier: Apache-2.0
"""Both servers as processes, and a model whose answers tell which version gave them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime loads

import grpc
import numpy as np
import pytest
from concord_proto.inference.v1 import inference_service_pb2
from concord_proto.modelpackage.v1 import golden_pb2
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[3]
SERVERS = {
    "go": [os.environ.get("CONCORD_GO_SERVER", str(ROOT / "bin/inference-server"))],
    "python": [sys.executable, "-m", "concord_server"],
}
LIMIT = 60.0  # seconds that a test waits for what should take one

PREDICT = "/inference.v1.InferenceService/Predict"
RETRYING = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "waitForReady": True,
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
"""What a client of a service says in its service config."""


def graph(mark: int) -> bytes:
    """`sum` = x + mark, and `mark` = 0 x + mark: one version's answers do not go with another's."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("x", "sum", "mark")]
    nodes = [
        helper.make_node("Add", ["x", "m"], ["sum"]),
        helper.make_node("Mul", ["x", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "m"], ["mark"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([number], np.float32), name) for name, number in (("m", mark), ("zero", 0))
    ]
    made = helper.make_graph(nodes, "g", value[:1], value[1:], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def write(directory: Path, mark: int, *, golden: int | None = None) -> None:
    """Writes a package whose answers bear the mark; its golden case expects `golden` where that differs."""
    directory.mkdir(parents=True)
    wanted = golden_pb2.GoldenSet(absolute_tolerance=1e-6)
    case = wanted.cases.add()
    case.features.features["x"].float_value = 1
    case.predictions.predictions["sum"] = 1 + (mark if golden is None else golden)
    files = {"model.onnx": graph(mark), "golden.binpb": wanted.SerializeToString()}
    document = {
        "kind": "MODEL_KIND_TABULAR",
        "features": [
            {"feature": {"name": "x", "type": "FEATURE_TYPE_FLOAT", "required": True}, "input": "x", "column": 0}
        ],
        "predictions": [{"prediction": {"name": name}, "output": name, "index": 0} for name in ("sum", "mark")],
        "batching": {"batchable": True},
        "files": [
            {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "sizeBytes": str(len(data))}
            for name, data in files.items()
        ],
    }
    for name, data in files.items():
        (directory / name).write_bytes(data)
    (directory / "manifest.json").write_text(json.dumps(document))


def request(x: float, model_id: str = "m", request_id: str = "", version: str = "") -> bytes:
    """A request, packed."""
    made = inference_service_pb2.PredictRequest(model_id=model_id, model_version=version, request_id=request_id)
    made.features["x"].float_value = x
    data: bytes = made.SerializeToString()
    return data


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
        """The whole lines on stderr so far; each must be a JSON object."""
        return [json.loads(line) for line in self.errors.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def lines(self, message: str) -> list[dict[str, Any]]:
        """The log's lines of this message."""
        return [line for line in self.log() if line["msg"] == message]

    def end(self) -> int:
        """Asks it to stop and gives its exit code."""
        self.popen.terminate()
        return self.popen.wait(LIMIT)


Start = Callable[..., Process]


@pytest.fixture(params=SERVERS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts servers of one kind; those that still run are ended."""
    started: list[subprocess.Popen[str]] = []

    def run(models: Path, *arguments: str, listen: str = "127.0.0.1:0") -> Process:
        errors = tmp_path / f"stderr.{len(started)}"
        command = [*SERVERS[request.param], "--models", os.fspath(models), *arguments]
        command += ["--listen", listen] if listen else []
        command += [] if "--http" in arguments else ["--http", "off"]
        command += ["--admission-cache", os.fspath(tmp_path / "cache")]
        with errors.open("w") as stream:
            popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stream, text=True)
        started.append(popen)
        assert popen.stdout is not None
        line = popen.stdout.readline()
        assert line, errors.read_text()
        return Process(popen, json.loads(line), errors)

    yield run
    for popen in started:
        with contextlib.suppress(ProcessLookupError):
            popen.kill()
        popen.wait(LIMIT)
        if popen.stdout is not None:
            popen.stdout.close()


def until(what: str, holds: Callable[[], Any], limit: float = LIMIT) -> None:
    """Waits for a condition, not for time."""
    end = time.monotonic() + limit
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.002)


@dataclass
class Answered:
    """What came of one request."""

    code: grpc.StatusCode
    details: str
    x: float
    mark: float = 0
    sum: float = 0

    @property
    def whole(self) -> bool:
        """Whether the answer is one version's."""
        return self.code is grpc.StatusCode.OK and self.sum == self.x + self.mark


async def ask(
    channel: grpc.aio.Channel, x: float, *, request_id: str = "", version: str = "", seconds: float = LIMIT
) -> Answered:
    """Asks once. `x` is a small whole number, so that sums are exact."""
    try:
        packed = request(x, request_id=request_id, version=version)
        data = await channel.unary_unary(PREDICT)(packed, timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return Answered(error.code(), error.details() or "", x)
    answer = inference_service_pb2.PredictResponse.FromString(data).predictions
    return Answered(grpc.StatusCode.OK, "", x, answer["mark"], answer["sum"])


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """What the tests share."""
    return SimpleNamespace(
        LIMIT=LIMIT,
        PREDICT=PREDICT,
        RETRYING=RETRYING,
        write=write,
        request=request,
        until=until,
        ask=ask,
        graph=graph,
        options=options,
    )


def options(retry: bool, *more: tuple[str, Any]) -> Sequence[tuple[str, Any]]:
    """Of a channel that shares no connection with another."""
    config = [("grpc.service_config", RETRYING)] if retry else [("grpc.enable_retries", 0)]
    return [("grpc.use_local_subchannel_pool", 1), *config, *more]
