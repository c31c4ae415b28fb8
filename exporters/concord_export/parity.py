# SPDX-License-Identifier: Apache-2.0
"""How near an export is to its source: on the author's rows, on rows made from them, and at the thresholds of trees."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import model_pb2

from concord_export.answers import Answers, Question
from concord_export.columns import Columns
from concord_export.errors import ParityError, SourceError
from concord_export.limits import Limits, ulp_distance
from concord_export.members import members_of
from concord_export.progress import Progress
from concord_export.runtime import Session
from concord_export.trees import floor_to_float32, split_thresholds

__all__ = ["Trial", "compare", "make_trial"]

_SEED = 20260101
_ROWS = 1000
_MADE_AT_LEAST = 200
_BATCH = 4096
# As many rows are run together, too: how many there are may change how a sum is made.
_SIZES = (2, 3, 5, 8, 17, 64, 256)


@dataclass(frozen=True)
class Trial:
    """Rows to compare on, with the source's answers. The first `real` rows are the author's own."""

    columns: Columns
    expected: Answers
    real: int


def make_trial(question: Question, real: Columns, *, try_missing: bool) -> Trial:
    """The author's rows and made ones, at least 1000 together, with the source's answers to all of them.

    Always the same for the same rows. Made rows that the source itself refuses are left out.
    """
    made = _made_rows(real, question.estimator, max(_ROWS - len(real), _MADE_AT_LEAST))
    try:
        answers = question.ask_source(real)
    except Exception as error:
        # Whatever the model raises: its own words are what helps.
        raise SourceError(f"estimator: it fails on the rows given: {error}") from error
    parts = [(real, answers), *_accepted(question, made)]
    if try_missing:
        parts += _accepted(question, _with_missing(made.take(slice(_MADE_AT_LEAST // 2))))
    columns = parts[0][0]
    for more, _ in parts[1:]:
        columns = columns.joined(more)
    return Trial(columns, _joined([answers for _, answers in parts]), len(real))


def compare(
    session: Session, question: Question, trial: Trial, limits: Limits, progress: Progress | None = None
) -> model_pb2.ParityRecord:
    """Runs the export on every row, together and each alone. Raises ParityError, with the worst row shown."""
    tensors = trial.columns.tensors()
    count = len(trial.columns)
    batches = [
        question.read(session.run({name: value[start : start + _BATCH] for name, value in tensors.items()}))
        for start in range(0, count, _BATCH)
    ]
    got = _joined(batches)
    excess = limits.excess(trial.expected.numbers, got.numbers)
    worst = excess.max(axis=1, initial=0.0)
    if got.labels is not None and trial.expected.labels is not None:
        differ = (got.labels != trial.expected.labels).reshape(count, -1).any(axis=1)
        worst = np.where(differ, np.inf, worst)
    row = int(worst.argmax())
    if worst[row] > 1:
        raise ParityError(_describe(question, trial, got, limits, row, beyond=int((worst > 1).sum())))

    equal = True
    for index in range(count):
        alone = question.read(session.run({name: value[index : index + 1] for name, value in tensors.items()}))
        equal = equal and _same_bits(alone, got.take(slice(index, index + 1)))
        if progress is not None:
            progress("comparing rows one by one", index + 1, count)
    for size in _SIZES:
        some = {name: value[:size] for name, value in tensors.items()}
        equal = equal and _same_bits(question.read(session.run(some)), got.take(slice(min(size, count))))
    with np.errstate(invalid="ignore"):
        difference = np.abs(got.numbers - trial.expected.numbers)
    return model_pb2.ParityRecord(
        rows=count,
        max_absolute_error=float(difference[np.isfinite(difference)].max(initial=0.0)),
        max_ulp_error=int(ulp_distance(trial.expected.numbers, got.numbers).max(initial=0)),
        absolute_limit=limits.absolute,
        relative_limit=limits.relative,
        labels_compared=0 if got.labels is None else got.labels.size,
        batched_equals_single=equal,
    )


def _joined(parts: Sequence[Answers]) -> Answers:
    labels = [part.labels for part in parts if part.labels is not None]
    return Answers(np.concatenate([part.numbers for part in parts]), np.concatenate(labels) if labels else None)


def _same_bits(first: Answers, second: Answers) -> bool:
    # Widening to 64 bits kept every bit of the 32.
    if first.numbers.tobytes() != second.numbers.tobytes():
        return False
    return first.labels is None or second.labels is None or bool((first.labels == second.labels).all())


def _made_rows(real: Columns, estimator: Any, count: int) -> Columns:
    """Rows near the real ones: every value is some real row's; floats are shifted a little, or put at a threshold."""
    rng = np.random.default_rng(_SEED)
    thresholds = _thresholds(estimator, len(real.columns))
    values = []
    base = rng.integers(0, len(real), count)
    for index, (column, value) in enumerate(zip(real.columns, real.values, strict=True)):
        # Mostly one row's own value, else that of another row.
        mixed = value[np.where(rng.random(count) < 0.8, base, rng.integers(0, len(real), count))]
        if column.kind in ("float", "double"):
            mixed = _moved(mixed, value, rng)
            at = thresholds.get(index)
            if at is not None:
                chosen = rng.random(count) < 0.5
                mixed[chosen] = rng.choice(at, int(chosen.sum()))
        if real.texts:
            mixed = _reworded(mixed, value, rng)
        values.append(mixed)
    return real.replaced(values)


