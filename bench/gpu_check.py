# SPDX-License-Identifier: Apache-2.0
"""Holds both servers on a GPU against the CPU: answers within the manifest's class, throughput by batch size, memory.

Run it by `make gpu-check` on a machine with a GPU. It asks every model of a repository its own golden requests, on the
Go and the Python server, each on the GPU and on the CPU, and writes gpu.json and gpu.md. Exit code 1: an answer lies
outside its class. `--device cpu` tries the check itself where there is no GPU; its report says so.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from concord_proto.inference.v1 import (
    inference_service_pb2,
    inference_service_pb2_grpc,
    model_catalog_service_pb2,
    model_catalog_service_pb2_grpc,
    model_inference_pb2,
    model_inference_pb2_grpc,
    model_pb2,
    tensor_pb2,
)
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2
from google.protobuf import json_format

ROOT = Path(__file__).resolve().parent.parent
BATCHES = (1, 8, 32, 64, 256)
ROUNDS = 5
ROUND_SECONDS = 0.5
READY_SECONDS = 300
CALL_SECONDS = 60
LIMIT = ("grpc.max_receive_message_length", -1)

# What modelpackage.v1.DeviceClass says of a dtype that a manifest does not name: absolute, relative.
CLASSES: dict[int, tuple[float, float]] = {
    tensor_pb2.DATA_TYPE_DOUBLE: (1e-9, 1e-9),
    tensor_pb2.DATA_TYPE_FLOAT: (1e-5, 1e-3),
    tensor_pb2.DATA_TYPE_FLOAT16: (1e-3, 1e-2),
    tensor_pb2.DATA_TYPE_BFLOAT16: (1e-2, 5e-2),
}


class Server(NamedTuple):
    """A server that runs."""

    channel: grpc.Channel
    http: str
    pid: int


class Difference:
    """How far answers were apart."""

    def __init__(self, classes: Mapping[int, tuple[float, float]]) -> None:
        self.classes = classes
        self.values = 0
        self.largest = 0.0
        self.outside: list[str] = []

    def add(self, dtype: int, name: str, on_gpu: Any, on_cpu: Any) -> None:
        """Compares one element."""
        self.values += 1
        if on_gpu == on_cpu or (isinstance(on_cpu, float) and math.isnan(on_cpu) and math.isnan(on_gpu)):
            return
        if dtype not in self.classes or not isinstance(on_cpu, float):
            self.outside.append(f"{name}: expected {on_cpu!r}, got {on_gpu!r}")
            return
        absolute, relative = self.classes[dtype]
        apart = abs(on_gpu - on_cpu)
        self.largest = max(self.largest, apart)
        if not apart <= absolute + relative * abs(on_cpu):
            self.outside.append(f"{name}: expected {on_cpu!r}, got {on_gpu!r}")


@contextmanager
def serving(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[Server]:
    """Starts a server and waits for its ready line."""
    process = subprocess.Popen(  # noqa: S603 - our own servers
        command, stdout=subprocess.PIPE, env={**os.environ, **environment}, text=True
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise SystemExit(f"{Path(command[0]).name} did not start: exit code {process.wait(READY_SECONDS)}")
        ready = json.loads(line)
        with grpc.insecure_channel(ready["grpc"], [LIMIT]) as channel:
            yield Server(channel, ready["http"], ready["pid"])
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def commands(arguments: argparse.Namespace) -> dict[str, dict[str, tuple[list[str], dict[str, str]]]]:
    """Each server's command and environment, by server and device."""
    common = ["--models", str(arguments.models), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]
    on_gpu = [*common, "--device", arguments.device]
    environment = {"PYTHONPATH": str(ROOT / "python"), "ORT_DISABLE_TELEMETRY": "1"}
    binary = str(ROOT / "bin" / "inference-server")
    library: list[str] = []
    if arguments.gpu_python:
        where = "import importlib.util as u; print(u.find_spec('onnxruntime').origin)"
        found = subprocess.run(  # noqa: S603 - the interpreter that was named
            [arguments.gpu_python, "-c", where], capture_output=True, text=True, check=True
        )
        folder = Path(found.stdout.strip()).parent / "capi"
        library = ["--onnxruntime", str(next(folder.glob("libonnxruntime.so.*")))]
    gpu_python = arguments.gpu_python or sys.executable
    return {
        "go": {"gpu": ([binary, *on_gpu, *library], environment), "cpu": ([binary, *common], environment)},
        "python": {
            "gpu": ([gpu_python, "-m", "concord_server", *on_gpu], environment),
            "cpu": ([sys.executable, "-m", "concord_server", *common], environment),
        },
    }


