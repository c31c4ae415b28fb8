# SPDX-License-Identifier: Apache-2.0
"""The graphs of conformance/admission as models without a manifest: refused-<name> and admitted-<name>."""

from __future__ import annotations

from pathlib import Path

ADMISSION = Path(__file__).resolve().parent / "admission"
# Admitted by the rules, but of no use as a model alone: its data lies in another file.
_NOT_ALONE = frozenset({"external-listed"})


def verdicts() -> dict[str, str]:
    """What admission says of each graph, in the order of verdicts.txt; empty: it is admitted."""
    lines = (ADMISSION / "verdicts.txt").read_text(encoding="utf-8").splitlines()
    given = (line.split(": ", 1) for line in lines)
    return {name: "" if verdict == "admitted" else verdict for name, verdict in given if name not in _NOT_ALONE}


def write_admission_fixtures(root: Path) -> None:
    """A version 1 of each, with the very bytes of the graph."""
    for name, refusal in verdicts().items():
        directory = root / f"{'refused' if refusal else 'admitted'}-{name}" / "1"
        directory.mkdir(parents=True)
        (directory / "model.onnx").write_bytes((ADMISSION / f"{name}.onnx").read_bytes())
