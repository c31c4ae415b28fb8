# SPDX-License-Identifier: Apache-2.0
"""The inputs and outputs of a decoder's graph, held against what its settings say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from concord_server.fault import quote
from concord_server.generate.settings import Settings, layer_name
from concord_server.model import Call, Session, SessionError
from concord_server.tensor import DType, Spec, Tensor, dtype_name

__all__ = ["Signature", "probe", "signature"]

_IDS = (DType.INT64,)
_FLOATS = (DType.FLOAT, DType.FLOAT16)


@dataclass(frozen=True, slots=True)
class Signature:
    """What settings leave to the graph."""

    cache: DType
    """Of keys and values: FLOAT or FLOAT16."""
    logits: DType
    """FLOAT or FLOAT16."""
    positions: bool
    """Whether it takes the tokens' positions."""


def signature(settings: Settings, inputs: Sequence[Spec], outputs: Sequence[Spec]) -> Signature:
    """Raises SessionError where the graph is not what the settings say. Outputs of other names are left alone."""
    given, made = _Side("input", inputs), _Side("output", outputs)
    given.find(settings.input_ids, _IDS, (-1, -1))
    given.find(settings.attention_mask, _IDS, (-1, -1))
    positions = settings.position_ids in given.specs
    if positions:
        given.find(settings.position_ids, _IDS, (-1, -1))
    shape = (-1, settings.heads, -1, settings.head_size)
    cache: Sequence[DType] = _FLOATS
    for layer in range(settings.layers):
        for past, present in (
            (settings.past_key, settings.present_key),
            (settings.past_value, settings.present_value),
        ):
            # All are of the first one's type.
            cache = (given.find(layer_name(past, layer), cache, shape).dtype,)
            made.find(layer_name(present, layer), cache, shape)
    logits = made.find(settings.logits, _FLOATS, (-1, -1, settings.vocabulary))
    for name in given.specs:
        if name not in given.seen:
            raise SessionError(f"input {quote(name)} is none that text generation gives")
    return Signature(cache[0], logits.dtype, positions)


def probe(settings: Settings, found: Signature, session: Session) -> bool:
    """Whether the graph gives the logits of the last token alone: it runs two tokens, in memory of their own.

    Raises SessionError where what comes out is of another shape than what a decoder binds.
    """
    count = min(2, settings.context)
    tokens = np.zeros((1, count), np.int64)
    cache = (1, settings.heads, count, settings.head_size)
    given = {
        settings.input_ids: Tensor(DType.INT64, tokens),
        settings.position_ids: Tensor(DType.INT64, np.arange(count).reshape(1, count)),
        settings.attention_mask: Tensor(DType.INT64, tokens + 1),
    }
    empty = Tensor(found.cache, np.zeros(cache, found.cache.storage))
    inputs = [given.get(spec.name, empty) for spec in session.inputs]
    outputs = session.run(inputs, range(len(session.outputs)), Call())
    present = {
        layer_name(name, layer)
        for layer in range(settings.layers)
        for name in (settings.present_key, settings.present_value)
    }
    last_only = False
    expected: tuple[int, ...]
    for spec, output in zip(session.outputs, outputs, strict=True):
        got = output.array.shape
        if spec.name == settings.logits:
            last_only = len(got) == 3 and got[1] == 1
            expected = (1, 1 if last_only else count, settings.vocabulary)
        elif spec.name in present:
            expected = cache
        else:
            continue
        if got != expected:
            raise SessionError(f"output {quote(spec.name)}: expected {_lengths(expected)}, got {_lengths(got)}")
    return last_only


class _Side:
    """The inputs, or the outputs."""

    def __init__(self, what: str, specs: Sequence[Spec]) -> None:
        self._what = what
        self.specs = {spec.name: spec for spec in specs}
        self.seen: set[str] = set()

    def find(self, name: str, dtypes: Sequence[DType], shape: Sequence[int]) -> Spec:
        """The tensor of a name. What the graph leaves open fits; the logits' tokens may be the last one alone."""
        spec = self.specs.get(name)
        if spec is None:
            raise SessionError(f"expected an {self._what} {quote(name)}, got none")
        if name in self.seen:
            raise SessionError(f"{self._what} {quote(name)}: expected one use of it, got two")
        self.seen.add(name)
        if spec.dtype not in dtypes or not (spec.unranked or _fits(spec.shape, shape)):
            types = " or ".join(dtype_name(dtype) for dtype in dtypes)
            got = f"{dtype_name(spec.dtype)} {_lengths(spec.shape)}"
            raise SessionError(f"{self._what} {quote(name)}: expected {types} {_lengths(shape)}, got {got}")
        return spec


def _fits(shape: Sequence[int], given: Sequence[int]) -> bool:
    return len(shape) == len(given) and all(
        length in (-1, wanted) or (len(given) == 3 and axis == 1 and length == 1)
        for axis, (length, wanted) in enumerate(zip(shape, given, strict=True))
    )


def _lengths(shape: Sequence[int]) -> str:
    """A shape in a message, with a question mark where it is open."""
    return "[" + ",".join("?" if length < 0 else str(length) for length in shape) + "]"
