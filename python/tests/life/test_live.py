# SPDX-License-Identifier: Apache-2.0
"""A configuration file that changes while a server runs."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
from concord_proto.inference.v1 import inference_service_pb2

BATCH = "/inference.v1.InferenceService/BatchPredict"
CHANGED = "the configuration has changed"
BAD = "the configuration is bad, the old one goes on"
RESTART = "the configuration needs a restart to change"


class Configured:
    """A server with a configuration file."""

    def __init__(self, kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any], text: str, *flags: str) -> None:
        self.kit = kit
        self.file = tmp_path / "config/server.yaml"
        self.file.parent.mkdir()
        self.file.write_text(text)
        kit.write(tmp_path / "models/m/1", 1)
        self.server = start(tmp_path / "models", "--config", str(self.file), *flags)

    def replace(self, text: str) -> None:
        """As an editor does: another file takes the name."""
        beside = self.file.with_name(".beside")
        beside.write_text(text)
        beside.rename(self.file)

    def most(self) -> int:
        """The number of requests that a batch may hold, which its refusal tells."""
        request = inference_service_pb2.BatchPredictRequest()
        for _ in range(50):
            request.requests.add(model_id="m")
        with grpc.insecure_channel(self.server.target) as channel:
            try:
                channel.unary_unary(BATCH)(request.SerializeToString(), timeout=self.kit.LIMIT)
            except grpc.RpcError as error:
                return int(error.details().partition("at most ")[2].partition(" ")[0])
        return 50

    def until_most(self, most: int) -> None:
        self.kit.until(f"batches hold {most}", lambda: self.most() == most)


def test_what_can_change_changes(kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]) -> None:
    configured = Configured(kit, tmp_path, start, "max_batch_requests: 3\n")
    server = configured.server
    assert configured.most() == 3
    configured.replace("max_batch_requests: 4\nmodel_settings: {m: {batching: direct}}\n")
    configured.until_most(4)
    kit.until("the log", lambda: server.lines(CHANGED))
    assert server.lines(CHANGED)[-1]["fields"] == ["max_batch_requests", "model_settings"]

    configured.file.write_text("max_batch_requests: 5\n")  # in place
    configured.until_most(5)

    configured.replace("max_batch_requests: 0\n")
    kit.until("the log", lambda: server.lines(BAD))
    want = "max_batch_requests: expected 1 to 2147483647, got 0"
    assert server.lines(BAD)[-1]["error"] == want
    assert configured.most() == 5
    assert len(server.lines(BAD)) == 1

    configured.replace("max_batch_requests: 6\nlisten: localhost:1\nmax_concurrent_streams: 7\n")
    configured.until_most(6)
    kit.until("the log", lambda: server.lines(RESTART))
    # --listen is a flag, which wins over the file
    assert server.lines(RESTART)[-1]["fields"] == ["max_concurrent_streams"]

    assert server.end() == 0


def test_a_listener_stays_until_a_restart(kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]) -> None:
    kit.write(tmp_path / "models/m/1", 1)
    file = tmp_path / "server.yaml"
    file.write_text("listen: 127.0.0.1:0\n")
    server = start(tmp_path / "models", "--config", str(file), listen="")
    file.write_text("listen: localhost:0\n")
    kit.until("the log", lambda: server.lines(RESTART))
    assert server.lines(RESTART)[-1]["fields"] == ["listen"]
    assert server.end() == 0


def test_a_signal_reads_it_again(kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]) -> None:
    configured = Configured(kit, tmp_path, start, "max_batch_requests: 3\n", "--max-batch-requests", "9")
    for count in (1, 2):
        configured.server.popen.send_signal(signal.SIGHUP)
        kit.until("the log", lambda n=count: len(configured.server.lines(CHANGED)) == n)
    assert configured.server.lines(CHANGED)[-1]["fields"] == []
    configured.replace("max_batch_requests: 4\n")
    configured.server.popen.send_signal(signal.SIGHUP)
    kit.until("the log", lambda: len(configured.server.lines(CHANGED)) >= 3)
    assert configured.most() == 9  # the flag wins
    assert configured.server.end() == 0


def test_no_file_at_all(kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]) -> None:
    (tmp_path / "models").mkdir()
    server = start(tmp_path / "models")
    server.popen.send_signal(signal.SIGHUP)
    kit.until("the log", lambda: server.lines(CHANGED))
    assert server.end() == 0


def test_the_drain_is_what_the_file_says_last(kit: SimpleNamespace, tmp_path: Path, start: Callable[..., Any]) -> None:
    configured = Configured(kit, tmp_path, start, "drain_grace_ms: 1\n")
    configured.replace("drain_grace_ms: 2345\nrepository_poll_ms: 0\nmax_request_ms: 100000\n")
    kit.until("the log", lambda: configured.server.lines(CHANGED))
    assert configured.server.end() == 0
    assert configured.server.lines("draining")[0]["grace_ms"] == 2345
