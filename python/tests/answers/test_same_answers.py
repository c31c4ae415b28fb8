# SPDX-License-Identifier: Apache-2.0
"""Both servers and scikit-learn on every real row of the models fitted here, and on made rows up to 1000.

Run after `make build fitted-models`; with -s it prints a line for each model.
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
from concord_export.columns import Columns, read_columns
from concord_export.models import breast_cancer, diabetes, digits, mixed, sms_spam, wine
from concord_export.source import Source

ROOT = Path(__file__).resolve().parents[3]
SERVERS = {
    "go": [str(ROOT / "bin" / "inference-server")],
    "python": [sys.executable, "-m", "concord_server"],
}
SOURCES = {
    "breast-cancer": breast_cancer.source,
    "mixed": mixed.source,
    "wine": wine.source,
    "diabetes": diabetes.source,
    "digits": digits.source,
    "sms-spam": sms_spam.source,
}
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


def columns_of(source: Source) -> Columns:
    """The author's rows, then perturbed ones: numbers are scaled by noise, texts are other rows' texts."""
    real = read_columns(source.rows, source.features, source.estimator)
    random = np.random.default_rng(20261121)
    chosen = random.integers(len(real), size=max(0, ROWS - len(real)))
    made = []
    for value in real.take(chosen).values:
        if value.dtype.kind == "f":
            noise = 1 + 0.2 * random.standard_normal(len(value))
            made.append((value * noise).astype(value.dtype))
        else:
            made.append(value)
    return real.joined(real.replaced(made))


def bits(answer: Answer) -> tuple[Any, ...]:
    numbers = sorted((name, struct.pack("<f", value)) for name, value in answer.predictions.items())
    return (*numbers, *sorted(answer.outputs.items()))


@pytest.mark.parametrize("model_id", SOURCES)
def test_same_answers(model_id: str, clients: dict[str, Client]) -> None:
    source = SOURCES[model_id]()
    columns = columns_of(source)
    assert len(columns) >= ROWS
    features = [columns.row(i) for i in range(len(columns))]
    answers = {}
    for server, client in clients.items():
        batch = client.predict_batch(model_id, features)
        answers[server] = [answer for answer in batch if isinstance(answer, Answer)]
        assert len(answers[server]) == len(features)
        alone = [client.predict(model_id, features[i]) for i in range(0, len(features), 10)]
        assert [bits(one) for one in alone] == [bits(one) for one in answers[server][::10]], "together is not as alone"
    assert [bits(one) for one in answers["go"]] == [bits(one) for one in answers["python"]]

    got = answers["go"]
    rows = columns.source_rows()
    labels_equal = "no labels"
    if hasattr(source.estimator, "predict_proba"):
        names = [str(name) for name in source.class_names or source.estimator.classes_]
        expected = source.estimator.predict_proba(rows)
        labels = source.estimator.predict(rows).tolist()
        assert [answer.label for answer in got] == labels
        labels_equal = f"{len(labels)} of {len(labels)} labels equal"
    else:
        names = list(source.target_names or ["prediction"])
        expected = np.asarray(source.estimator.predict(rows)).reshape(len(columns), -1)
    numbers = np.array([[answer.predictions[name] for name in names] for answer in got])
    difference = np.abs(numbers - expected)
    print(
        f"\n{model_id}: {len(columns)} rows ({len(source.rows)} real), Go = Python bit for bit, against scikit-learn:"
        f" largest difference {difference.max():.3g}, {labels_equal}"
    )
    assert np.all(difference <= source.absolute_limit + source.relative_limit * np.abs(expected))
