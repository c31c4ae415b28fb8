# SPDX-License-Identifier: Apache-2.0
"""A repository full of hostile graphs: each is refused as its verdict says, and the process serves on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from concord_proto.inference.v1 import (
    inference_service_pb2_grpc,
    model_catalog_service_pb2,
    model_catalog_service_pb2_grpc,
    model_pb2,
)

FOLDER = Path(__file__).resolve().parents[3] / "conformance" / "admission"
VERDICTS = dict(line.split(": ", 1) for line in (FOLDER / "verdicts.txt").read_text().splitlines())


def errors(channel: grpc.Channel) -> dict[str, str]:
    """What the catalog says of each model: its error, or nothing where it is ready."""
    stub = model_catalog_service_pb2_grpc.ModelCatalogServiceStub(channel)
    models = stub.ListModels(model_catalog_service_pb2.ListModelsRequest(page_size=1000), timeout=20).models
    found = {}
    for model in models:
        (version,) = model.versions
        assert (version.state == model_pb2.MODEL_STATE_READY) is not version.HasField("error")
        found[model.model_id] = version.error.message.partition(" failed to load: ")[2]
    return found


def test_hostile_graphs_are_refused_and_the_process_lives(
    kit: SimpleNamespace, tmp_path: Path, spawn: Callable[..., Any]
) -> None:
    root = tmp_path / "models"
    for name in VERDICTS:
        files = {"model.onnx": (FOLDER / f"{name}.onnx").read_bytes()}
        if name.startswith("external"):
            files["model.onnx.data"] = bytes(1 << 16)
        kit.write_version(root / name / "1", files, None)
    kit.write_identity(root, "good")
    cache = ("--admission-cache", os.fspath(tmp_path / "cache"))
    process = spawn(root, *cache)
    with grpc.insecure_channel(process.target) as channel:
        cold = errors(channel)
        expected = {name: "" if verdict == "admitted" else verdict for name, verdict in VERDICTS.items()}
        assert cold == {**expected, "good": ""}
        predict = inference_service_pb2_grpc.InferenceServiceStub(channel).Predict
        answer = predict(kit.request("good", a=1.0, b=2.0), timeout=kit.LIMIT)
        assert dict(answer.predictions) == {"a": 1.0, "b": 2.0}
    assert process.end() == 0
    # The next start asks no child, and says the same.
    begun = tmp_path / "begun"
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\necho x >> {begun}\nexit 9\n")
    python.chmod(0o755)
    code = f"import sys; sys.executable = {os.fspath(python)!r}; from concord_server.__main__ import main; "
    again = spawn(root, *cache, code=("-c", f"{code}sys.exit(main(sys.argv[1:]))"))
    with grpc.insecure_channel(again.target) as channel:
        assert errors(channel) == cold
    assert not begun.exists()
    assert again.end() == 0


@pytest.mark.parametrize(
    ("child", "reason"),
    [
        (f"import os; os.kill(os.getpid(), {signal.SIGFPE.value})", "trial load: the process died (SIGFPE)"),
        ("import threading; threading.Event().wait()", "trial load: did not finish in 0.5 s"),
    ],
)
def test_a_trial_that_ends_badly_fails_its_version_only(
    kit: SimpleNamespace, tmp_path: Path, spawn: Callable[..., Any], child: str, reason: str
) -> None:
    kit.write_identity(tmp_path / "models")
    script = tmp_path / "child.py"
    script.write_text(child)
    wrapper = tmp_path / "python"
    wrapper.write_text(f"#!/bin/sh\nexec {sys.executable} {script}\n")
    wrapper.chmod(0o755)
    code = f"import sys; sys.executable = {os.fspath(wrapper)!r}; from concord_server.__main__ import main; "
    flags = ("--admission-cache", "off", "--admission-timeout-ms", "500")
    process = spawn(tmp_path / "models", *flags, code=("-c", f"{code}sys.exit(main(sys.argv[1:]))"))
    with grpc.insecure_channel(process.target) as channel:
        assert errors(channel) == {"m": reason}
    assert process.end() == 0
    failed = [line for line in process.log() if line["msg"] == "model version failed"]
    assert [line["error"] for line in failed] == [f'model "m" version 1 failed to load: {reason}']
