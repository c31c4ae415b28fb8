# SPDX-License-Identifier: Apache-2.0
"""`buf breaking` against the released image sees a change that would break a client, on a copy of proto/."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BUF = Path(sys.executable).parent / "buf"
GOOGLE = ("api/annotations", "api/http", "rpc/status", "rpc/error_details")
SERVICE = "proto/inference/v1/inference_service.proto"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the workspace: buf.yaml and its two modules."""
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    for name in GOOGLE:  # as the Makefile does for build/proto-deps
        target = tmp_path / "build" / "proto-deps" / "google" / f"{name}.proto"
        target.parent.mkdir(parents=True, exist_ok=True)
        package, _, file = name.partition("/")
        target.write_bytes((files(f"google.{package}") / f"{file}.proto").read_bytes())
    return tmp_path


def breaking(workspace: Path) -> subprocess.CompletedProcess[str]:
    """What `make check` runs, on the copy; the image is the committed one."""
    released = ROOT / "proto" / "released.binpb"
    return subprocess.run(
        [str(BUF), "breaking", "proto", "--against", str(released)],
        cwd=workspace,
        capture_output=True,
        text=True,
        timeout=60,
    )


def change(workspace: Path, old: str, new: str) -> None:
    file = workspace / SERVICE
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def test_the_contract_breaks_nobody(copy: Path) -> None:
    result = breaking(copy)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("map<string, FeatureValue> features = 3;", "map<string, FeatureValue> features = 33;", 'field "3"'),
        ("float latency_ms = 3;", "double latency_ms = 3;", "latency_ms"),
        ("  rpc Check(HealthCheckRequest) returns (HealthCheckResponse);\n", "", '"Check"'),
    ],
    ids=["a field renumbered", "a type changed", "a method removed"],
)
def test_a_change_that_breaks_clients_fails(copy: Path, old: str, new: str, complaint: str) -> None:
    change(copy, old, new)
    result = breaking(copy)
    assert result.returncode == 100, result.stderr  # buf's code for findings
    assert complaint in result.stdout
    assert "inference_service.proto" in result.stdout


def test_a_field_added_breaks_nobody(copy: Path) -> None:
    change(copy, "  string model_version = 5;\n}", "  string model_version = 5;\n  string later = 6;\n}")
    result = breaking(copy)
    assert (result.returncode, result.stdout) == (0, "")
