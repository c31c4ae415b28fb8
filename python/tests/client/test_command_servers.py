# SPDX-License-Identifier: Apache-2.0
"""The command `concord` against both real servers, with the demo's models and the conformance fixtures.

Right is what ONNX Runtime says in this process, bit for bit. Run after `make build models`.
"""

from __future__ import annotations

import csv
import json
import os
import select
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime loads

import numpy as np
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from concord_client.command.program import program
from sklearn import datasets

ROOT = Path(__file__).resolve().parents[3]
SERVERS = {
    "go": [str(ROOT / "bin" / "inference-server")],
    "python": [sys.executable, "-m", "concord_server"],
}
LIMIT = 90.0

Concord = Callable[..., Result]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's models and the fixtures, side by side."""
    folder = tmp_path_factory.mktemp("models")
    for source in (ROOT / "models" / "breast-cancer", ROOT / "models" / "mixed", ROOT / "conformance" / "fixtures"):
        target = folder if source.name == "fixtures" else folder / source.name
        shutil.copytree(source, target, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="module", params=SERVERS)
def address(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where a real server listens; it is ended by its own process id."""
    command = [*SERVERS[request.param], "--models", str(repository), "--listen", "127.0.0.1:0", "--http", "off"]
    log = tmp_path_factory.mktemp("log") / "server.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, cwd=ROOT)
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], LIMIT)
        line = process.stdout.readline() if ready else b""
        assert line, log.read_text()[-2000:]
        yield json.loads(line)["grpc"]
    finally:
        process.terminate()
        assert process.wait(LIMIT) == 0
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def concord(address: str, monkeypatch: pytest.MonkeyPatch) -> Concord:
    monkeypatch.setenv("CONCORD_SERVER", address)

    def run(*arguments: str | Path, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(program, [str(each) for each in arguments], input=stdin, prog_name="concord")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


def bits(text: str) -> bytes:
    return struct.pack("<f", float(text))


def test_a_file_gets_the_models_own_answers(concord: Concord, repository: Path, tmp_path: Path) -> None:
    cancer = datasets.load_breast_cancer()
    names = [str(name) for name in cancer.feature_names]
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*reversed(names), "diagnosis"])  # any order, and a column that the model does not have
        writer.writerows(
            [*map(repr, map(float, reversed(values))), kind]
            for values, kind in zip(cancer.data, cancer.target, strict=True)
        )
    done = concord("predict", "breast-cancer", "--csv", source, "--out", out, "--keep", "diagnosis", "--chunk", "50")
    assert (done.exit_code, done.stdout) == (0, ""), done.stderr
    assert done.stderr.startswith("569 rows, ")

    package = repository / "breast-cancer" / "1"
    manifest = json.loads((package / "manifest.json").read_text())
    session = onnxruntime.InferenceSession(package / "model.onnx", providers=["CPUExecutionProvider"])
    [feed] = session.get_inputs()
    bindings = sorted(manifest["features"], key=lambda binding: int(binding.get("column", 0)))
    columns = [binding["feature"]["name"] for binding in bindings]
    data = cancer.data[:, [names.index(name) for name in columns]].astype(np.float32)
    outputs = dict(zip([o.name for o in session.get_outputs()], session.run(None, {feed.name: data}), strict=True))
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == [str(i + 1) for i in range(569)]
    assert [row["diagnosis"] for row in rows] == [str(kind) for kind in cancer.target]
    assert {row["error"] for row in rows} == {""}
    for binding in manifest["predictions"]:
        right = outputs[binding["output"]].reshape(569, -1)[:, int(binding.get("index", 0))].astype("<f4")
        assert [bits(row[f"predictions.{binding['prediction']['name']}"]) for row in rows] == [
            each.tobytes() for each in right
        ]


def test_describe_tells_all_that_a_request_needs(concord: Concord) -> None:
    """The features that describe lists, and nothing else, make a request that succeeds, for every model."""
    models = json.loads(concord("models", "--output", "json").stdout)
    samples = {"FLOAT": "0.5", "DOUBLE": "0.5", "INT64": "1", "BOOL": "true", "STRING": "1"}
    asked = 0
    for model in models:
        document = json.loads(concord("describe", model["model_id"], "--output", "json").stdout)
        assert document == model
        for version in document["versions"]:
            if version["version"] != document["default_version"]:
                continue
            arguments = []
            for feature in version["features"]:
                # A generator's features are a choice: one of them is a request.
                if version["kind"] == "MODEL_KIND_GENERATOR" and feature["name"] != "prompt":
                    continue
                kind = feature["type"].removeprefix("FEATURE_TYPE_")
                value = samples[kind]
                if feature["shape"]:
                    length = int(np.prod([2 if int(n) == -1 else int(n) for n in feature["shape"]]))
                    value = json.dumps([json.loads(f'"{value}"' if kind == "STRING" else value)] * length)
                arguments.append(f"{feature['name']}={value}")
            done = concord("predict", model["model_id"], *arguments, "--output", "json")
            if model["model_id"] == "bytes-out":  # 1 gives bytes that are no text, by purpose
                assert done.exit_code == 1
            elif "METHOD_NOT_SUPPORTED" in done.stderr:
                assert version["kind"] == "MODEL_KIND_TENSOR"
            elif "MODEL_EXECUTION_FAILED" in done.stderr:
                # A graph without a manifest may give other than one row for one (Pad, Slice).
                assert version["kind"] == "MODEL_KIND_TENSOR"
                assert not version.get("verified")
            else:
                assert done.exit_code == 0, (model["model_id"], arguments, done.stderr)
                assert json.loads(done.stdout)["model_version"] == version["version"]
                asked += 1
    assert asked >= 25


def test_what_a_person_sees(concord: Concord) -> None:
    shown = concord("models")
    assert shown.exit_code == 0
    lines = {line.split()[0]: line for line in shown.stdout.splitlines()}
    assert lines["version"].split()[1:8] == ["tabular", "10", "1,", "2,", "10", "canary=10,", "gone=7,"]
    assert lines["broken-json"].split() == ["broken-json", "1", "failed"]
    shown = concord("describe", "breast-cancer")
    assert "mean radius" in shown.stdout
    assert "largest difference" in shown.stdout
    assert "concord predict breast-cancer 'mean radius=NUMBER'" in shown.stdout
    assert "failed to load" in concord("describe", "broken-json").stdout
    assert concord("health", "models/mixed").stdout == "SERVING\n"
    assert concord("health", "models/broken-json").stdout == "NOT_SERVING\n"


def test_a_typo_is_told(concord: Concord) -> None:
    done = concord("predict", "breast-cancer", "mean radios=1")
    assert done.exit_code == 2
    assert 'feature "mean radios": the model has no such feature; did you mean "mean radius"?' in done.stderr
    assert 'did you mean "breast-cancer"?' in concord("describe", "breast_cancer").stderr
    assert "The model has versions 1, 2, 10; labels" in concord("predict", "version", "--version", "3").stderr
    done = concord("predict", "mixed")
    assert done.exit_code == 1
    assert done.stderr.count("got nothing") == 4
    assert 'model "broken-json" version 1 failed to load' in concord("predict", "broken-json").stderr


def test_values_of_every_type(concord: Concord) -> None:
    given = {"f": "-inf", "d": "0.1", "i": "-9223372036854775808", "b": "true", "s": "größe=\t✓"}
    done = concord("predict", "types", *(f"{name}={value}" for name, value in given.items()), "--output", "json")
    assert json.loads(done.stdout)["outputs"] == {
        "f": "-Infinity", "d": 0.1, "i": -(2**63), "b": True, "s": "größe=\t✓",
    }  # fmt: skip
    # What came out as JSON can go in again.
    again = json.dumps(json.loads(done.stdout)["outputs"])
    done = concord("predict", "types", "--json", "-", stdin=again)
    assert json.loads(done.stdout)["outputs"] == json.loads(again)
    done = concord("predict", "defaults", "a=1", "--output", "json")
    assert json.loads(done.stdout)["outputs"] == {"i": 7, "row": [1.0, 2.5, -1.0, 0.25], "s": "none"}
    values = ["last=1", "pair=[1, 2]", "first=0", "matrix=[[1, 2, 3], [4, 5, 6]]", "plain=1"]
    done = concord("predict", "columns", *values, "--output", "json")
    assert json.loads(done.stdout)["outputs"]["turned"] == [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]


def test_bad_rows_between_good_ones(concord: Concord) -> None:
    document = json.loads(concord("describe", "fail", "--output", "json").stdout)
    [feature] = document["versions"][0]["features"]
    done = concord("predict", "fail", "--csv", "-", stdin=f"{feature['name']}\n0\nx\n9\n3\n")
    assert done.exit_code == 1
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["error"].split(":")[0] for row in rows] == [
        "",
        "INVALID_ARGUMENT FEATURE_TYPE_MISMATCH",
        "INTERNAL MODEL_EXECUTION_FAILED",
        "",
    ]
    assert "row 3 (line 4): INTERNAL MODEL_EXECUTION_FAILED" in done.stderr


def test_versions_and_labels(concord: Concord) -> None:
    def answered(*arguments: str) -> Any:
        document = json.loads(concord("describe", "version", "--output", "json").stdout)
        names = [f["name"] for f in document["versions"][0]["features"]]
        return json.loads(
            concord("predict", "version", *(f"{n}=1" for n in names), *arguments, "--output", "json").stdout
        )

    assert answered()["model_version"] == "10"
    assert answered("--version", "stable")["model_version"] == "1"
    assert answered("--version", "2", "--request-id", "r 1")["request_id"] == "r 1"
    assert answered("--version", "gone")["error"]["reason"] == "VERSION_NOT_FOUND"