def classes_of(manifest: manifest_pb2.Manifest) -> dict[int, tuple[float, float]]:
    """The class of each dtype for a model."""
    own: dict[int, tuple[float, float]] = {
        c.dtype: (c.absolute_tolerance, c.relative_tolerance) for c in manifest.gpu_classes
    }
    return {**CLASSES, **own}


def compare(difference: Difference, on_gpu: Any, on_cpu: Any) -> None:
    """Compares the answers of two servers to one request."""
    import numpy as np

    kinds: dict[int, np.dtype[Any]] = {
        tensor_pb2.DATA_TYPE_DOUBLE: np.dtype("<f8"),
        tensor_pb2.DATA_TYPE_FLOAT: np.dtype("<f4"),
        tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    }
    if isinstance(on_cpu, inference_service_pb2.PredictResponse):
        for name, value in on_cpu.predictions.items():
            difference.add(tensor_pb2.DATA_TYPE_FLOAT, name, on_gpu.predictions[name], value)
        for name, output in on_cpu.outputs.items():
            other = on_gpu.outputs[name]
            if output.WhichOneof("value") == "float_array":
                for a, b in zip(other.float_array.values, output.float_array.values, strict=True):
                    difference.add(tensor_pb2.DATA_TYPE_FLOAT, name, a, b)
            else:
                difference.add(0, name, other, output)
        return
    for name, tensor in on_cpu.outputs.items():
        other = on_gpu.outputs[name]
        kind = kinds.get(tensor.dtype)
        if kind is None or list(other.shape) != list(tensor.shape):
            difference.add(0, name, other, tensor)
            continue
        for a, b in zip(np.frombuffer(other.data, kind), np.frombuffer(tensor.data, kind), strict=True):
            difference.add(tensor.dtype, name, float(a), float(b))


def tensor_stub(server: Server) -> model_inference_pb2_grpc.ModelInferenceStub:
    """ModelInference on a server."""
    return model_inference_pb2_grpc.ModelInferenceStub(server.channel)


def feature_stub(server: Server) -> inference_service_pb2_grpc.InferenceServiceStub:
    """InferenceService on a server."""
    return inference_service_pb2_grpc.InferenceServiceStub(server.channel)


def check_model(model_id: str, folder: Path, gpu: Server, cpu: Server) -> dict[str, Any]:
    """Parity, throughput and placement of one model on one server."""
    manifest = json_format.Parse((folder / "manifest.json").read_text(), manifest_pb2.Manifest())
    cases = golden_pb2.GoldenSet.FromString((folder / "golden.binpb").read_bytes()).cases
    difference = Difference(classes_of(manifest))
    features = []
    for case in cases:
        if case.HasField("tensors"):
            tensors = model_inference_pb2.PredictionRequest()
            tensors.CopyFrom(case.tensors)
            tensors.model_id = model_id
            answers = [tensor_stub(s).Predict(tensors, timeout=CALL_SECONDS) for s in (gpu, cpu)]
            compare(difference, *answers)
        else:
            request = inference_service_pb2.PredictRequest()
            request.CopyFrom(case.features)
            request.model_id = model_id
            features.append(request)
            compare(difference, *[feature_stub(s).Predict(request, timeout=CALL_SECONDS) for s in (gpu, cpu)])
    catalog = model_catalog_service_pb2_grpc.ModelCatalogServiceStub(gpu.channel)
    shown = catalog.GetModel(model_catalog_service_pb2.GetModelRequest(model_id=model_id), timeout=CALL_SECONDS).model
    ready = next(v for v in shown.versions if v.version == shown.default_version)
    return {
        "model": model_id,
        "requests": len(cases),
        "values": difference.values,
        "largest_difference": difference.largest,
        "outside": difference.outside[:5],
        "outside_count": len(difference.outside),
        "policy": model_pb2.BatchingPolicy.Name(ready.execution.policy).removeprefix("BATCHING_POLICY_").lower(),
        "cpu_nodes": ready.execution.cpu_nodes,
        "device": ready.execution.device,
        "rows_per_second": throughput(features, gpu, cpu) if features else {},
    }


