# SPDX-License-Identifier: Apache-2.0
"""Start both servers on the exported models, ask them the same real questions, and compare the answers.

    python demo/demo.py [--chat MODEL]

Exit code 0 only if both servers gave the same bits for every question, and the same tokens for every text.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO

from chat import converse
from concord_client import Answer, Client
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer, load_iris

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODELS = ("breast-cancer", "mixed")
# A language model of 540 MB is proved before it answers, once in each server, and both share the machine.
READY_SECONDS = 300


@dataclass(frozen=True)
class Question:
    """A real row: what it is, what is asked, and what is true."""

    title: str
    model_id: str
    features: Mapping[str, float | str]
    truth: str


def questions() -> Iterator[Question]:
    """Rows of scikit-learn's bundled data: patients with a known diagnosis, flowers with a measured petal."""
    cancer = load_breast_cancer()
    for row in (0, 19, 135, 297, 568):
        yield Question(
            title=f"patient {row}: malignant?",
            model_id="breast-cancer",
            features=dict(zip(cancer.feature_names.tolist(), cancer.data[row].tolist(), strict=True)),
            truth=str(cancer.target_names[cancer.target[row]]),
        )
    iris = load_iris()
    for row in (0, 60, 118):
        sepal_length, sepal_width, petal_length, petal_width = iris.data[row].tolist()
        yield Question(
            title=f"iris {row}: how wide is the petal?",
            model_id="mixed",
            features={
                "species": str(iris.target_names[iris.target[row]]),
                "sepal length (cm)": sepal_length,
                "sepal width (cm)": sepal_width,
                "petal length (cm)": petal_length,
            },
            truth=f"{petal_width} cm",
        )


@dataclass(frozen=True)
class Server:
    """A running server: its gRPC address, and how long it took to be ready."""

    name: str
    address: str
    pid: int
    seconds_to_ready: float


@dataclass(frozen=True)
class Starting:
    """A server that may not be ready yet."""

    name: str
    process: subprocess.Popen[str]
    begin: float

    def ready(self) -> Server:
        """Waits until it is. Raises SystemExit where it ends instead."""
        assert self.process.stdout is not None  # noqa: S101
        line = ready_line(self.process.stdout, self.process)
        return Server(self.name, str(line["grpc"]), self.process.pid, time.perf_counter() - self.begin)


def ready_line(stream: IO[str], process: subprocess.Popen[str]) -> dict[str, str | int]:
    """The JSON line that a server prints when it is ready; the process is ended if none comes in time."""
    guard = threading.Timer(READY_SECONDS, process.kill)
    guard.start()
    try:
        line = stream.readline()
    finally:
        guard.cancel()
    if not line:
        raise SystemExit(f"{process.args!r} ended before it was ready (exit code {process.wait()})")
    ready: dict[str, str | int] = json.loads(line)
    return ready


@contextmanager
def starting(name: str, command: Sequence[str], models: pathlib.Path, log: IO[str]) -> Iterator[Starting]:
    """A server on free ports of 127.0.0.1, ended by SIGTERM."""
    begin = time.perf_counter()
    process = subprocess.Popen(  # noqa: S603
        # Two servers share the machine: each takes half of it.
        [
            *command,
            "--models",
            str(models),
            "--listen",
            "127.0.0.1:0",
            "--http",
            "127.0.0.1:0",
            "--intra-op-threads",
            str(max(1, (os.cpu_count() or 2) // 2)),
        ],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    try:
        yield Starting(name, process, begin)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def bits(answer: Answer) -> tuple[tuple[tuple[str, bytes], ...], tuple[tuple[str, str], ...]]:
    """All numbers of an answer by their bits, and its other outputs."""
    numbers = tuple(sorted((name, struct.pack("<f", value)) for name, value in answer.predictions.items()))
    return numbers, tuple(sorted((name, repr(value)) for name, value in answer.outputs.items()))


def shown(answer: Answer) -> str:
    """An answer for a table cell."""
    name, value = max(answer.predictions.items(), key=lambda prediction: prediction[1])
    return f"{value:.7f} {'cm' if name.endswith('(cm)') else name}"


def milliseconds(client: Client, question: Question, calls: int = 51) -> float:
    """Median time of one call, in milliseconds, seen by the caller."""
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        client.predict(question.model_id, question.features)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e3


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process, in units of 1,000,000 bytes."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    kibibytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kibibytes) * 1024 / 1e6


def copied(models: Sequence[str], directory: pathlib.Path) -> pathlib.Path:
    """A repository of these models alone: whatever else lies in models/ would have to be proved first, too."""
    for model_id in models:
        shutil.copytree(ROOT / "models" / model_id, directory / model_id)
    return directory


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chat", default="", metavar="MODEL", help="a text generator in models/, which both stream")
    chat: str = parser.parse_args().chat
    console = Console(width=max(Console().width, 100))
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="concord-demo-")))
        models = copied([*MODELS, *([chat] if chat else [])], directory)
        try:
            # At the same time: a language model takes seconds to prove itself.
            both = [
                stack.enter_context(starting("Go", [str(ROOT / "bin" / "inference-server")], models, log)),
                stack.enter_context(starting("Python", [sys.executable, "-m", "concord_server"], models, log)),
            ]
            servers = [server.ready() for server in both]
        except SystemExit:
            log.seek(0)
            sys.stderr.write(log.read())
            raise
        clients = [stack.enter_context(Client(server.address)) for server in servers]
        table = Table(title="The same questions to two servers", title_justify="left", expand=False)
        for heading in ("question", "truth", *(server.name for server in servers), "bits"):
            table.add_column(heading)
        asked = list(questions())
        different = 0
        for question in asked:
            answers = [client.predict(question.model_id, question.features) for client in clients]
            same = len({bits(answer) for answer in answers}) == 1
            different += not same
            table.add_row(
                question.title, question.truth, *map(shown, answers), "equal" if same else "[red]DIFFER[/red]"
            )
        console.print(table)
        for server, client in zip(servers, clients, strict=True):
            median = milliseconds(client, asked[0])
            console.print(
                f"{server.name:6}  ready in {server.seconds_to_ready:.2f} s, "
                f"{resident_megabytes(server.pid):.0f} MB resident, {median:.2f} ms a call alone (median of 51)",
                highlight=False,
            )
        if different:
            console.print(f"[red]{different} of {len(asked)} answers differ[/red]")
            return 1
        console.print(f"[green]{len(asked)} of {len(asked)} answers are equal bit for bit.[/green]")
        if chat and not converse(console, chat, dict(zip((s.name for s in servers), clients, strict=True))):
            return 1
    go_on = json.dumps({"model_id": "mixed", "features": grpcurl_features(asked[-1])}, ensure_ascii=False)
    console.print("\nGo on: `make serve` in one terminal, and in another", highlight=False)
    print(
        f"  build/tools/grpcurl -plaintext -d '{go_on}' \\\n    127.0.0.1:50051 inference.v1.InferenceService/Predict",
    )
    if chat:
        print(f"  .venv/bin/concord chat {chat}")
    return 0


def grpcurl_features(question: Question) -> dict[str, dict[str, float | str]]:
    """The features as proto JSON."""
    return {
        name: {"string_value": value} if isinstance(value, str) else {"float_value": value}
        for name, value in question.features.items()
    }


if __name__ == "__main__":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    sys.exit(main())
