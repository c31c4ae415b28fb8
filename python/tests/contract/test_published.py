# SPDX-License-Identifier: Apache-2.0
"""A client that knows only fields 1 to 4 of the published messages gets right answers from both servers.

Right is what ONNX Runtime says in this process, bit for bit. Run after `make build models`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime loads

import numpy as np
import onnxruntime
import pytest
from concord_client import Answer, Client, InvalidArgumentError
from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import manifest_pb2
from google.protobuf import json_format
from sklearn import datasets

ROOT = Path(__file__).resolve().parents[3]
HERE = Path(__file__).resolve().parent
SERVERS = {
    "go": [str(ROOT / "bin" / "inference-server")],
    "python": [sys.executable, "-m", "concord_server"],
}
PACKAGES = {
    "breast-cancer": ROOT / "models" / "breast-cancer",
    "mixed": ROOT / "models" / "mixed",
    "columns": ROOT / "conformance" / "fixtures" / "columns",  # scalars and arrays
}
TEXTS = {"tiny-chat": ROOT / "conformance" / "fixtures" / "tiny-chat"}
DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(string)": np.object_}
Row = dict[str, Any]


def real_rows() -> dict[str, list[Row]]:
    """Rows of the models' own data, and some for the fixture."""
    cancer, iris = datasets.load_breast_cancer(), datasets.load_iris()
    lengths = list(iris.feature_names[:3])
    random = np.random.default_rng(7)

    def some(*shape: int) -> Any:
        return random.normal(size=shape).astype(np.float32).tolist()

    return {
        "breast-cancer": [
            dict(zip(map(str, cancer.feature_names), map(float, values), strict=True)) for values in cancer.data[::5]
        ],
        "mixed": [
            {"species": str(iris.target_names[kind]), **dict(zip(lengths, map(float, values[:3]), strict=True))}
            for values, kind in zip(iris.data[::3], iris.target[::3], strict=True)
        ],
        "columns": [
            {"first": some(), "last": some(), "plain": some(), "pair": some(2), "matrix": some(6)} for _ in range(20)
        ],
    }


def expected(package: Path, rows: list[Row]) -> list[dict[str, str]]:
    """The predictions of ONNX Runtime for each row by itself, bound as the package's manifest says."""
    manifest = json_format.Parse((package / "1" / "manifest.json").read_text(), manifest_pb2.Manifest())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(package / "1" / "model.onnx", options, providers=["CPUExecutionProvider"])
    answers = []
    for row in rows:
        feeds = {
            i.name: np.zeros([1, *(1 if isinstance(n, str) else n for n in i.shape[1:])], DTYPES[i.type])
            for i in session.get_inputs()
        }
        for binding in manifest.features:
            feed = feeds[binding.input].reshape(-1)  # a view: writing here writes there
            value = np.asarray(row[binding.feature.name]).reshape(-1)
            if binding.feature.type != model_pb2.FEATURE_TYPE_STRING:
                value = value.astype(np.float32)  # what the wire carries
            feed[binding.column : binding.column + value.size] = value
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, feeds), strict=True))
        answers.append(
            {
                p.prediction.name: float(np.float32(outputs[p.output].reshape(-1)[p.index])).hex()
                for p in manifest.predictions
            }
        )
    return answers


@pytest.fixture(scope="module")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stubs made from published.proto, in a folder of their own."""
    folder = tmp_path_factory.mktemp("stubs")
    command = ["-m", "grpc_tools.protoc", f"-I{HERE}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
    subprocess.run([sys.executable, *command, "published.proto"], check=True, cwd=HERE, timeout=60)
    shutil.copy(HERE / "published_client.py", folder)
    return folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for model_id, package in {**PACKAGES, **TEXTS}.items():
        shutil.copytree(package, folder / model_id)
    return folder


@pytest.fixture(params=SERVERS)
def address(request: pytest.FixtureRequest, repository: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a real server with the models, ended by its own process id."""
    command = [*SERVERS[request.param], "--models", str(repository), "--listen", "127.0.0.1:0", "--http", "off"]
    log = tmp_path / "server.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT)
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        assert ready, f"the server did not start: {log.read_text()[-2000:]}"
        yield json.loads(ready)["grpc"]
    finally:
        process.terminate()
        try:
            assert process.wait(timeout=30) == 0
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()


def test_a_client_of_the_published_contract(address: str, stubs: Path) -> None:
    rows = real_rows()
    finished = subprocess.run(
        [sys.executable, str(stubs / "published_client.py")],
        input=json.dumps({"address": address, "models": rows}),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)

    assert told["health"] == "SERVING"
    for model_id, package in PACKAGES.items():
        right = expected(package, rows[model_id])
        assert len(right) == len(rows[model_id]) > 0
        singles, batch = told["singles"][model_id], told["batches"][model_id]
        assert [answer["predictions"] for answer in singles] == right
        assert [answer["predictions"] for answer in batch[:-1]] == right
        assert batch[-1] == 3  # INVALID_ARGUMENT, and only this one
        for answers in (singles, batch[:-1]):
            assert [answer["request_id"] for answer in answers] == [f"{model_id} {i} ✓" for i in range(len(right))]
            assert {answer["model_version"] for answer in answers} == {"1"}
            assert all(answer["latency_ms"] > 0 for answer in answers)
    for messages in told["streams"]:
        # One message a token, the last one says how many there were.
        assert [index for _, _, index in messages] == list(range(len(messages)))
        assert [final for _, final, _ in messages] == [False] * (len(messages) - 1) + [True]
        assert messages[-1][0] == ""
    assert "".join(token for token, _, _ in told["streams"][0]) == "The capital of France is Paris."
    assert told["failures"] == {
        "unknown model": "NOT_FOUND",
        "unknown feature": "INVALID_ARGUMENT",
        "stream of a classifier": "FAILED_PRECONDITION",
    }


def test_our_own_client(address: str) -> None:
    """The Python client, with numpy's values and whole numbers as integers, gets the same answers."""
    rows = real_rows()
    with Client(address) as client:
        assert [model.model_id for model in client.models()] == sorted({**PACKAGES, **TEXTS})
        for model_id, package in PACKAGES.items():
            features = [
                {
                    name: value if isinstance(value, str) else int(value) if value in (3, 5) else np.asarray(value)
                    for name, value in row.items()
                }
                for row in rows[model_id]
            ]
            answers = client.predict_batch(model_id, features)
            got = [answer.predictions for answer in answers if isinstance(answer, Answer)]
            right = expected(package, rows[model_id])
            assert [{name: value.hex() for name, value in one.items()} for one in got] == right
            assert client.predict(model_id, features[0]).predictions == got[0]
        answer = client.predict("breast-cancer", rows["breast-cancer"][0])
        assert answer.label == "malignant"
        with pytest.raises(InvalidArgumentError) as caught:
            client.predict("mixed", {"species": 3, "colour": "blue"})
        assert caught.value.reason == "FEATURE_TYPE_MISMATCH"
        assert caught.value.violations[0].field == 'features["species"]'
        assert caught.value.violations[-1].field == 'features["colour"]'
