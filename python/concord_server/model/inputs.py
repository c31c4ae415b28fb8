# SPDX-License-Identifier: Apache-2.0
"""A request's tensors against the graph's inputs, and the outputs that it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from concord_proto.inference.v1 import tensor_pb2

from concord_server.fault import Reason, Violation, from_violations, quote
from concord_server.tensor import DType, Spec, Tensor, dtype_name, from_wire

__all__ = ["decode_tensors"]


class Signature(Protocol):
    """What a model takes and gives."""

    @property
    def inputs(self) -> Sequence[Spec]:
        """The graph's inputs, in its order."""

    @property
    def outputs(self) -> Sequence[Spec]:
        """The graph's outputs, in its order."""


def decode_tensors(
    signature: Signature, messages: Mapping[str, tensor_pb2.Tensor], names: Sequence[str]
) -> tuple[list[Tensor], list[int]]:
    """The graph's inputs, in its order, from a request's tensors, and the indices of the outputs that it names.

    The outputs are in the request's order; all where it names none. Raises Fault with all that is wrong: the graph's
    inputs in its order, then unknown names in byte order, then the names of outputs.
    """
    inputs: list[Tensor] = []
    found: list[Violation] = []
    known = 0
    for spec in signature.inputs:
        if spec.name not in messages:  # a protobuf map would make one that is looked up
            text = f"expected {_with_article(spec.dtype)} tensor, got nothing"
            found.append(_of_input(spec.name, Violation(Reason.TENSOR_MISSING, "", text)))
            continue
        known += 1
        tensor = from_wire(messages[spec.name], spec)
        if isinstance(tensor, Violation):
            found.append(_of_input(spec.name, tensor))
        else:
            inputs.append(tensor)
    if known < len(messages):
        # Code points sort as their UTF-8 does.
        for name in sorted(set(messages) - {spec.name for spec in signature.inputs}):
            found.append(_of_input(name, Violation(Reason.TENSOR_UNKNOWN, "", "the model has no such input")))
    wanted = list(range(len(signature.outputs)))
    if names:
        wanted = []
        found.extend(_unknown_outputs(signature, names, wanted))
    if found:
        raise from_violations(found)
    return inputs, wanted


def _unknown_outputs(signature: Signature, names: Sequence[str], wanted: list[int]) -> Iterable[Violation]:
    """Appends to `wanted`; gives what is wrong with the names."""
    index_of = {spec.name: i for i, spec in enumerate(signature.outputs)}
    seen: set[str] = set()
    for i, name in enumerate(names):
        field = f"output_names[{i}]"
        if name not in index_of:
            text = f"{field}: the model has no output {quote(name)}"
            yield Violation(Reason.OUTPUT_UNKNOWN, field, text)
        elif name in seen:
            yield Violation(Reason.OUTPUT_UNKNOWN, field, f"{field}: {quote(name)} is there already")
        else:
            seen.add(name)
            wanted.append(index_of[name])


def _of_input(name: str, violation: Violation) -> Violation:
    """A violation whose field and message lacked the input's name."""
    quoted = quote(name)
    reason, part, text = violation
    return Violation(reason, f"inputs[{quoted}]{part}", f"input {quoted}: {text}")


def _with_article(dtype: DType) -> str:
    name = dtype_name(dtype)
    return f"an {name}" if name.startswith("i") else f"a {name}"
