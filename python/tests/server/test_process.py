# SPDX-License-Identifier: Apache-2.0
"""The server as its user meets it: a command with a ready line, logs, signals and exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
import trustme
from concord_proto.inference.v1 import inference_service_pb2
from concord_server import ort
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2
from onnx import TensorProto, helper

PREDICT = "/inference.v1.InferenceService/Predict"
CHECK = "/grpc.health.v1.Health/Check"
Serving = health_pb2.HealthCheckResponse
Spawn = Callable[..., Any]
FIXTURES = Path(__file__).resolve().parents[3] / "conformance/fixtures"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "concord_server", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def ask(channel: grpc.Channel, kit: SimpleNamespace, *, a: float = 1.5, b: float = 2.5) -> Any:
    data = channel.unary_unary(PREDICT)(kit.request(a=a, b=b).SerializeToString(), timeout=kit.LIMIT)
    return inference_service_pb2.PredictResponse.FromString(data)


def test_ready_line_health_logs_and_a_clean_stop(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    models = tmp_path / "models"
    kit.write_identity(models)
    (models / "broken/1").mkdir(parents=True)
    server = spawn(models)
    assert set(server.ready) == {"grpc", "http", "pid"}
    assert server.ready["pid"] == server.popen.pid
    with grpc.insecure_channel(server.target) as channel:
        # After the ready line everything serves already.
        assert Serving.FromString(channel.unary_unary(CHECK)(b"", timeout=kit.LIMIT)).status == Serving.SERVING
        assert dict(ask(channel, kit).predictions) == {"a": 1.5, "b": 2.5}
    for path in ("healthz", "readyz"):
        with urllib.request.urlopen(f"http://{server.ready['http']}/{path}", timeout=kit.LIMIT) as answer:
            assert answer.read() == b"ok"
    assert server.end() == 0
    assert server.popen.stdout.read() == ""
    log = server.log()
    assert all(list(line)[:3] == ["time", "level", "msg"] for line in log)
    about = {line.get("model_id"): line for line in log if line["msg"].startswith("model version ")}
    assert about["m"]["msg"] == "model version ready"
    assert (about["broken"]["level"], about["broken"]["model_version"]) == ("ERROR", "1")
    assert about["broken"]["error"].endswith("expected manifest.json or model.onnx, got neither")
    assert [line["msg"] for line in log[-2:]] == ["draining", "stopped"]


def test_a_request_is_not_logged(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    kit.write_identity(tmp_path / "models")
    server = spawn(tmp_path / "models")
    request = kit.request(secretfeature="secretvalue", a=1.0, b=1.0)
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError):
        channel.unary_unary(PREDICT)(request.SerializeToString(), timeout=kit.LIMIT)
    assert server.end() == 0
    assert "secret" not in server.errors.read_text()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "concord_server: models: expected a directory, got nothing"),
        (["--surprise"], "concord_server: unknown flag: --surprise"),
        (["--models", ".", "--listen", "0.0.0.0:0"], "concord_server: listen: expected a loopback address"),
        (["--models", ".", "--onnxruntime", "/nonexistent"], "concord_server: onnxruntime: cannot be read"),
        (
            ["--models", ".", "--onnxruntime", __file__],
            "concord_server: onnxruntime: expected the library of onnxruntime 1.",
        ),
        (
            ["--models", ".", "--onnxruntime-genai", "/nonexistent"],
            'concord_server: onnxruntime_genai: expected libonnxruntime-genai.so, got "/nonexistent", which is no file',
        ),
    ],
)
def test_a_bad_configuration_is_one_line(arguments: list[str], line: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_help_and_version() -> None:
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--max-message-bytes N" in done.stdout
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout == f"concord_server 0.1.0 (ONNX Runtime {ort.VERSION})\n"


def test_a_port_that_is_taken_is_a_failure(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flags in (["--listen", address, "--http", "off"], ["--listen", "127.0.0.1:0", "--http", address]):
            done = run("--models", str(tmp_path), *flags)
            assert (done.returncode, done.stdout) == (1, "")
            (line,) = [json.loads(line) for line in done.stderr.splitlines()]
            assert line["msg"] == "cannot serve"


def test_the_right_library_is_accepted(tmp_path: Path, spawn: Spawn) -> None:
    server = spawn(tmp_path, "--onnxruntime", os.fspath(ort.library()), "--http", "off")
    assert server.ready["http"] == ""
    assert server.end() == 0


def test_without_the_library_of_text_generators_only_they_are_refused(
    kit: SimpleNamespace, tmp_path: Path, spawn: Spawn
) -> None:
    kit.write_identity(tmp_path)
    shutil.copytree(FIXTURES / "token-lm", tmp_path / "chat")
    server = spawn(tmp_path, "--onnxruntime-genai", __file__, "--http", "off")
    [failed] = [line for line in server.log() if line["msg"] == "model version failed"]
    assert failed["model_id"] == "chat"
    [ready] = [line for line in server.log() if line["msg"] == "model version ready"]
    assert ready["model_id"] == "m"
    assert server.end() == 0


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_addresses(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn, address: str) -> None:
    if "::1" in address and not socket.has_ipv6:
        pytest.fail("this machine has no IPv6 loopback")
    server = spawn(tmp_path, "--listen", address)
    assert server.target.startswith(address.removesuffix("0"))
    with grpc.insecure_channel(server.target) as channel:
        assert Serving.FromString(channel.unary_unary(CHECK)(b"", timeout=kit.LIMIT)).status == Serving.SERVING


# What a server may not need: none of these may be loaded by importing it, nor by answering a request.
FOREIGN = ("sklearn", "skl2onnx", "joblib", "torch", "onnx", "scipy", "pandas", "pickle5")

SERVE = f"""
import sys
from concord_server.__main__ import main
code = main(sys.argv[1:])
print("LOADED", sorted(set({FOREIGN!r}) & set(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def test_serving_loads_nothing_of_training(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    kit.write_identity(tmp_path / "models")
    server = spawn(tmp_path / "models", code=("-c", SERVE))
    with grpc.insecure_channel(server.target) as channel:
        assert ask(channel, kit).model_version == "1"
    assert server.end() == 0
    assert server.errors.read_text().splitlines()[-1] == "LOADED []"


IMPORT = f"""
import pkgutil, sys, concord_server
for module in pkgutil.walk_packages(concord_server.__path__, "concord_server."):
    if "admission" not in module.name:
        __import__(module.name)
print(sorted(set({FOREIGN!r}) & set(sys.modules)))
"""


def test_importing_the_server_loads_nothing_of_training() -> None:
    # Admission judges graphs in a child process of its own, with the onnx package.
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


@pytest.fixture
def certificates(tmp_path: Path) -> SimpleNamespace:
    authority, stranger = trustme.CA(), trustme.CA()
    files: dict[str, bytes] = {"ca": authority.cert_pem.bytes()}
    for name, certificate in (
        ("server", authority.issue_cert("localhost", "127.0.0.1")),
        ("client", authority.issue_cert("client@example.org")),
        ("stranger", stranger.issue_cert("client@example.org")),
    ):
        files[name] = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
        files[f"{name}key"] = certificate.private_key_pem.bytes()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return SimpleNamespace(path=lambda name: os.fspath(tmp_path / name), **files)


def health(channel: grpc.Channel) -> str:
    try:
        answer = channel.unary_unary(CHECK)(b"", timeout=5, wait_for_ready=False)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "SERVING" if Serving.FromString(answer).status == Serving.SERVING else "NOT_SERVING"


def test_tls_with_and_without_client_certificates(tmp_path: Path, spawn: Spawn, certificates: SimpleNamespace) -> None:
    models = tmp_path / "models"
    models.mkdir()
    flags = ["--tls-cert", certificates.path("server"), "--tls-key", certificates.path("serverkey")]
    server = spawn(models, *flags)
    plain = grpc.ssl_channel_credentials(certificates.ca)
    known = grpc.ssl_channel_credentials(certificates.ca, certificates.clientkey, certificates.client)
    strange = grpc.ssl_channel_credentials(certificates.ca, certificates.strangerkey, certificates.stranger)

    def tried(target: str, credentials: grpc.ChannelCredentials | None) -> str:
        if credentials is None:
            with grpc.insecure_channel(target) as channel:
                return health(channel)
        with grpc.secure_channel(target, credentials) as channel:
            return health(channel)

    assert [tried(server.target, one) for one in (plain, known, None)] == ["SERVING", "SERVING", "UNAVAILABLE"]
    assert server.end() == 0
    server = spawn(models, *flags, "--tls-client-ca", certificates.path("ca"))
    assert [tried(server.target, one) for one in (known, plain, strange)] == ["SERVING", "UNAVAILABLE", "UNAVAILABLE"]
    assert server.end() == 0


def write_slow(kit: SimpleNamespace, root: Path) -> None:
    """A bare model that counts to n; it can be ended between two steps."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["cond"], ["again"]), helper.make_node("Add", ["sum", "one"], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.INT64, []),
        ],
    )
    initializers = [
        helper.make_tensor("true", TensorProto.BOOL, [], [True]),
        helper.make_tensor("one", TensorProto.INT64, [], [1]),
        helper.make_tensor("zero", TensorProto.INT64, [], [0]),
    ]
    loop = helper.make_node("Loop", ["n", "true", "zero"], ["counted"], body=body)
    value = ("n", TensorProto.INT64, [])
    made = kit.graph([loop], [value], [("counted", TensorProto.INT64, [])], initializers)
    kit.write_version(root / "slow/1", {"model.onnx": made}, None)


def forever(kit: SimpleNamespace) -> bytes:
    data: bytes = kit.request("slow", n=1 << 50).SerializeToString()
    return data


def wait_for_work(kit: SimpleNamespace, server: Any) -> None:
    """Until the server has burned processor time for a call that goes on."""

    def ticks() -> int:
        fields = Path(f"/proc/{server.popen.pid}/stat").read_text().rpartition(") ")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    kit.wait_until(lambda: ticks() > before + 20, "the run")


def test_work_under_way_has_the_grace_and_no_more(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    write_slow(kit, tmp_path)
    server = spawn(tmp_path, "--drain-grace-ms", "300", "--http", "off")
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary(PREDICT).future(forever(kit), timeout=kit.LIMIT)
        wait_for_work(kit, server)
        assert server.end() == 0
        assert call.exception(kit.LIMIT).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_a_short_call_finishes_in_the_drain(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    write_slow(kit, tmp_path)
    server = spawn(tmp_path, "--http", "off")
    with grpc.insecure_channel(server.target) as channel:
        request = kit.request("slow", n=1_000_000).SerializeToString()
        call = channel.unary_unary(PREDICT).future(request, timeout=60)
        wait_for_work(kit, server)
        server.popen.terminate()
        answer = inference_service_pb2.PredictResponse.FromString(call.result(60))
        assert answer.outputs["counted"].int64_value == 1_000_000
    assert server.popen.wait(kit.LIMIT) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_asks_twice_does_not_wait(
    kit: SimpleNamespace, tmp_path: Path, spawn: Spawn, number: signal.Signals
) -> None:
    write_slow(kit, tmp_path)
    server = spawn(tmp_path, "--http", "off")
    with grpc.insecure_channel(server.target) as channel:
        call = channel.unary_unary(PREDICT).future(forever(kit), timeout=kit.LIMIT)
        wait_for_work(kit, server)
        server.popen.send_signal(number)
        kit.wait_until(lambda: server.log()[-1]["msg"] == "draining", "the drain")
        server.popen.send_signal(number)
        assert server.popen.wait(kit.LIMIT) == 1
        call.cancel()


def test_in_the_delay_health_says_no_and_calls_are_answered(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    kit.write_identity(tmp_path / "models")
    server = spawn(tmp_path / "models", "--drain-delay-ms", "60000")
    with grpc.insecure_channel(server.target) as channel:
        assert health(channel) == "SERVING"
        server.popen.terminate()
        kit.wait_until(lambda: health(channel) == "NOT_SERVING", "NOT_SERVING")
        assert ask(channel, kit).model_version == "1"
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(f"http://{server.ready['http']}/readyz", timeout=kit.LIMIT)
    server.popen.terminate()
    assert server.popen.wait(kit.LIMIT) == 1


def test_health_answers_while_every_thread_runs(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    write_slow(kit, tmp_path)
    server = spawn(tmp_path, "--http", "off", "--drain-grace-ms", "0")

    async def talk() -> list[int]:
        async with grpc.aio.insecure_channel(server.target) as channel:
            predict, check = channel.unary_unary(PREDICT), channel.unary_unary(CHECK)
            calls = [predict(forever(kit)) for _ in range(32)]
            await asyncio.to_thread(wait_for_work, kit, server)
            seen = [Serving.FromString(await check(b"", timeout=2)).status for _ in range(50)]
            assert not any(call.done() for call in calls)
            for call in calls:
                call.cancel()
            # The threads are free again: what was cancelled in the queue never runs, what ran has ended.
            answer = await predict(kit.request("slow", n=3).SerializeToString(), timeout=kit.LIMIT)
            assert inference_service_pb2.PredictResponse.FromString(answer).outputs["counted"].int64_value == 3
            return [int(status) for status in seen]

    assert set(asyncio.run(talk())) == {Serving.SERVING}
    assert server.end() == 0


def test_a_deadline_in_the_queue_is_kept(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    write_slow(kit, tmp_path)
    server = spawn(tmp_path, "--http", "off", "--drain-grace-ms", "0")
    with grpc.insecure_channel(server.target) as channel:
        busy = [channel.unary_unary(PREDICT).future(forever(kit), timeout=kit.LIMIT) for _ in range(64)]
        wait_for_work(kit, server)
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(PREDICT)(kit.request("slow", n=1).SerializeToString(), timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        for call in busy:
            call.cancel()


def test_hundred_mebibytes_pass(kit: SimpleNamespace, tmp_path: Path, spawn: Spawn) -> None:
    kit.write_version(tmp_path / "big/1", {"model.onnx": kit.identity(TensorProto.FLOAT, [None, None])}, None)
    server = spawn(tmp_path, "--http", "off")
    count = (100 << 20) // 4 - 50
    request = inference_service_pb2.PredictRequest(model_id="big")
    packed = b"\x0a" + varint(4 * count) + os.urandom(4 * 1024) * (count // 1024) + bytes(4 * (count % 1024))
    request.features["x"].MergeFromString(b"\x1a" + varint(len(packed)) + packed)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.target, options=options) as channel:
        data = channel.unary_unary(PREDICT)(request.SerializeToString(), timeout=60)
        answer = inference_service_pb2.PredictResponse.FromString(data)
        assert answer.outputs["y"].SerializeToString() == request.features["x"].SerializeToString()
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(PREDICT)(bytes((100 << 20) + 1), timeout=60)
        details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
        assert "at most 104857600 bytes, got 104857601" in status_pb2.Status.FromString(details).message


def varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])
