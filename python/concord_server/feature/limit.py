# SPDX-License-Identifier: Apache-2.0
"""How long the axes may be that a graph leaves open."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from concord_proto.modelpackage.v1 import manifest_pb2

from concord_server.fault import quote
from concord_server.feature.plan import MAX_ELEMENTS, BindError
from concord_server.tensor import Spec

__all__ = ["limit"]


def limit(limits: Iterable[manifest_pb2.AxisLimit], inputs: Sequence[Spec]) -> list[Spec]:
    """The graph's inputs with the greatest lengths that a manifest gives their open axes.

    Raises BindError where a limit does not fit the graph.
    """
    limited = list(inputs)
    index_of = {spec.name: i for i, spec in enumerate(inputs)}
    for each in limits:
        at = index_of.get(each.input)
        if at is None:
            raise BindError(f"axis_limits: the graph has no input {quote(each.input)}")
        try:
            limited[at] = _limit_axis(limited[at], each.axis, each.max_length)
        except BindError as error:
            raise BindError(f"axis_limits: input {quote(each.input)}: {error}") from None
    return limited


def _limit_axis(spec: Spec, axis: int, length: int) -> Spec:
    if not 0 <= axis < len(spec.shape) or spec.shape[axis] != -1:
        raise BindError(f"expected an open axis, got axis {axis} of {spec.describe()}")
    if not 1 <= length <= MAX_ELEMENTS:
        raise BindError(f"expected a max_length from 1 to {MAX_ELEMENTS}, got {length}")
    longest = list(spec.longest or [0] * len(spec.shape))
    if longest[axis]:
        raise BindError(f"axis {axis} is limited twice")
    longest[axis] = length
    return replace(spec, longest=tuple(longest))
