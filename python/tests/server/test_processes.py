# SPDX-License-Identifier: Apache-2.0
"""Several processes on one address: ready as one, replaced where one dies, drained without a loss."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from concord_proto.inference.v1 import inference_service_pb2_grpc

Spawn = Callable[..., Any]

TOKEN_LM = Path(__file__).resolve().parents[3] / "conformance/fixtures/token-lm"


@pytest.fixture
def served(spawn: Spawn, kit: SimpleNamespace, tmp_path: Path) -> Any:
    kit.write_identity(tmp_path / "models")
    return spawn(tmp_path / "models", "--processes", "2")


def ask(target: str, kit: SimpleNamespace) -> float:
    """One request over a connection of its own, so that any of the processes may get it."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(target, options=options) as channel:
        predict = inference_service_pb2_grpc.InferenceServiceStub(channel).Predict
        return float(predict(kit.request(a=1.5, b=2.5), timeout=kit.LIMIT, wait_for_ready=True).predictions["a"])


def serving(process: Any) -> list[int]:
    """The workers' process ids."""
    [line] = [line for line in process.log() if line["msg"] == "serving"]
    return list(line["processes"])


def status(process: Any, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{process.ready['http']}{path}") as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_all_answer_as_one(served: Any, kit: SimpleNamespace) -> None:
    workers = serving(served)
    assert len(workers) == len({*workers, served.popen.pid}) - 1 == 2
    assert served.ready["pid"] == served.popen.pid
    assert [ask(served.target, kit) for _ in range(16)] == [1.5] * 16
    assert status(served, "/readyz") == (200, "ok")
    # Whoever answered, a scraper gets the sum.
    wanted = 'inference_requests_total{code="OK",method="Predict",model="m",service="inference.v1.InferenceService"'
    [line] = [line for line in status(served, "/metrics")[1].splitlines() if line.startswith(wanted)]
    assert float(line.split()[-1]) == 16
    assert served.end() == 0
    assert served.popen.stdout.read() == ""  # the ready line was the only one
    messages = [line["msg"] for line in served.log()]
    assert messages.count("stopped") == 3


def test_all_of_them_generate_text(spawn: Spawn, kit: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(TOKEN_LM, tmp_path / "models/chat")
    served = spawn(tmp_path / "models", "--processes", "2", "--max-kv-bytes", "1048576")
    request = kit.request("chat", prompt="ab", raw=True)
    request.config.max_tokens = 4
    for _ in range(12):
        with grpc.insecure_channel(served.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
            messages = list(stub.StreamPredict(request, timeout=kit.LIMIT, wait_for_ready=True))
            assert "".join(message.token for message in messages) == "cdef"
    # Both have a cache of their own.
    for wanted, value in (("inference_tokens_total", 48), ("inference_kv_cache_bytes", 2 * 1048576)):
        [line] = [line for line in status(served, "/metrics")[1].splitlines() if line.startswith(f"{wanted}{{")]
        assert float(line.split()[-1]) == value
    assert served.end() == 0


def test_one_that_dies_is_replaced(served: Any, kit: SimpleNamespace) -> None:
    os.kill(serving(served)[0], signal.SIGKILL)
    kit.wait_until(lambda: any(line["msg"] == "worker restarted" for line in served.log()), "a restart")
    [died] = [line for line in served.log() if line["msg"] == "worker died"]
    assert (died["exit_code"], died["restarted"]) == (-signal.SIGKILL, True)
    kit.wait_until(lambda: status(served, "/readyz")[0] == 200, "ready again")
    assert [ask(served.target, kit) for _ in range(8)] == [1.5] * 8
    assert served.end() == 0


def test_workers_that_die_again_and_again_end_the_server(served: Any, kit: SimpleNamespace) -> None:
    def alive() -> list[int]:
        started = serving(served) + [line["pid"] for line in served.log() if line["msg"] == "worker restarted"]
        return [pid for pid in started if pid not in [line["pid"] for line in served.log() if "deaths" in line]]

    for deaths in range(1, 7):
        kit.wait_until(alive, "a worker")
        os.kill(alive()[-1], signal.SIGKILL)
        kit.wait_until(lambda: sum(line["msg"] == "worker died" for line in served.log()) >= deaths, "its death")  # noqa: B023
    assert served.popen.wait(kit.LIMIT) == 1
    assert [line["restarted"] for line in served.log() if line["msg"] == "worker died"] == [True] * 5 + [False]


def test_a_drain_loses_nothing(served: Any, kit: SimpleNamespace) -> None:
    answered, wrong, stop = [0] * 8, [], threading.Event()

    def call(place: int) -> None:
        with grpc.insecure_channel(served.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            predict = inference_service_pb2_grpc.InferenceServiceStub(channel).Predict
            while not stop.is_set():
                try:
                    assert predict(kit.request(a=1.5, b=2.5), timeout=kit.LIMIT).predictions["a"] == 1.5
                    answered[place] += 1
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:  # which says: ask another
                        wrong.append(error)
                    return

    callers = [threading.Thread(target=call, args=(place,)) for place in range(8)]
    for caller in callers:
        caller.start()
    kit.wait_until(lambda: all(answered), "all are answered")
    assert served.end() == 0
    stop.set()
    for caller in callers:
        caller.join(kit.LIMIT)
    assert wrong == []
    assert not [line for line in served.log() if line["level"] == "ERROR"]


def test_workers_end_with_their_supervisor(served: Any, kit: SimpleNamespace) -> None:
    workers = serving(served)
    served.popen.kill()

    def gone(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    kit.wait_until(lambda: all(map(gone, workers)), "the workers' end")


def command(models: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "concord_server", "--models", os.fspath(models), "--processes", "2", *arguments]


def test_a_port_that_is_taken_is_an_error(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.write_identity(tmp_path)
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = subprocess.run(command(tmp_path, "--listen", address), capture_output=True, timeout=kit.LIMIT)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert b"cannot serve" in ended.stderr


def test_workers_that_do_not_start_end_the_server(
    kit: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.write_identity(tmp_path / "models")
    (tmp_path / "sitecustomize.py").write_text("import os\nif 'CONCORD_SERVER_WORKER' in os.environ: os._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path), prepend=os.pathsep)
    arguments = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
    ended = subprocess.run(command(tmp_path / "models", *arguments), capture_output=True, timeout=kit.LIMIT)
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert b"worker did not start" in ended.stderr
