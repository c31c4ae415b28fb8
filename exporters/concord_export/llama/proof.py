# SPDX-License-Identifier: Apache-2.0
"""What a graph answered against the same computation in NumPy: on the weights that it holds, and on the source's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import model_pb2

from concord_export.errors import ParityError
from concord_export.limits import Limits, ulp_distance
from concord_export.llama.architecture import Llama, Weights
from concord_export.llama.generation import Generator
from concord_export.llama.golden import Case
from concord_export.llama.quantisation import Precision, Rounded
from concord_export.llama.reference import logits
from concord_export.progress import Progress

__all__ = ["Proof", "prove"]

Doubles = npt.NDArray[np.float64]

_FLOATS = Limits(1e-3, 1e-5)
# Activations in 8-bit integers cost far more than sums in floats.
_INTEGERS = Limits(8, 0)
# What rounding the weights may cost.
_SOURCE_LIMITS: dict[Precision, Limits] = {"fp32": _FLOATS, "int8": Limits(8, 0), "int4": Limits(32, 0)}
# By how much a golden token leads: in floats, beyond what other machines could round otherwise. Products in integers
# differ from NumPy by more, but among machines hardly: the leads of both shall be clear.
_LEAD, _LEAD_OF_INTEGERS = 1e-3, 0.1


@dataclass(frozen=True)
class Proof:
    """What was found."""

    cases: list[Case]
    """The cases, each as far as its tokens lead clearly."""
    own_error: float
    """Largest difference of a logit from NumPy's on the weights that the package holds."""
    parity: model_pb2.ParityRecord
    """Of the logits, on the source's weights."""
    same_tokens: float
    """Which share of the tokens is the likeliest on the source's weights, too."""


def prove(
    llama: Llama,
    weights: Weights,
    precision: Precision,
    generator: Generator,
    cases: Sequence[Case],
    *,
    integers: bool = False,
    progress: Progress | None = None,
) -> Proof:
    """Compares the cases' logits. Raises ParityError where they differ by too much, or no token leads clearly.

    NumPy knows each text from the start: if its likeliest token is the one that came, at every place, then it would
    have made the same text.
    """
    expected = _logits(llama, Rounded(weights, precision), cases, progress)
    got = [np.stack(case.text.logits).astype(np.float64) for case in cases]
    error = _check(expected, got, _INTEGERS if integers else _FLOATS, "NumPy")
    lead = _LEAD_OF_INTEGERS if integers else max(_LEAD, 2 * error)
    kept: list[Case] = []
    wanted: list[Doubles] = []
    for case, theirs, ours in zip(cases, expected, got, strict=True):
        cut = _cut(case, _clear(theirs, ours, lead), generator)
        if cut.text.tokens:
            kept.append(cut)
            wanted.append(theirs[: len(cut.text.logits)])
    if not kept:
        raise ParityError("no prompt has an answer whose tokens are clearly the likeliest: give others")
    source = wanted if precision == "fp32" else _logits(llama, weights, kept, progress)
    ours = np.concatenate([np.stack(case.text.logits) for case in kept]).astype(np.float64)
    theirs = np.concatenate(source)
    limits = _SOURCE_LIMITS[precision]
    record = model_pb2.ParityRecord(
        rows=len(ours),
        max_absolute_error=_check([theirs], [ours], limits, "the source's weights"),
        max_ulp_error=int(ulp_distance(theirs, ours).max()),
        absolute_limit=limits.absolute,
        relative_limit=limits.relative,
    )
    same = float((theirs.argmax(axis=-1) == ours.argmax(axis=-1)).mean())
    return Proof(kept, error, record, same)


def _logits(llama: Llama, weights: Weights, cases: Sequence[Case], progress: Progress | None) -> list[Doubles]:
    texts = [[*case.text.prompt, *case.text.tokens] for case in cases]
    asked = [range(len(case.text.prompt) - 1, len(case.text.prompt) - 1 + len(case.text.logits)) for case in cases]
    return logits(llama, weights, texts, asked, progress)


def _check(expected: Sequence[Doubles], got: Sequence[Doubles], limits: Limits, what: str) -> float:
    """The largest difference. Raises ParityError where it is too much."""
    worst = max(float(limits.excess(theirs, ours).max()) for theirs, ours in zip(expected, got, strict=True))
    error = max(float(np.abs(ours - theirs).max()) for theirs, ours in zip(expected, got, strict=True))
    if not worst <= 1:
        raise ParityError(f"the graph's logits differ from those of {what} by up to {error:.3g}, too much")
    return error


def _clear(theirs: Doubles, ours: Doubles, lead: float) -> int:
    """How many tokens from the first on lead by more than `lead` in both, and are the same."""
    same = theirs.argmax(axis=-1) == ours.argmax(axis=-1)
    for values in (theirs, ours):
        best = np.partition(values, -2, axis=-1)[:, -2:]
        same &= best[:, 1] - best[:, 0] > lead
    clear: list[bool] = same.tolist()
    return clear.index(False) if False in clear else len(clear)


def _cut(case: Case, count: int, generator: Generator) -> Case:
    """The case with its first tokens only, `count` of them or, if its end is one, one less."""
    text = case.text
    if count == len(text.logits):
        return case
    tokens = text.tokens[:count]
    case.request.config.max_tokens = count
    shorter = dataclasses.replace(
        text, tokens=tokens, ended=False, logits=text.logits[:count], text=generator.text(tokens)
    )
    return Case(case.request, shorter)
