# SPDX-License-Identifier: Apache-2.0
"""Plans from manifests and from bare graphs."""

from __future__ import annotations

from collections.abc import Sequence

from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import manifest_pb2

from concord_server.fault import quote
from concord_server.feature.decode import Row, Source
from concord_server.feature.encode import OutputSource, PredictionSource
from concord_server.feature.plan import MAX_ELEMENTS, BindError, Input, Plan, has_batch_axis, type_of
from concord_server.tensor import DType, Spec, dtype_name, elements, shape_text

__all__ = ["from_graph", "from_manifest"]

_TYPES = {
    model_pb2.FEATURE_TYPE_FLOAT: "FLOAT",
    model_pb2.FEATURE_TYPE_DOUBLE: "DOUBLE",
    model_pb2.FEATURE_TYPE_INT64: "INT64",
    model_pb2.FEATURE_TYPE_BOOL: "BOOL",
    model_pb2.FEATURE_TYPE_STRING: "STRING",
}


def from_manifest(manifest: manifest_pb2.Manifest, inputs: Sequence[Spec], outputs: Sequence[Spec]) -> Plan:
    """The plan of a model whose manifest binds its features, predictions and outputs. Raises BindError."""
    plan = Plan(_inputs(inputs))
    _bind_features(plan, manifest.features, inputs)
    names: set[str] = set()
    for prediction in manifest.predictions:
        name = prediction.prediction.name
        try:
            plan.predictions.append(_bind_prediction(plan, prediction, outputs))
            _once(name, names)
        except BindError as error:
            raise BindError(f"prediction {quote(name)}: {error}") from None
    names = set()
    for output in manifest.outputs:
        name = output.output.name
        try:
            plan.outputs.append(_bind_output(plan, output, outputs))
            _once(name, names)
        except BindError as error:
            raise BindError(f"output {quote(name)}: {error}") from None
    if not plan.wanted:
        raise BindError("expected at least one prediction or output, got none")
    return plan


def from_graph(inputs: Sequence[Spec], outputs: Sequence[Spec]) -> Plan:
    """The plan of a model whose manifest binds nothing.

    Each input of the graph is a required feature of its name, each output an output of its name and, where its row is
    one float, a prediction as well. Raises BindError where such features cannot be built; the model then takes
    tensors only.
    """
    plan = Plan(_inputs(inputs))
    for i, spec in enumerate(inputs):
        row = spec.shape[1:] if has_batch_axis(spec) else spec.shape
        if row.count(-1) > 1:
            raise BindError(f"input {quote(spec.name)} has {row.count(-1)} open axes")
        public = model_pb2.Feature(name=spec.name, type=type_of(spec.dtype), shape=row, required=True)
        try:
            source = _source(public, i, spec.dtype, 0)
        except BindError as error:
            raise BindError(f"input {quote(spec.name)}: {error}") from None
        source.shape = tuple(plan.inputs[i].shape)
        _limit(source, spec)
        plan.sources.append(source)
    for i, spec in enumerate(outputs):
        at = plan.want(i, spec)
        row = _row(plan, at)
        kind = type_of(spec.dtype)
        public_output = model_pb2.Output(name=spec.name, type=kind, shape=row)
        plan.outputs.append(OutputSource(public_output, at, 0, scalar=not row))
        if elements(row) == 1 and not spec.unranked and kind == model_pb2.FEATURE_TYPE_FLOAT:
            plan.predictions.append(PredictionSource(model_pb2.Prediction(name=spec.name), at, 0))
    return plan


def _inputs(specs: Sequence[Spec]) -> list[Input]:
    """The graph's inputs with the shape of one row; other axes that the graph leaves open stay -1 until bound."""
    return [Input(spec, [1, *spec.shape[1:]] if has_batch_axis(spec) else list(spec.shape)) for spec in specs]


def _row(plan: Plan, at: int) -> tuple[int, ...]:
    shape = plan.wanted_specs[at].shape
    return shape[1:] if plan.batch_axis[at] and shape else shape


def _once(name: str, names: set[str]) -> None:
    if name in names:
        raise BindError("bound twice")
    names.add(name)


