# SPDX-License-Identifier: Apache-2.0
"""The inputs and outputs of a decoder's graph, held against what its settings say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from concord_server.fault import quote
from concord_server.generate.settings import Settings, layer_name
from concord_server.model import Call, Session, SessionError
from concord_server.tensor import DType, Spec, Tensor, dtype_name, shape_text

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
    given.match(settings.input_ids, _IDS, (-1, -1))
    given.match(settings.attention_mask, _IDS, (-1, -1))
    positions = settings.position_ids in given.specs
    if positions:
        given.match(settings.position_ids, _IDS, (-1, -1))
    shape = (-1, settings.heads, -1, settings.head_size)
    cache: Sequence[DType] = _FLOATS
    for name in layer_names(settings, settings.past_key, settings.past_value):
        cache = (given.match(name, cache, shape).dtype,)  # all are of the first one's type
    for name in layer_names(settings, settings.present_key, settings.present_value):
        made.match(name, cache, shape)
    for name in given.specs:
        if name not in given.seen:
            raise SessionError(f"input {quote(name)}: expected none of this name")
    logits = made.match(settings.logits, _FLOATS, (-1, -1, settings.vocabulary))
    if given.twice or made.twice:
        raise SessionError("expected an input and an output for each name, got names that are equal")
    return Signature(cache[0], logits.dtype, positions)


def layer_names(settings: Settings, *patterns: str) -> Iterator[str]:
    """The names of each layer's inputs or outputs, layer by layer."""
    for layer in range(settings.layers):
        for pattern in patterns:
            yield layer_name(pattern, layer)


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
    present = set(layer_names(settings, settings.present_key, settings.present_value))
    last_only = False
    for spec, output in zip(session.outputs, outputs, strict=True):
        got = output.array.shape
        if spec.name == settings.logits:
            last_only = len(got) == 3 and got[1] == 1
            expected = (1, 1 if last_only else count, settings.vocabulary)
            if got != expected:
                text = f"expected {shape_text(expected)}, got {shape_text(got)}"
                raise SessionError(f"logits of {count} tokens: {text}")
        elif spec.name in present and got != cache:
            raise SessionError(f"output {quote(spec.name)}: expected {shape_text(cache)}, got {shape_text(got)}")
    return last_only


class _Side:
    """The inputs, or the outputs."""

    def __init__(self, what: str, specs: Sequence[Spec]) -> None:
        self._what = what
        self.specs = {spec.name: spec for spec in specs}
        self.seen: set[str] = set()
        self.twice = False
        """Whether a name was asked for twice."""

    def match(self, name: str, dtypes: Sequence[DType], shape: Sequence[int]) -> Spec:
        """The tensor of a name. Its open lengths must be open, the others may be.

        The second of the logits' is 1 where they come for the last token alone.
        """
        self.twice = self.twice or name in self.seen
        self.seen.add(name)
        spec = self.specs.get(name)
        if spec is not None and spec.dtype in dtypes and not spec.unranked and _fits(spec.shape, shape):
            return spec
        either = " or ".join(dtype_name(dtype) for dtype in dtypes)
        got = spec.describe() if spec else "nothing"
        raise SessionError(f"{self._what} {quote(name)}: expected {either} {shape_text(shape)}, got {got}")


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(
        length in (-1, least) or (len(wanted) == 3 and axis == 1 and length == 1)
        for axis, (length, least) in enumerate(zip(shape, wanted, strict=True))
    )