def _reworded(mixed: npt.NDArray[Any], value: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    """Texts as nobody wrote them: in capitals, cut off, two in one, on several lines, and none at all."""
    made = mixed.copy()
    others = rng.choice(value, len(made))
    for index, (text, other) in enumerate(zip(mixed.tolist(), others.tolist(), strict=True)):
        half = text[: len(text) // 2]
        made[index] = (text, text.upper(), half, f"{half} {other}", text.replace(" ", "\n\t"), "")[index % 6]
    return made


def _moved(mixed: npt.NDArray[Any], value: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
    finite = value[np.isfinite(value)].astype(np.float64)
    if not len(finite):
        return mixed
    with np.errstate(over="ignore", invalid="ignore"):
        moved = (mixed + finite.std() * 0.1 * rng.standard_normal(len(mixed))).astype(value.dtype)
    # Whole numbers (counts, codes) stay whole, zeros mostly zero; a zero may be a negative one.
    if (finite == np.round(finite)).all():
        moved = np.round(moved)
    moved = np.where(rng.random(len(mixed)) < 0.5, mixed, moved)
    return np.where((moved == 0) & (rng.random(len(mixed)) < 0.5), -moved, moved).astype(value.dtype)


def _thresholds(estimator: Any, features: int) -> dict[int, npt.NDArray[np.float32]]:
    """For each feature the 32-bit floats at and next to the thresholds of all trees that see as many features."""
    found: dict[int, list[float]] = {}
    for member in members_of(estimator):
        if getattr(member, "n_features_in_", None) == features:
            for feature, threshold in _splits(member):
                found.setdefault(feature, []).append(threshold)
    near: dict[int, npt.NDArray[np.float32]] = {}
    for feature, thresholds in found.items():
        floor = floor_to_float32(np.unique(np.array(thresholds, np.float64)))
        floor = floor[np.isfinite(floor)]
        if len(floor):
            with np.errstate(over="ignore"):
                beside = [np.nextafter(floor, np.float32(-np.inf)), np.nextafter(floor, np.float32(np.inf))]
            near[feature] = np.concatenate([floor, *beside])
    return near


def _splits(member: Any) -> list[tuple[int, float]]:
    boosted = getattr(member, "boosted", None)
    library = type(member).__module__.partition(".")[0]
    if boosted is None and library in ("lightgbm", "xgboost"):
        try:
            boosted = importlib.import_module(f"concord_export.from_{library}").boosted_of(member)
        except Exception:
            # What cannot be exported says so when it is converted.
            return []
    return split_thresholds(member) if boosted is None else list(boosted.thresholds())


def _with_missing(rows: Columns) -> Columns:
    """Rows with NaN in a tenth of their floats, and in one at least."""
    floats = [index for index, column in enumerate(rows.columns) if column.kind in ("float", "double")]
    if not floats:
        return rows.take(slice(0))
    rng = np.random.default_rng(_SEED + 1)
    always = rng.choice(floats, len(rows))
    values = [value.copy() for value in rows.values]
    for index in floats:
        values[index][(always == index) | (rng.random(len(rows)) < 0.1)] = np.nan
    return rows.replaced(values)


def _accepted(question: Question, rows: Columns) -> list[tuple[Columns, Answers]]:
    """The rows that the source answers, with its answers; one that it refuses (NaN, a new category) proves nothing."""
    if not len(rows):
        return []
    try:
        with warnings.catch_warnings():
            # Such rows may well be unusual; the author need not hear of it.
            warnings.simplefilter("ignore")
            return [(rows, question.ask_source(rows))]
    except Exception:
        # Whatever the source raises. The halves find the rows that it is about.
        if len(rows) == 1:
            return []
        half = len(rows) // 2
        return _accepted(question, rows.take(slice(half))) + _accepted(question, rows.take(slice(half, None)))


def _describe(question: Question, trial: Trial, got: Answers, limits: Limits, row: int, *, beyond: int) -> str:
    kind = "of the rows given" if row < trial.real else "made from the rows given"
    lines = [
        f"the export does not answer like its source on {beyond} of {len(trial.columns)} rows; "
        f"the limit is {limits.absolute:g} + {limits.relative:g} * |expected|, labels must be equal.",
        f"Worst row: {row}, {kind}",
        "  features:",
    ]
    features = trial.columns.row(row)
    width = max(len(name) for name in (*features, *question.names, "label"))
    lines += [f"    {name:<{width}}  {_shown(value)}" for name, value in features.items()]
    lines.append("  answers:")
    if got.labels is not None and trial.expected.labels is not None:
        expected_label, got_label = trial.expected.labels[row], got.labels[row]
        mark = "" if np.array_equal(expected_label, got_label) else "  <- differs"
        lines.append(f"    {'label':<{width}}  expected {expected_label}, got {got_label}{mark}")
    excess = limits.excess(trial.expected.numbers[row], got.numbers[row])
    for index, name in enumerate(question.names):
        expected, answer = trial.expected.numbers[row, index], got.numbers[row, index]
        mark = "  <- beyond the limit" if excess[index] > 1 else ""
        lines.append(
            f"    {name:<{width}}  expected {expected:.9g}, got {answer:.9g}, "
            f"difference {abs(answer - expected):.3g}{mark}"
        )
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    return repr(value) if isinstance(value, str) else str(value)
