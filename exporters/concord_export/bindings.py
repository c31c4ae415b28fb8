# SPDX-License-Identifier: Apache-2.0
"""Features, predictions and outputs of a graph that nobody described: read from its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import manifest_pb2

from concord_export.errors import SourceError
from concord_export.runtime import Session, TensorInfo, is_float

__all__ = ["bind"]


def bind(
    session: Session,
    manifest: manifest_pb2.Manifest,
    given: manifest_pb2.Manifest,
    *,
    columns: Mapping[str, Sequence[str]],
    classes: Mapping[str, Sequence[str]],
) -> None:
    """Fills the manifest's features, predictions and outputs: those that are `given`, else what the graph tells.

    `columns` names the columns of inputs, `classes` those of outputs. Raises SourceError where features
    cannot be built.
    """
    for name in columns:
        if name not in session.inputs:
            raise SourceError(f"columns: the graph has no input {name!r}; it has {sorted(session.inputs)}")
    for name in classes:
        if name not in session.outputs:
            raise SourceError(f"classes: the graph has no output {name!r}; it has {sorted(session.outputs)}")
    if given.features:
        manifest.features.extend(given.features)
    else:
        for info in session.inputs.values():
            _bind_input(manifest, info, columns.get(info.name))
    if given.predictions or given.outputs:
        manifest.predictions.extend(given.predictions)
        manifest.outputs.extend(given.outputs)
    else:
        for info in session.outputs.values():
            _bind_output(manifest, info, classes.get(info.name))


def _row_shape(info: TensorInfo) -> list[int]:
    """Of one row, -1 where the graph leaves an axis open. Axis 0 is the batch axis where it is open or of length 1."""
    batched = bool(info.shape) and info.shape[0] in (None, 1)
    return [-1 if length is None else length for length in info.shape[1 if batched else 0 :]]


def _is_one(shape: Sequence[int]) -> bool:
    return all(length == 1 for length in shape)


def _type(info: TensorInfo) -> model_pb2.FeatureType:
    dtype = np.dtype(info.dtype)
    if dtype == np.float64:
        return model_pb2.FEATURE_TYPE_DOUBLE
    if is_float(dtype):
        return model_pb2.FEATURE_TYPE_FLOAT
    if dtype.kind == "b":
        return model_pb2.FEATURE_TYPE_BOOL
    return model_pb2.FEATURE_TYPE_STRING if dtype.kind == "O" else model_pb2.FEATURE_TYPE_INT64


def _bind_input(manifest: manifest_pb2.Manifest, info: TensorInfo, names: Sequence[str] | None) -> None:
    shape = _row_shape(info)
    if names is not None:
        if len(shape) != 1 or shape[0] not in (-1, len(names)):
            raise SourceError(f"columns: input {info.name!r} has rows of shape {shape}, not of {len(names)} columns")
        for column, name in enumerate(names):
            feature = model_pb2.Feature(name=name, type=_type(info), required=True)
            manifest.features.add(feature=feature, input=info.name, column=column)
        return
    if shape.count(-1) > 1:
        raise SourceError(
            f"input {info.name!r} leaves {shape.count(-1)} axes open, so that no list of values tells its shape: "
            "wrap it as kind tensor"
        )
    # One value in a row is a value, not a list of one.
    scalar = _is_one(shape)
    feature = model_pb2.Feature(name=info.name, type=_type(info), shape=[] if scalar else shape, required=True)
    manifest.features.add(feature=feature, input=info.name, column=0)


def _bind_output(manifest: manifest_pb2.Manifest, info: TensorInfo, names: Sequence[str] | None) -> None:
    shape = _row_shape(info)
    kind = _type(info)
    numeric = kind in (model_pb2.FEATURE_TYPE_FLOAT, model_pb2.FEATURE_TYPE_DOUBLE)
    if names is not None:
        if not numeric or len(shape) != 1 or shape[0] not in (-1, len(names)):
            raise SourceError(f"classes: output {info.name!r} has rows of shape {shape}, not of {len(names)} numbers")
        for index, name in enumerate(names):
            manifest.predictions.add(prediction=model_pb2.Prediction(name=name), output=info.name, index=index)
    elif numeric and _is_one(shape):
        manifest.predictions.add(prediction=model_pb2.Prediction(name=info.name), output=info.name, index=0)
    else:
        output = model_pb2.Output(name=info.name, type=kind, shape=[] if _is_one(shape) else shape)
        manifest.outputs.add(output=output, onnx_output=info.name, index=0)
