# SPDX-License-Identifier: Apache-2.0
"""The inputs and outputs of a decoder's graph, held against what its settings say of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from concord_server.fault import quote
from concord_server.generate.settings import Settings, layer_name
from concord_server.model import SessionError
from concord_server.tensor import DType, Spec, dtype_name, shape_text

__all__ = ["Signature", "signature"]

_FLOATS = (DType.FLOAT, DType.FLOAT16)


@dataclass(frozen=True, slots=True)
class Signature:
    """What settings leave to the graph."""

    cache: DType
    """Of keys and values: FLOAT or FLOAT16."""
    logits: DType
    """FLOAT or FLOAT16."""
    last_only: bool
    """Whether the graph says that it gives the logits of the last token alone."""
    positions: bool
    """Whether it takes the tokens' positions."""


def signature(settings: Settings, inputs: Sequence[Spec], outputs: Sequence[Spec]) -> Signature:
    """Raises SessionError where the graph is not what the settings say. Outputs of other names are left alone."""
    given = {spec.name: spec for spec in inputs}
    made = {spec.name: spec for spec in outputs}
    positions = settings.position_ids in given
    names = [settings.input_ids, settings.attention_mask, *([settings.position_ids] if positions else [])]
    for name in names:
        _match("input", given, name, (DType.INT64,), (-1, -1))
    shape = (-1, settings.heads, -1, settings.head_size)
    past, present = list(_past(settings)), list(_present(settings))
    cache = _match("input", given, past[0], _FLOATS, shape).dtype
    for name in past:
        _match("input", given, name, (cache,), shape)
    for name in present:
        _match("output", made, name, (cache,), shape)
    for name in given:
        if name not in {*names, *past}:
            raise SessionError(f"input {quote(name)}: expected none of this name")
    if len({*names, *past}) != len(names) + len(past) or len({settings.logits, *present}) != 1 + len(present):
        raise SessionError("expected an input and an output for each name, got names that are equal")
    logits = _match("output", made, settings.logits, _FLOATS, (-1, -1, settings.vocabulary))
    return Signature(cache, logits.dtype, logits.shape[1] == 1, positions)


def _past(settings: Settings) -> Iterator[str]:
    for layer in range(settings.layers):
        yield layer_name(settings.past_key, layer)
        yield layer_name(settings.past_value, layer)


def _present(settings: Settings) -> Iterator[str]:
    for layer in range(settings.layers):
        yield layer_name(settings.present_key, layer)
        yield layer_name(settings.present_value, layer)


def _match(what: str, specs: Mapping[str, Spec], name: str, dtypes: Sequence[DType], shape: Sequence[int]) -> Spec:
    """The tensor of a name. Batch and time must be open, but for the logits' time; the rest may be."""
    spec = specs.get(name)
    if spec is not None and spec.dtype in dtypes and not spec.unranked and len(spec.shape) == len(shape):
        last_only = len(shape) == 3 and spec.shape[1] == 1
        if all(
            got in (-1, wanted) or (axis == 1 and last_only)
            for axis, (got, wanted) in enumerate(zip(spec.shape, shape, strict=True))
        ):
            return spec
    names = " or ".join(dtype_name(dtype) for dtype in dtypes)
    got = spec.describe() if spec else "nothing"
    raise SessionError(f"{what} {quote(name)}: expected {names} {shape_text(shape)}, got {got}")