def throughput(requests: Sequence[Any], gpu: Server, cpu: Server) -> dict[str, dict[str, float]]:
    """Rows a second by batch size: medians of rounds that take turns."""
    stubs = {"gpu": feature_stub(gpu), "cpu": feature_stub(cpu)}
    table: dict[str, dict[str, float]] = {}
    for size in BATCHES:
        batch = inference_service_pb2.BatchPredictRequest(requests=[requests[i % len(requests)] for i in range(size)])
        rates: dict[str, list[float]] = {device: [] for device in stubs}
        for _ in range(ROUNDS):
            for device, stub in stubs.items():
                begin, calls = time.perf_counter(), 0
                while time.perf_counter() - begin < ROUND_SECONDS:
                    stub.BatchPredict(batch, timeout=CALL_SECONDS)
                    calls += 1
                rates[device].append(calls * size / (time.perf_counter() - begin))
        table[str(size)] = {device: statistics.median(rate) for device, rate in rates.items()}
    return table


def memory(server: Server) -> dict[str, float]:
    """What the server's metrics say of memory, in bytes."""
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith(("process_resident_memory_bytes", "inference_gpu_memory_used_bytes")):
            name, _, value = line.rpartition(" ")
            found[name.partition("{")[0]] = float(value)
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = [
        "# On a GPU",
        "",
        f"`make gpu-check`, {report['date']}, device `{report['device']}`: {report['machine']}.",
        "",
    ]
    if report["device"] == "cpu":
        lines += ["**No GPU was used: the check itself was tried on the CPU.**", ""]
    for server, result in report["servers"].items():
        lines += [f"## {server}", "", "Rows a second by batch size, GPU / CPU.", ""]
        sizes = " | ".join(map(str, BATCHES))
        lines.append(f"| model | values | largest difference | outside | nodes on the CPU | policy | {sizes} |")
        lines.append("|---" * (6 + len(BATCHES)) + "|")
        for model in result["models"]:
            rates = model["rows_per_second"]
            cells = [f"{rates[str(b)]['gpu']:.0f} / {rates[str(b)]['cpu']:.0f}" if rates else "" for b in BATCHES]
            first = (model["model"], model["values"], f"{model['largest_difference']:.3g}", model["outside_count"])
            lines.append("| " + " | ".join(map(str, (*first, model["cpu_nodes"], model["policy"], *cells))) + " |")
        text = ", ".join(f"{name} {value / (1 << 20):.0f} MiB" for name, value in result["memory"].items())
        lines += ["", f"Memory after it: {text}.", ""]
    return "\n".join(lines)


def main() -> int:
    """Runs the check."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--gpu-python", help="the Python whose onnxruntime is the one for GPUs")
    parser.add_argument("--report", type=Path, help="folder for gpu.json and gpu.md")
    parser.add_argument("--only", nargs="*", help="ids of the models; default: all that have a manifest")
    arguments = parser.parse_args()
    folders = {
        f.parent.parent.name: f.parent
        for f in sorted(arguments.models.glob("*/1/manifest.json"))
        if not arguments.only or f.parent.parent.name in arguments.only
    }
    if not folders:
        raise SystemExit(f"expected models with a manifest, got none in {arguments.models}")
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": arguments.device,
        "machine": f"{os.cpu_count()} processors, {platform.machine()}",
        "servers": {},
    }
    for name, both in commands(arguments).items():
        with serving(*both["gpu"]) as gpu, serving(*both["cpu"]) as cpu:
            results = [check_model(model_id, folder, gpu, cpu) for model_id, folder in folders.items()]
            report["servers"][name] = {"models": results, "memory": memory(gpu)}
    text = markdown(report)
    print(text)
    if arguments.report:
        arguments.report.mkdir(parents=True, exist_ok=True)
        (arguments.report / "gpu.json").write_text(json.dumps(report, indent=2) + "\n")
        (arguments.report / "gpu.md").write_text(text + "\n")
    outside = [m for s in report["servers"].values() for m in s["models"] if m["outside_count"]]
    for model in outside:
        text = f"{model['model']}: {model['outside_count']} values outside their class: {model['outside']}"
        print(text, file=sys.stderr)
    return 1 if outside else 0


if __name__ == "__main__":
    sys.exit(main())
