# SPDX-License-Identifier: Apache-2.0
"""The shared graphs of conformance/admission get the verdicts that stand beside them."""

from __future__ import annotations

import pathlib

import pytest
from concord_server.admission.graph import Refused, check

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "conformance" / "admission"
VERDICTS = dict(line.split(": ", 1) for line in (FOLDER / "verdicts.txt").read_text().splitlines())


def test_every_graph_has_a_verdict() -> None:
    assert {path.stem for path in FOLDER.glob("*.onnx")} == set(VERDICTS)


@pytest.mark.parametrize("name", VERDICTS)
def test_verdict(name: str) -> None:
    graph = (FOLDER / f"{name}.onnx").read_bytes()
    files = frozenset({"model.onnx.data"})
    try:
        check(graph, external_files=files)
        verdict = "admitted"
    except Refused as refused:
        verdict = str(refused)
    assert verdict == VERDICTS[name]


def test_integer_division_can_be_admitted() -> None:
    check((FOLDER / "divide-int32-by-input.onnx").read_bytes(), integer_division=True)
