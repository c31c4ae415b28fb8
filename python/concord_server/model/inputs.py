# SPDX-License-Identifier: Apache-2.0
"""A request's tensors against the graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from concord_proto.inference.v1 import tensor_pb2

from concord_server.fault import Reason, Violation, from_violations, quote
from concord_server.tensor import Spec, Tensor, dtype_name, from_wire, shape_text

__all__ = ["decode_tensors"]


def decode_tensors(specs: Sequence[Spec], messages: Mapping[str, tensor_pb2.Tensor]) -> list[Tensor]:
    """The graph's inputs, in its order, from a request's tensors.

    Raises Fault with all that is wrong with them: the graph's inputs in its order, then unknown names in byte order.
    """
    given = dict(messages.items())
    inputs: list[Tensor] = []
    found: list[Violation] = []
    for spec in specs:
        field = f"inputs[{quote(spec.name)}]"
        message = given.pop(spec.name, None)
        if message is None:
            found.append(_violation(Reason.TENSOR_MISSING, field, f"expected {spec.describe()}, got nothing"))
            continue
        tensor = from_wire(field, message)
        bad = tensor if isinstance(tensor, Violation) else _fits(field, tensor, spec)
        if bad is not None:
            found.append(bad)
        elif isinstance(tensor, Tensor):
            inputs.append(tensor)
    for name in sorted(given):
        found.append(_violation(Reason.TENSOR_UNKNOWN, f"inputs[{quote(name)}]", "the model has no such input"))
    if found:
        raise from_violations(found)
    return inputs


def _fits(field: str, tensor: Tensor, spec: Spec) -> Violation | None:
    if tensor.dtype != spec.dtype:
        text = f"expected {dtype_name(spec.dtype)}, got {dtype_name(tensor.dtype)}"
        return _violation(Reason.TENSOR_DTYPE_MISMATCH, f"{field}.dtype", text)
    shape = tensor.array.shape
    same = len(shape) == len(spec.shape) and all(
        wanted in (-1, length) for length, wanted in zip(shape, spec.shape, strict=True)
    )
    if spec.unranked or same:
        return None
    text = f"expected {shape_text(spec.shape)}, got {shape_text(shape)}"
    return _violation(Reason.TENSOR_SHAPE_MISMATCH, f"{field}.shape", text)


def _violation(reason: Reason, field: str, text: str) -> Violation:
    return Violation(reason, field, f"{field}: {text}")