def _source(public: model_pb2.Feature, index: int, dtype: DType, column: int) -> Source:
    """Measures a public feature: what a request is held against."""
    shape = tuple(public.shape)
    if shape.count(-1) > 1:
        raise BindError(f"expected at most one open axis, got shape {shape_text(shape)}")
    if any(length < -1 for length in shape):
        raise BindError(f"expected lengths of at least 0 or -1, got shape {shape_text(shape)}")
    unit = elements([length for length in shape if length != -1])
    if unit is None or unit > MAX_ELEMENTS:
        raise BindError(f"expected at most {MAX_ELEMENTS} elements, got shape {shape_text(shape)}")
    default = public.default_value if public.HasField("default_value") else None
    return Source(
        public=public,
        name=public.name,
        type=public.type,
        scalar=not shape,
        count=-1 if -1 in shape else unit,
        unit=unit,
        dtype=dtype,
        input=index,
        column=column,
        default=default,
    )


def _bind_features(plan: Plan, bindings: Sequence[manifest_pb2.FeatureBinding], inputs: Sequence[Spec]) -> None:
    index_of = {spec.name: i for i, spec in enumerate(inputs)}
    names: set[str] = set()
    bound: list[list[Source]] = [[] for _ in inputs]
    for binding in bindings:
        try:
            source = _bind_feature(binding, index_of, inputs, names)
        except BindError as error:
            raise BindError(f"feature {quote(binding.feature.name)}: {error}") from None
        bound[source.input].append(source)
        plan.sources.append(source)
    for i, sources in enumerate(bound):
        try:
            _fill(plan.inputs[i], sources)
        except BindError as error:
            raise BindError(f"input {quote(inputs[i].name)}: {error}") from None
        for axis, most in enumerate(inputs[i].longest):
            shape = plan.inputs[i].shape
            if most and shape[axis] > most:
                text = f"expected at most {most} on axis {axis}, got {shape_text(shape)}"
                raise BindError(f"input {quote(inputs[i].name)}: {text}")
    # Last, since a default is written like any value, into inputs whose shapes are known.
    for source in plan.sources:
        source.shape = tuple(plan.inputs[source.input].shape)
        try:
            _limit(source, plan.inputs[source.input].spec)
            _check_default(plan, source)
        except BindError as error:
            raise BindError(f"feature {quote(source.name)}: {error}") from None


def _bind_feature(
    binding: manifest_pb2.FeatureBinding, index_of: dict[str, int], inputs: Sequence[Spec], names: set[str]
) -> Source:
    public = binding.feature
    if not public.name:
        raise BindError("expected a name, got nothing")
    _once(public.name, names)
    # Only what does not depend on the input is measured before the input is known.
    source = _source(public, -1, DType.FLOAT, binding.column)
    index = index_of.get(binding.input)
    if index is None:
        raise BindError(f"the graph has no input {quote(binding.input)}")
    dtype = inputs[index].dtype
    if not _fits(public.type, dtype):
        kind = _type_text(public.type)
        raise BindError(f"a {kind} does not fit input {quote(binding.input)}, {dtype_name(dtype)}")
    if binding.column < 0:
        raise BindError(f"expected a column of at least 0, got {binding.column}")
    source.input, source.dtype = index, dtype
    return source


def _fill(given: Input, sources: list[Source]) -> None:
    """Closes the shape of an input with the features bound to it.

    They are one that fills it all, or several that are its columns, each bound exactly once.
    """
    if not sources:
        raise BindError("no feature is bound to it")
    first = 1 if has_batch_axis(given.spec) else 0
    row = given.shape[first:]
    if len(sources) == 1 and sources[0].column == 0:
        closed = _close_with(row, sources[0])
        if closed is not None:
            given.shape[first:] = closed
            return
    if len(row) != 1:
        text = "expected one feature that fills it or the columns of a row, "
        raise BindError(f"{text}got {len(sources)} features for {given.spec.describe()}")
    columns = row[0]
    if columns == -1:
        # The graph leaves the width open; the manifest then gives it.
        columns = sum(max(source.count, 0) for source in sources)
    following = 0
    for source in sorted(sources, key=lambda source: source.column):
        if source.count < 0:
            raise BindError(f"feature {quote(source.name)} of open shape must fill it alone")
        if source.column < following:
            raise BindError(f"column {source.column} is bound twice")
        if source.column > following:
            raise BindError(f"column {following} is bound to no feature")
        following += source.count
    if following != columns:
        raise BindError(f"expected {columns} columns, got features for {following}")
    given.shape[first] = columns


