# SPDX-License-Identifier: Apache-2.0
"""What calls give back. Each object holds the message that it was made from in `proto`."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any

from concord_proto.inference.v1 import inference_service_pb2, model_pb2, timing_pb2

from concord_client._errors import ConcordError, error_from_status
from concord_client._values import read_value


class Health(enum.StrEnum):
    """The health of a server, service or model."""

    UNKNOWN = "UNKNOWN"
    SERVING = "SERVING"
    NOT_SERVING = "NOT_SERVING"
    SERVICE_UNKNOWN = "SERVICE_UNKNOWN"


_HEALTH = (Health.UNKNOWN, Health.SERVING, Health.NOT_SERVING, Health.SERVICE_UNKNOWN)


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the server spent the time of one request."""

    queue_ms: float
    """Waiting for an executor."""
    compute_ms: float
    """The execution that held this request; requests executed together each report all of it."""
    batch_rows: int
    """Rows in that execution; for a text the most texts that were made together."""
    time_to_first_token_ms: float = 0.0
    """For a text: from the request's arrival to its first token."""
    tokens_per_second: float = 0.0
    """For a text: tokens after the first, by the seconds that they took."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a text."""

    prompt_tokens: int
    """The chat template's included."""
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request."""

    model_id: str
    model_version: str
    """The number of the version that answered, also where a label or nothing was asked for."""
    request_id: str
    predictions: dict[str, float]
    """Numbers by name, in the order of the names. Each is exactly the float32 that the model gave."""
    outputs: dict[str, Any]
    """Outputs that a float cannot hold, by name: bool, int, float, str, or a list (row-major; of booleans as 0 and
    1)."""
    latency_ms: float
    """The server's total time."""
    timing: Timing
    seed: int
    """The seed of a sampled generation, else 0."""
    proto: inference_service_pb2.PredictResponse = field(repr=False, compare=False)
    finish_reason: str = ""
    """Of a text: STOP, LENGTH or STOP_SEQUENCE; else empty."""
    usage: Usage | None = None
    """Of a text, else None."""

    @property
    def label(self) -> Any:
        """The output named "label", where classifiers put the class; None where the model has no such output."""
        return self.outputs.get("label")

    @property
    def text(self) -> Any:
        """The output named "text", where generators put what they wrote; None where the model has no such output."""
        return self.outputs.get("text")


@dataclass(frozen=True, slots=True)
class Feature:
    """One input of a model."""

    name: str
    type: str
    """FLOAT, DOUBLE, INT64, BOOL or STRING."""
    shape: tuple[int, ...]
    """() for a scalar; -1 is any length."""
    required: bool
    default: Any
    """What a request without it takes; None where it is required."""
    max_length: int
    """Longest that the axis of -1 may be; 0 is no limit of the model's."""
    description: str
    proto: model_pb2.Feature = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One number of Answer.predictions."""

    name: str
    description: str
    proto: model_pb2.Prediction = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Output:
    """One value of Answer.outputs."""

    name: str
    type: str
    """FLOAT, DOUBLE, INT64, BOOL or STRING."""
    shape: tuple[int, ...]
    """For one row: () for a scalar; -1 where the length depends on the input."""
    description: str
    proto: model_pb2.Output = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model; of a failed one only the fields up to error are set."""

    version: str
    state: str
    """LOADING, READY, FAILED or DRAINING."""
    error: ConcordError | None
    """Why it failed: what a request to it would raise."""
    kind: str
    """TABULAR, TENSOR, GENERATOR or RECOMMENDER."""
    description: str
    features: tuple[Feature, ...]
    predictions: tuple[Prediction, ...]
    outputs: tuple[Output, ...]
    verified: bool
    """Whether hashes and golden cases of its package held on this server."""
    proto: model_pb2.ModelVersion = field(repr=False, compare=False)
    """The rest: tensors, parity record, batching, ready time."""


@dataclass(frozen=True, slots=True)
class Model:
    """What the catalog tells of one model."""

    model_id: str
    default_version: str
    """The version that answers where none is asked for; empty while none is ready."""
    labels: dict[str, str]
    """Version numbers by label."""
    versions: tuple[ModelVersion, ...]
    """By ascending number."""
    proto: model_pb2.Model = field(repr=False, compare=False)


def answer(model_id: str, proto: inference_service_pb2.PredictResponse) -> Answer:
    return Answer(
        model_id=model_id,
        model_version=proto.model_version,
        request_id=proto.request_id,
        predictions=dict(sorted(proto.predictions.items())),
        outputs={name: read_value(value) for name, value in sorted(proto.outputs.items())},
        latency_ms=proto.latency_ms,
        timing=timing(proto.timing),
        seed=proto.seed,
        proto=proto,
        finish_reason=finish_reason(proto.finish_reason),
        usage=usage(proto.usage) if proto.HasField("usage") else None,
    )


def timing(proto: timing_pb2.Timing) -> Timing:
    return Timing(
        proto.queue_ms, proto.compute_ms, proto.batch_rows, proto.time_to_first_token_ms, proto.tokens_per_second
    )


def usage(proto: inference_service_pb2.Usage) -> Usage:
    return Usage(proto.prompt_tokens, proto.completion_tokens)


def finish_reason(number: int) -> str:
    return _short(inference_service_pb2.FinishReason, "FINISH_REASON_", number) if number else ""


def health(proto: inference_service_pb2.HealthCheckResponse) -> Health:
    return _HEALTH[proto.status] if 0 <= proto.status < len(_HEALTH) else Health.UNKNOWN


def model(proto: model_pb2.Model) -> Model:
    return Model(
        model_id=proto.model_id,
        default_version=proto.default_version,
        labels=dict(sorted(proto.labels.items())),
        versions=tuple(map(_version, proto.versions)),
        proto=proto,
    )


def _version(proto: model_pb2.ModelVersion) -> ModelVersion:
    return ModelVersion(
        version=proto.version,
        state=_short(model_pb2.ModelState, "MODEL_STATE_", proto.state),
        error=error_from_status(proto.error) if proto.HasField("error") else None,
        kind=_short(model_pb2.ModelKind, "MODEL_KIND_", proto.kind),
        description=proto.description,
        features=tuple(map(_feature, proto.features)),
        predictions=tuple(Prediction(p.name, p.description, p) for p in proto.predictions),
        outputs=tuple(
            Output(o.name, _short(model_pb2.FeatureType, "FEATURE_TYPE_", o.type), tuple(o.shape), o.description, o)
            for o in proto.outputs
        ),
        verified=proto.verified,
        proto=proto,
    )


def _feature(proto: model_pb2.Feature) -> Feature:
    return Feature(
        name=proto.name,
        type=_short(model_pb2.FeatureType, "FEATURE_TYPE_", proto.type),
        shape=tuple(proto.shape),
        required=proto.required,
        default=read_value(proto.default_value),
        max_length=proto.max_length,
        description=proto.description,
        proto=proto,
    )


def _short(kind: Any, prefix: str, number: int) -> str:
    """MODEL_STATE_READY is READY here; a value that this client does not know is its number."""
    value = kind.DESCRIPTOR.values_by_number.get(number)
    return str(number) if value is None else str(value.name).removeprefix(prefix)
