# SPDX-License-Identifier: Apache-2.0
"""What exporters note down in a graph for debugging."""

from __future__ import annotations

from typing import Any

import onnx

__all__ = ["without_notes"]


def without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without documentation and metadata: torch writes paths and source code of the author there."""
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    values = [*model.graph.input, *model.graph.output, *model.graph.initializer, *model.graph.value_info]
    more = [value for function in model.functions for value in function.value_info]
    items: list[Any] = [model, model.graph, *model.functions, *nodes, *values, *more]
    for item in items:
        item.doc_string = ""
        del item.metadata_props[:]
    return model