def _limit(source: Source, spec: Spec) -> None:
    """Takes over the greatest length of the axis that a feature leaves open, and shows it to clients."""
    if source.public.max_length:
        raise BindError("max_length: expected 0, since axis_limits tells it")
    if source.count >= 0 or -1 not in source.shape or not spec.longest:
        return
    source.most = spec.longest[source.shape.index(-1)]
    if source.most:
        public = model_pb2.Feature()
        public.CopyFrom(source.public)
        public.max_length = source.most
        source.public = public


def _close_with(row: Sequence[int], source: Source) -> list[int] | None:
    """The row's lengths, closed by the one feature that fills it; None where the feature does not."""
    shape = list(source.public.shape)
    if len(shape) == len(row):
        # A length that the feature leaves open, the graph must leave open, too.
        fits = all(length in (-1, wanted) for length, wanted in zip(row, shape, strict=True))
        return shape if fits else None
    return list(row) if elements(row) == source.count and source.count >= 0 else None


def _check_default(plan: Plan, source: Source) -> None:
    if source.public.required:
        if source.default is not None:
            raise BindError("it is required and has a default")
        return
    if source.default is None:
        raise BindError("it is not required and has no default")
    if violation := source.put(source.default, Row(plan.inputs)):
        raise BindError(f"default: {violation.message}")


def _bind_prediction(plan: Plan, binding: manifest_pb2.PredictionBinding, outputs: Sequence[Spec]) -> PredictionSource:
    if not binding.prediction.name:
        raise BindError("expected a name, got nothing")
    at, spec = _find(plan, binding.output, binding.index, outputs)
    if not spec.dtype.is_float and not spec.dtype.is_integer:
        raise BindError(f"expected a numeric output, got {quote(spec.name)} {spec.describe()}")
    return PredictionSource(binding.prediction, at, binding.index)


def _bind_output(plan: Plan, binding: manifest_pb2.OutputBinding, outputs: Sequence[Spec]) -> OutputSource:
    public = binding.output
    if not public.name:
        raise BindError("expected a name, got nothing")
    at, spec = _find(plan, binding.onnx_output, binding.index, outputs, array=bool(public.shape))
    if public.type != type_of(spec.dtype):
        wanted = f"{_type_text(type_of(spec.dtype))} for output {quote(spec.name)}, {dtype_name(spec.dtype)}"
        raise BindError(f"expected type {wanted}, got {_type_text(public.type)}")
    if public.shape:
        if binding.index != 0:
            raise BindError(f"expected index 0 for an array, got {binding.index}")
        if any(length < -1 for length in public.shape):
            raise BindError(f"expected lengths of at least 0 or -1, got shape {shape_text(public.shape)}")
        wanted_count, count = elements(public.shape), elements(_row(plan, at))
        if wanted_count is not None and count is not None and not spec.unranked and wanted_count != count:
            has = f"{count} elements as output {quote(spec.name)} has in a row"
            raise BindError(f"expected {has}, got shape {shape_text(public.shape)}")
    return OutputSource(public, at, binding.index, scalar=not public.shape)


def _find(plan: Plan, name: str, index: int, outputs: Sequence[Spec], *, array: bool = False) -> tuple[int, Spec]:
    """The output of the graph that a binding names, among those wanted; the index must lie in its row.

    An array of no elements begins at 0, too.
    """
    graph = next((i for i, spec in enumerate(outputs) if spec.name == name), None)
    if graph is None:
        raise BindError(f"the graph has no output {quote(name)}")
    spec = outputs[graph]
    at = plan.want(graph, spec)
    if index < 0:
        raise BindError(f"expected an index of at least 0, got {index}")
    count = elements(_row(plan, at))
    if count is not None and not spec.unranked and index >= count and (count or index or not array):
        raise BindError(f"index {index} is outside output {quote(name)}, which has {count} in a row")
    return at, spec


def _fits(kind: model_pb2.FeatureType, dtype: DType) -> bool:
    """Whether every value of a feature type can be tried on a tensor type, with the conversions of the contract."""
    if kind == model_pb2.FEATURE_TYPE_FLOAT:
        return dtype.is_float
    return kind == type_of(dtype)


def _type_text(kind: model_pb2.FeatureType) -> str:
    return _TYPES.get(kind, "UNSPECIFIED")
