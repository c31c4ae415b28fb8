# SPDX-License-Identifier: Apache-2.0
"""Answers into CSV and JSON."""

from __future__ import annotations

import csv
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from typing import IO, Any, Protocol

from concord_client import Answer, ConcordError, FeatureValue, ModelVersion
from concord_client._errors import defect
from concord_client.command.failure import one_line
from concord_client.command.rows import Row
from concord_client.command.screen import visible

# JSON leaves them as they are, and a terminal obeys them.
_CONTROLS = re.compile("[\x7f-\x9f]")


class Writer(Protocol):
    """Writes rows' answers, in order."""

    def write(self, row: Row, outcome: Answer | ConcordError) -> ConcordError | None:
        """Writes one. Gives back the error that the row met, with this answer or in writing it."""


class JsonLines:
    """An object a line: row, then model_version, request_id, predictions and outputs, or error."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def write(self, row: Row, outcome: Answer | ConcordError) -> ConcordError | None:
        self._out.write(json_text({"row": row.number, **document(outcome)}) + "\n")
        return outcome if isinstance(outcome, ConcordError) else None


class Csv:
    """A header, then a line a row: row, columns kept from the input, predictions, outputs, model_version, error."""

    def __init__(self, out: IO[str], version: ModelVersion, kept: Sequence[str], *, terminal: bool = False) -> None:
        """version tells which predictions and outputs there are; for a terminal control characters are made visible."""
        self._predictions = [prediction.name for prediction in version.predictions]
        self._outputs = [output.name for output in version.outputs]
        self._kept = len(kept)
        self._shown = visible if terminal else str
        self._writer = csv.writer(out, lineterminator="\n")
        self._put(
            [
                "row",
                *kept,
                *(f"predictions.{name}" for name in self._predictions),
                *(f"outputs.{name}" for name in self._outputs),
                "model_version",
                "error",
            ]
        )

    def write(self, row: Row, outcome: Answer | ConcordError) -> ConcordError | None:
        error = outcome if isinstance(outcome, ConcordError) else self._beyond(outcome)
        kept = row.kept or ("",) * self._kept
        if error is not None or isinstance(outcome, ConcordError):
            blanks = [""] * (len(self._predictions) + len(self._outputs) + 1)
            self._put([row.number, *kept, *blanks, one_line(error) if error is not None else ""])
            return error
        predictions = outcome.proto.predictions
        outputs = outcome.proto.outputs
        self._put(
            [
                row.number,
                *kept,
                *(_cell(shortest(predictions[n])) if n in predictions else "" for n in self._predictions),
                *(_cell(_plain(outputs[n])) if n in outputs else "" for n in self._outputs),
                outcome.model_version,
                "",
            ]
        )
        return None

    def _beyond(self, answer: Answer) -> ConcordError | None:
        """An answer with more than the catalog has told: a CSV's header cannot grow."""
        more = sorted(answer.predictions.keys() - self._predictions) + sorted(answer.outputs.keys() - self._outputs)
        return defect(f"{more[0]!r} is not in the catalog") if more else None

    def _put(self, cells: Sequence[Any]) -> None:
        self._writer.writerow([self._shown(str(cell)) for cell in cells])


def document(outcome: Answer | ConcordError) -> dict[str, Any]:
    """An answer or error as an object for JSON."""
    if isinstance(outcome, ConcordError):
        error: dict[str, Any] = {"code": outcome.code.name, "reason": outcome.reason, "message": outcome.message}
        if outcome.violations:
            error["violations"] = [{"field": v.field, "description": v.description} for v in outcome.violations]
        return {"error": error}
    return {
        "model_version": outcome.model_version,
        "request_id": outcome.request_id,
        "predictions": {name: shortest(value) for name, value in sorted(outcome.proto.predictions.items())},
        "outputs": {name: _plain(value) for name, value in sorted(outcome.proto.outputs.items())},
    }


def values_of(
    numbers: Mapping[str, float], values: Mapping[str, FeatureValue]
) -> tuple[dict[str, str], dict[str, str]]:
    """Predictions and outputs as texts for people, in the order of their names."""
    return (
        {name: _cell(shortest(number)) for name, number in sorted(numbers.items())},
        {name: _cell(_plain(value)) for name, value in sorted(values.items())},
    )


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON in UTF-8, numbers that JSON does not have as protobuf writes them: "NaN", "Infinity", "-Infinity"."""
    text = json.dumps(_standard(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _standard(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _standard(element) for key, element in value.items()}
    return [_standard(element) for element in value] if isinstance(value, list) else value


def _plain(value: FeatureValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    held = getattr(value, kind)
    if kind == "float_value":
        return shortest(held)
    if kind == "float_array":
        return [shortest(element) for element in held.values]
    return list(held.values) if kind.endswith("_array") else held


def shortest(value: float) -> float:
    """The shortest decimal that is this float32: 0.1, not 0.10000000149011612."""
    if math.isfinite(value):
        for digits in (6, 7, 8):
            short = float(f"{value:.{digits}g}")
            try:
                if struct.unpack("<f", struct.pack("<f", short))[0] == value:
                    return short
            except OverflowError:
                continue
        return float(f"{value:.9g}")
    return value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return json_text(value) if isinstance(value, list) else str(value)
