# SPDX-License-Identifier: Apache-2.0
"""The plan: where each feature's values go, and where each prediction and output comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from concord_proto.inference.v1 import inference_service_pb2, model_pb2

from concord_server.fault import from_violations
from concord_server.feature.answer import Answer
from concord_server.feature.decode import Row, Source, missing, unknown
from concord_server.feature.encode import OutputSource, PredictionSource, encode
from concord_server.feature.layout import Layouts
from concord_server.tensor import DType, Spec, Tensor

__all__ = ["MAX_ELEMENTS", "BindError", "Input", "Plan", "has_batch_axis", "type_of"]

MAX_ELEMENTS = 1 << 31
"""More values than this fit in no message."""


class BindError(Exception):
    """A binding does not fit the graph; the text says which and why."""


@dataclass(slots=True)
class Input:
    """An input of the graph, for one row."""

    spec: Spec
    shape: list[int]
    """Of one row's tensor, batch axis included; -1 on the axis whose length the request gives."""


@dataclass(slots=True)
class Plan:
    """How one model's features become its graph's inputs, and its graph's outputs become an answer."""

    inputs: list[Input]
    sources: list[Source] = field(default_factory=list)
    predictions: list[PredictionSource] = field(default_factory=list)
    outputs: list[OutputSource] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    """Indices of the graph's outputs that encode takes, in its order."""
    wanted_specs: list[Spec] = field(default_factory=list)
    """Of the wanted outputs."""
    batch_axis: list[bool] = field(default_factory=list)
    """Of the wanted outputs: whether axis 0 counts rows."""
    _layouts: Layouts | None = field(default=None, init=False, repr=False, compare=False)
    _answer: Answer | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def layouts(self) -> Layouts:
        """What requests look like on the wire, as far as that is known. The plan must be whole."""
        if self._layouts is None:
            self._layouts = Layouts(self)
        return self._layouts

    @property
    def answer(self) -> Answer:
        """How answers look on the wire. The plan must be whole."""
        if self._answer is None:
            self._answer = Answer(self)
        return self._answer

    @property
    def public_features(self) -> list[model_pb2.Feature]:
        """What a request may hold, in the manifest's order."""
        return [source.public for source in self.sources]

    @property
    def public_predictions(self) -> list[model_pb2.Prediction]:
        """What an answer's predictions hold, in the manifest's order."""
        return [prediction.public for prediction in self.predictions]

    @property
    def public_outputs(self) -> list[model_pb2.Output]:
        """What an answer's outputs hold, in the manifest's order."""
        return [output.public for output in self.outputs]

    def decode(self, features: Mapping[str, inference_service_pb2.FeatureValue]) -> list[Tensor]:
        """The tensors of one request, one for each input of the graph.

        Raises Fault with all that is wrong with the features: the model's own in the manifest's order, then unknown
        names in byte order.
        """
        row = Row(self.inputs)
        get, known = features.get, 0
        found = []
        for source in self.sources:
            value = get(source.name)
            if value is None:
                value = source.default
                if value is None:
                    found.append(missing(source))
                    continue
            else:
                known += 1
            # Most features are one float: put would find the same with three calls more.
            if source.plain and value.WhichOneof("value") == "float_value":
                number = value.float_value
                if number == number:
                    row.flat(source.input)[source.column] = number
                    continue
            if violation := source.put(value, row):
                found.append(violation)
        if known < len(features):
            # Code points and UTF-8 bytes are in the same order.
            names = sorted(set(features) - {source.name for source in self.sources})
            found.extend(map(unknown, names))
        if found:
            raise from_violations(found)
        return row.tensors()

    def encode(self, tensors: Sequence[Tensor], answer: inference_service_pb2.PredictResponse) -> None:
        """Fills an answer from the wanted outputs of one row. Raises EncodeError where the graph broke its word."""
        encode(self.wanted_specs, self.batch_axis, self.predictions, self.outputs, tensors, answer)

    def want(self, graph: int, spec: Spec) -> int:
        """The place of a graph's output among those wanted; it is added where it is not yet."""
        if graph in self.wanted:
            return self.wanted.index(graph)
        self.wanted.append(graph)
        self.wanted_specs.append(spec)
        # Without rows going in there are none coming out: the whole output is the answer.
        rows = any(has_batch_axis(given.spec) for given in self.inputs)
        self.batch_axis.append(rows and (spec.unranked or has_batch_axis(spec)))
        return len(self.wanted) - 1


def has_batch_axis(spec: Spec) -> bool:
    """Whether axis 0 counts rows: the graph leaves it open or gives it length 1."""
    return bool(spec.shape) and spec.shape[0] in (-1, 1)


def type_of(dtype: DType) -> model_pb2.FeatureType:
    """The type of the features and outputs that a tensor type stands for."""
    if dtype is DType.DOUBLE:
        return model_pb2.FEATURE_TYPE_DOUBLE
    if dtype.is_float:
        return model_pb2.FEATURE_TYPE_FLOAT
    if dtype.is_integer:
        return model_pb2.FEATURE_TYPE_INT64
    if dtype is DType.BOOL:
        return model_pb2.FEATURE_TYPE_BOOL
    return model_pb2.FEATURE_TYPE_STRING
