# SPDX-License-Identifier: Apache-2.0
"""Graphs whose answer is a list of maps, as skl2onnx makes them unless told not to."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import helper, shape_inference

__all__ = ["ZipMap", "without_zip_maps"]


@dataclass(frozen=True)
class ZipMap:
    """What stands in the place of a ZipMap: the tensor that went into it, and the names of its columns."""

    tensor: str
    classes: tuple[str, ...]


def without_zip_maps(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, ZipMap]]:
    """A copy in which each output that a ZipMap made is what went into it; by that output's name."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    found: dict[str, ZipMap] = {}
    for node in model.graph.node:
        if node.op_type == "ZipMap":
            classes = tuple(
                item.decode() if isinstance(item, bytes) else str(item)
                for attribute in node.attribute
                if attribute.name in ("classlabels_strings", "classlabels_int64s")
                for item in helper.get_attribute_value(attribute)
            )
            found[node.output[0]] = ZipMap(node.input[0], classes)
    kept = [node for node in plain.graph.node if node.op_type != "ZipMap"]
    del plain.graph.node[:]
    plain.graph.node.extend(kept)
    outputs = [output for output in plain.graph.output if output.name not in found]
    types = {info.name: info for info in shape_inference.infer_shapes(plain).graph.value_info}
    for name in (output.name for output in model.graph.output if output.name in found):
        zip_map = found[name]
        known = types.get(zip_map.tensor)
        made = onnx.ValueInfoProto()
        if known is not None:
            made.CopyFrom(known)
        else:
            made.CopyFrom(
                helper.make_tensor_value_info(zip_map.tensor, onnx.TensorProto.FLOAT, [None, len(zip_map.classes)])
            )
        outputs.append(made)
    del plain.graph.output[:]
    plain.graph.output.extend(outputs)
    return plain, found
