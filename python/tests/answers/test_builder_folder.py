# SPDX-License-Identifier: Apache-2.0
"""Both servers serve folders as onnxruntime-genai's own model builder leaves them, in both of its layouts.

Run after `make build`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime loads

import concord_export.models
import grpc
import pytest
from concord_export.llama.builder_folder import write_builder_folder
from concord_proto.inference.v1 import inference_service_pb2, inference_service_pb2_grpc

ROOT = Path(__file__).resolve().parents[3]
TINY = Path(concord_export.models.__file__).parent / "data" / "tiny-chat"
SERVERS = {
    "go": [os.environ.get("CONCORD_GO_SERVER", str(ROOT / "bin/inference-server"))],
    "python": [sys.executable, "-m", "concord_server"],
}
ANSWERS = {
    "Speak Japanese.": "こんにちは世界 🐒",
    "What is the capital of France?": "The capital of France is Paris.",
}


@contextmanager
def serving(command: list[str], repository: Path, log: Path) -> Iterator[str]:
    """The gRPC address of a server, ended by its own process id."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "--models", str(repository), "--listen", "127.0.0.1:0", "--http", "off"],
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        assert ready, log.read_text()[-2000:]
        yield json.loads(ready)["grpc"]
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.mark.parametrize("server", SERVERS)
def test_builder_folders_are_served(tmp_path: Path, server: str) -> None:
    repository = tmp_path / "models"
    write_builder_folder(TINY, repository / "turns-inside" / "1")
    write_builder_folder(TINY, repository / "position-ids" / "1", position_ids=True)
    with serving(SERVERS[server], repository, tmp_path / "log") as address, grpc.insecure_channel(address) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        for model_id in ("turns-inside", "position-ids"):
            for prompt, answer in ANSWERS.items():
                request = inference_service_pb2.PredictRequest(model_id=model_id)
                request.features["prompt"].string_value = prompt
                response = stub.Predict(request, timeout=60)
                assert response.outputs["text"].string_value == answer, (
                    model_id,
                    (tmp_path / "log").read_text()[-2000:],
                )
                assert response.finish_reason == inference_service_pb2.FINISH_REASON_STOP
