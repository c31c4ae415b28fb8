# SPDX-License-Identifier: Apache-2.0
"""Both servers and scikit-learn on every real row of the demo's models, and on seeded perturbations up to 1000 rows.

Run after `make build models`; with -s it prints the table of docs and notes.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime loads

import numpy as np
import pytest
from concord_client import Answer, Client
from concord_export.models import breast_cancer, mixed
from concord_export.source import Source

ROOT = Path(__file__).resolve().parents[3]
SERVERS = {
    "go": [str(ROOT / "bin" / "inference-server")],
    "python": [sys.executable, "-m", "concord_server"],
}
SOURCES = {"breast-cancer": breast_cancer.source, "mixed": mixed.source}
ROWS = 1000


@contextmanager
def serving(command: list[str], log: Path) -> Iterator[str]:
    """The gRPC address of a server on the demo's models, ended by its own process id."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "--models", str(ROOT / "models"), "--listen", "127.0.0.1:0", "--http", "off"],
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
            process.wait(timeout=30)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Client]]:
    folder = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(Client(stack.enter_context(serving(command, folder / f"{name}.log"))))
            for name, command in SERVERS.items()
        }


def rows_of(source: Source) -> list[list[Any]]:
    """The author's rows, then perturbed ones, all on the values that the wire carries: 32-bit floats and strings."""
    real = [list(row) for row in np.asarray(source.rows, dtype=object)]
    random = np.random.default_rng(20261121)
    made = []
    while len(real) + len(made) < ROWS:
        row = real[int(random.integers(len(real)))]
        made.append(
            [value if isinstance(value, str) else value * (1 + 0.2 * random.standard_normal()) for value in row]
        )
    return [[value if isinstance(value, str) else float(np.float32(value)) for value in row] for row in [*real, *made]]


def table(rows: list[list[Any]]) -> Any:
    """The rows as scikit-learn takes them."""
    if not any(isinstance(value, str) for value in rows[0]):
        return np.array(rows, dtype=np.float64)
    mixed_rows = np.empty((len(rows), len(rows[0])), dtype=object)
    for i, row in enumerate(rows):
        mixed_rows[i, :] = row
    return mixed_rows


def bits(answer: Answer) -> tuple[Any, ...]:
    numbers = sorted((name, struct.pack("<f", value)) for name, value in answer.predictions.items())
    return (*numbers, *sorted(answer.outputs.items()))


@pytest.mark.parametrize("model_id", SOURCES)
def test_same_answers(model_id: str, clients: dict[str, Client]) -> None:
    source = SOURCES[model_id]()
    assert source.features is not None
    names = [feature.name for feature in source.features]
    rows = rows_of(source)
    assert len(rows) >= ROWS
    features = [dict(zip(names, row, strict=True)) for row in rows]
    answers = {}
    for server, client in clients.items():
        batch = client.predict_batch(model_id, features)
        assert all(isinstance(answer, Answer) for answer in batch)
        answers[server] = [answer for answer in batch if isinstance(answer, Answer)]
        alone = [client.predict(model_id, features[i]) for i in range(0, len(rows), 10)]
        assert [bits(one) for one in alone] == [bits(one) for one in answers[server][::10]], "together is not as alone"
    assert [bits(one) for one in answers["go"]] == [bits(one) for one in answers["python"]]

    got = answers["go"]
    estimator = source.estimator
    if hasattr(estimator, "predict_proba"):
        classes = [str(name) for name in estimator.classes_]
        expected = estimator.predict_proba(table(rows))
        labels = [str(label) for label in estimator.predict(table(rows))]
        assert [answer.label for answer in got] == labels
    else:
        assert source.target_names is not None
        classes = list(source.target_names)
        expected = np.asarray(estimator.predict(table(rows))).reshape(len(rows), -1)
    numbers = np.array([[answer.predictions[name] for name in classes] for answer in got])
    difference = np.abs(numbers - expected)
    print(
        f"\n{model_id}: {len(rows)} rows ({len(source.rows)} real), Go = Python bit for bit,"
        f" largest difference from scikit-learn {difference.max():.3g}"
    )
    assert np.all(difference <= 1e-5 + 1e-6 * np.abs(expected))
