# SPDX-License-Identifier: Apache-2.0
"""Real servers, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime loads

import grpc
import pytest

ROOT = Path(__file__).resolve().parents[3]
COMMANDS = {
    "go": [str(ROOT / "bin" / "inference-server")],
    "python": [sys.executable, "-m", "concord_server"],
}
LIMIT = 30.0  # seconds that a server may take to stop


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., dict[str, grpc.Channel]]]:
    """Starts both servers on a repository and gives a channel to each; they are ended by their own process ids."""
    processes: list[subprocess.Popen[bytes]] = []
    channels: list[grpc.Channel] = []

    def start(models: Path, *flags: str) -> dict[str, grpc.Channel]:
        begun = {}
        for name, command in COMMANDS.items():
            log = tmp_path_factory.mktemp(name) / "server.log"
            with log.open("wb") as stderr:
                process = subprocess.Popen(
                    [*command, "--models", str(models), "--listen", "127.0.0.1:0", "--http", "off", *flags],
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    cwd=ROOT,
                )
            processes.append(process)
            begun[name] = (process, log)
        given = {}
        for name, (process, log) in begun.items():
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready, f"the {name} server did not start: {log.read_text()[-2000:]}"
            options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
            given[name] = grpc.insecure_channel(json.loads(ready)["grpc"], options=options)
        channels.extend(given.values())
        return given

    yield start
    for channel in channels:
        channel.close()
    codes = []
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            codes.append(process.wait(timeout=LIMIT))
        except subprocess.TimeoutExpired:
            process.kill()
            codes.append(process.wait())
        assert process.stdout is not None
        process.stdout.close()
    assert codes == [0] * len(codes)
