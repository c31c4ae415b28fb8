# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from concord_export.__main__ import main

TRAIN = """
from sklearn.linear_model import Ridge
from concord_export import Source

def source():
    rows = [[float(i), float(i * i % 7)] for i in range(30)]
    return Source(Ridge().fit(rows, [2 * a - b for a, b in rows]), rows, description="[bold]x[/bold]")

def fails():
    raise RuntimeError("no data today")

def other():
    return 1

def far():
    s = source()
    true = s.estimator.predict
    s.estimator.predict = lambda rows: true(rows) + 0.01
    return s

number = 1
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "train", raising=False)
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_export_verify_inspect(here: Path) -> None:
    exported = call("sklearn", "train:source", "models/line")
    assert exported.exit_code == 0, exported.output
    assert "models/line/1" in exported.output
    assert "parity: 1000 rows (30 given)" in exported.output
    assert call("sklearn", "train:source", "models/line").output.startswith("models/line/2")
    assert call("sklearn", "train:source", "models/line/9").exit_code == 0

    verified = call("verify", "models/line/1")
    assert verified.exit_code == 0
    assert "2 files as listed, 8 golden cases right" in verified.output

    shown = call("inspect", "models/line/1")
    assert shown.exit_code == 0
    for text in ("line version 1, tabular", "[bold]x[/bold]", "x0", "float_features[1]", "prediction", "1e-05 + 1e-06"):
        assert text in shown.output
    document = json.loads(call("inspect", "models/line/1", "--json").output)
    assert document["manifest"]["parity"]["rows"] == "1000"
    assert document["golden"]["cases"] == 8


def test_replace(here: Path) -> None:
    assert call("sklearn", "train:source", "models/line/1").exit_code == 0
    again = call("sklearn", "train:source", "models/line/1")
    assert again.exit_code == 1
    assert "is there already" in again.stderr
    assert call("sklearn", "train:source", "models/line/1", "--replace").exit_code == 0


def test_limits(here: Path) -> None:
    failed = call("sklearn", "train:far", "models/line/1")
    assert failed.exit_code == 1
    assert "Worst row" in failed.stderr
    assert not (here / "models").exists()
    wider = call("sklearn", "train:far", "models/line/1", "--absolute-limit", "0.1")
    assert wider.exit_code == 0, wider.output
    assert "0.1 + 1e-06" in call("inspect", "models/line/1").output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["sklearn", "model.pkl", "models/m"], 2, "Pickles are never read"),
        (["sklearn", "models/model.joblib:load", "models/m"], 2, "Pickles are never read"),
        (["sklearn", "train", "models/m"], 2, "expected a module and a function"),
        (["sklearn", "train.py:source", "models/m"], 2, "there is no module train.py"),
        (["sklearn", "nowhere:source", "models/m"], 2, "there is no module nowhere"),
        (["sklearn", "train:missing", "models/m"], 2, "has no function missing"),
        (["sklearn", "train:number", "models/m"], 2, "has no function number"),
        (["sklearn", "train:source", "models/a b"], 2, "model id: expected"),
        (["sklearn", "train:source", "models/m/01"], 2, "version: expected"),
        (["sklearn", "train:source", "models/m", "--absolute-limit", "-1"], 2, "not in the range"),
        (["sklearn", "train:fails", "models/m"], 1, "no data today"),
        (["sklearn", "train:other", "models/m"], 1, "returned a int; expected a concord_export.Source"),
        (["verify", "nowhere"], 2, "does not exist"),
        (["verify", "."], 1, "manifest.json: is missing"),
        (["inspect", "."], 1, "manifest.json: is missing"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_wrong_use_and_failures(here: Path, arguments: list[str], code: int, message: str) -> None:
    result = call(*arguments)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert not (here / "models").exists()


def test_verify_names_the_file_that_was_changed(here: Path) -> None:
    assert call("sklearn", "train:source", "models/line/1").exit_code == 0
    path = here / "models" / "line" / "1" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    result = call("verify", "models/line/1")
    assert result.exit_code == 1
    assert "model.onnx: sha256 is" in result.stderr


def test_reading_packages_loads_no_training_library() -> None:
    """Writing and verifying packages starts fast: scikit-learn and skl2onnx load only for an export."""
    code = (
        "import sys, concord_export, concord_export.__main__, concord_export.verification\n"
        "bad = {'sklearn', 'skl2onnx', 'joblib', 'scipy', 'torch'} & set(sys.modules)\n"
        "assert not bad, bad\n"
        "import os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert result.returncode == 0, result.stderr
