# SPDX-License-Identifier: Apache-2.0
"""A request's tensors against the graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from concord_proto.inference.v1 import tensor_pb2

from concord_server.fault import Reason, Violation, from_violations, quote
from concord_server.tensor import DType, Spec, Tensor, dtype_name, from_wire

__all__ = ["decode_tensors"]


def decode_tensors(specs: Sequence[Spec], messages: Mapping[str, tensor_pb2.Tensor]) -> list[Tensor]:
    """The graph's inputs, in its order, from a request's tensors.

    Raises Fault with all that is wrong with them: the graph's inputs in its order, then unknown names in byte order.
    """
    given = dict(messages.items())
    inputs: list[Tensor] = []
    found: list[Violation] = []
    for spec in specs:
        quoted = quote(spec.name)
        what, field = f"input {quoted}", f"inputs[{quoted}]"
        message = given.pop(spec.name, None)
        if message is None:
            text = f"{what}: expected {_with_article(spec.dtype)} tensor, got nothing"
            found.append(Violation(Reason.TENSOR_MISSING, field, text))
            continue
        tensor = from_wire(what, field, message, spec)
        if isinstance(tensor, Violation):
            found.append(tensor)
        else:
            inputs.append(tensor)
    for name in sorted(given):
        quoted = quote(name)
        text = f"input {quoted}: the model has no such input"
        found.append(Violation(Reason.TENSOR_UNKNOWN, f"inputs[{quoted}]", text))
    if found:
        raise from_violations(found)
    return inputs


def _with_article(dtype: DType) -> str:
    name = dtype_name(dtype)
    return f"an {name}" if name.startswith("i") else f"a {name}"
