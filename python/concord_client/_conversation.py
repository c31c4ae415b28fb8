# SPDX-License-Identifier: Apache-2.0
"""What a client says and in which order, without the saying.

Each method of Conversation is a generator: it yields a Call, is sent the answer or thrown the ConcordError, and returns
its result. The blocking and the asyncio client drive it, each in its own way, so that what there is to get wrong is
here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

import grpc
from concord_proto.inference.v1 import (
    inference_service_pb2,
    inference_service_pb2_grpc,
    model_catalog_service_pb2,
    model_catalog_service_pb2_grpc,
    model_pb2,
)
from google.protobuf.message import Message

from concord_client import _answers
from concord_client._errors import ConcordError, Violation, defect, error_from_status, refusal
from concord_client._values import Features, FeatureValue, RefusedError, Slot, quote, write_value

PredictRequest = inference_service_pb2.PredictRequest
PredictResponse = inference_service_pb2.PredictResponse
InferenceConfig = inference_service_pb2.InferenceConfig


class Call(NamedTuple):
    """One call to make: a key of methods() and its message."""

    method: str
    request: Message


T = TypeVar("T")
Steps: TypeAlias = Generator[Call, Any, T]


def methods(channel: Any) -> dict[str, Any]:
    """The calls of a channel of either kind, by method."""
    inference = inference_service_pb2_grpc.InferenceServiceStub(channel)
    catalog = model_catalog_service_pb2_grpc.ModelCatalogServiceStub(channel)
    return {
        "Predict": inference.Predict,
        "BatchPredict": inference.BatchPredict,
        "StreamPredict": inference.StreamPredict,
        "Check": inference.Check,
        "ListModels": catalog.ListModels,
        "GetModel": catalog.GetModel,
    }


Slots: TypeAlias = Mapping[str, Slot]

_MOST_VIOLATIONS = 16
# GetModel's refusals after which the inference service is asked all the same: it alone judges a request.
_ASK_ANYWAY = frozenset((grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT))
# The same, and asking again is no use: a server without a catalog, or a caller who may not see it.
_NO_CATALOG = frozenset((grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED))


@dataclass(frozen=True, slots=True)
class _Known:
    """What the catalog said of one model."""

    default: str
    labels: Mapping[str, str]
    slots: Mapping[str, Slots | None]
    """The features of each version by its number; None where the catalog does not know the version."""
    catalog: bool = True
    """Whether there is a catalog to ask again."""

    def version(self, asked: str) -> str:
        """The number that a request's model_version stands for."""
        return self.labels.get(asked, asked) if asked else self.default

    def moved(self, asked: str, version: str) -> _Known:
        """The same after an answer has shown what a request's model_version stands for now."""
        if not asked:
            return replace(self, default=version)
        return self if asked == version else replace(self, labels={**self.labels, asked: version})


_NOTHING = _Known("", {}, {})


class Row(NamedTuple):
    """One request as the caller gave it."""

    features: Features
    request_id: str
    version: str
    config: InferenceConfig | None


Outcome: TypeAlias = PredictResponse | ConcordError
Encoded: TypeAlias = PredictRequest | ConcordError


class Conversation:
    """The logic of a client. It remembers the features of the models that it has met; threads may share it."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}

    def predict(self, model_id: str, row: Row) -> Steps[_answers.Answer]:
        [outcome] = yield from self._ask(model_id, [row], _one)
        if isinstance(outcome, ConcordError):
            raise outcome
        return _answers.answer(model_id, outcome)

    def predict_batch(self, model_id: str, rows: Sequence[Row]) -> Steps[list[_answers.Answer | ConcordError]]:
        outcomes = yield from self._ask(model_id, rows, _many)
        return [o if isinstance(o, ConcordError) else _answers.answer(model_id, o) for o in outcomes]

    def models(self) -> Steps[list[_answers.Model]]:
        found: list[_answers.Model] = []
        token = ""
        while True:
            page = yield Call("ListModels", model_catalog_service_pb2.ListModelsRequest(page_token=token))
            found.extend(map(_answers.model, page.models))
            # A server that repeats its token would be asked for ever.
            if page.next_page_token in ("", token):
                return found
            token = page.next_page_token

    def model(self, model_id: str) -> Steps[_answers.Model]:
        answer = yield Call("GetModel", model_catalog_service_pb2.GetModelRequest(model_id=model_id))
        self._known[model_id] = _known(answer.model)
        return _answers.model(answer.model)

    def check(self, service: str) -> Steps[_answers.Health]:
        answer = yield Call("Check", inference_service_pb2.HealthCheckRequest(service=service))
        return _answers.health(answer)

    def _ask(
        self, model_id: str, rows: Sequence[Row], send: Callable[[list[PredictRequest]], Steps[list[Outcome]]]
    ) -> Steps[list[Outcome]]:
        """Encodes rows as the model's features ask for, and sends them.

        Those that turn out to be encoded for another version than the one that answers are sent a second time.
        Otherwise a new version would refuse values of the old kind for ever or, worse, take a float32 where it could
        have had the double. Twice is harmless: a prediction only reads.
        """
        if all(isinstance(value, FeatureValue) for row in rows for value in row.features.values()):
            return (yield from _send_good([_encode(model_id, row, None) for row in rows], send))
        known = self._known.get(model_id)
        fresh = known is None
        if known is None:
            known = yield from self._look_up(model_id)
        used = [known.slots.get(known.version(row.version)) for row in rows]
        encoded = [_encode(model_id, row, slots) for row, slots in zip(rows, used, strict=True)]
        outcomes = yield from _send_good(encoded, send)
        if not known.catalog:
            return outcomes

        if any(_doubtful(outcome, known, fresh) for outcome in outcomes):
            known = yield from self._look_up(model_id)
        changed: list[int] = []
        for i, (row, outcome) in enumerate(zip(rows, outcomes, strict=True)):
            version = known.version(row.version)
            if isinstance(outcome, PredictResponse) and outcome.model_version != version:
                version = outcome.model_version
                known = known.moved(row.version, version)
                if version not in known.slots:
                    known = replace(known, slots={**known.slots, version: None})
                self._known[model_id] = known
            slots = known.slots.get(version)
            if slots is not None and slots != used[i]:
                new = _encode(model_id, row, slots)
                if not _same(encoded[i], new):
                    encoded[i] = new
                    changed.append(i)
        if changed:
            second = yield from _send_good([encoded[i] for i in changed], send)
            for i, outcome in zip(changed, second, strict=True):
                outcomes[i] = outcome
        return outcomes

    def _look_up(self, model_id: str) -> Steps[_Known]:
        try:
            answer = yield Call("GetModel", model_catalog_service_pb2.GetModelRequest(model_id=model_id))
        except ConcordError as error:
            self._known.pop(model_id, None)
            if error.code in _NO_CATALOG:
                self._known[model_id] = replace(_NOTHING, catalog=False)
                return self._known[model_id]
            if error.code in _ASK_ANYWAY:
                return _NOTHING
            raise
        known = self._known[model_id] = _known(answer.model)
        return known


def _known(model: model_pb2.Model) -> _Known:
    ready = (model_pb2.MODEL_STATE_READY, model_pb2.MODEL_STATE_DRAINING)  # the states in which features are told
    return _Known(
        default=model.default_version,
        labels=dict(model.labels),
        slots={
            version.version: {f.name: Slot(f.type, tuple(f.shape)) for f in version.features}
            for version in model.versions
            if version.state in ready
        },
    )


def _doubtful(outcome: Outcome, known: _Known, fresh: bool) -> bool:
    """Whether the catalog has to be asked again to know if a row was encoded for the version that answered."""
    if isinstance(outcome, PredictResponse):
        return outcome.model_version not in known.slots
    return not fresh and outcome.reason.startswith("FEATURE_")


def _encode(model_id: str, row: Row, slots: Slots | None) -> Encoded:
    request = PredictRequest(model_id=model_id, request_id=row.request_id, model_version=row.version, config=row.config)
    refused: list[RefusedError] = []
    violations: list[Violation] = []
    for name, value in row.features.items():
        if not isinstance(name, str):
            raise TypeError(f"features: expected names that are str, got {type(name).__name__}")
        try:
            write_value(request.features[_checked_name(name)], value, slots.get(name) if slots else None)
        except RefusedError as error:
            field = quote(name.encode(errors="replace").decode())
            refused.append(error)
            violations.append(Violation(f"features[{field}]", f"feature {field}: {error.text}"))
            if len(violations) == _MOST_VIOLATIONS:
                break
    return refusal(refused[0].reason, violations, {"model_id": model_id}) if refused else request


def _checked_name(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise RefusedError("FEATURE_UNKNOWN", "expected a name of text, got surrogates that are none") from None
    return name


def _same(a: Encoded, b: Encoded) -> bool:
    # By their bytes: a NaN is not equal to itself.
    if isinstance(a, ConcordError) or isinstance(b, ConcordError):
        return isinstance(a, ConcordError) and isinstance(b, ConcordError) and a.status == b.status
    return a.SerializeToString(deterministic=True) == b.SerializeToString(deterministic=True)


def _send_good(
    encoded: Sequence[Encoded], send: Callable[[list[PredictRequest]], Steps[list[Outcome]]]
) -> Steps[list[Outcome]]:
    """Sends what could be encoded; the errors of the rest stay in their places."""
    good = [request for request in encoded if isinstance(request, PredictRequest)]
    # An empty batch is sent: what becomes of it is the server's to say.
    answered = iter((yield from send(good)) if good or not encoded else ())
    return [next(answered) if isinstance(item, PredictRequest) else item for item in encoded]


def _one(requests: list[PredictRequest]) -> Steps[list[Outcome]]:
    try:
        return [(yield Call("Predict", requests[0]))]
    except ConcordError as error:
        return [error]


def _many(requests: list[PredictRequest]) -> Steps[list[Outcome]]:
    answer = yield Call("BatchPredict", inference_service_pb2.BatchPredictRequest(requests=requests))
    if len(answer.results) != len(requests):
        raise defect(f"expected {len(requests)} results, got {len(answer.results)}")
    return [_outcome(result) for result in answer.results]


def _outcome(result: inference_service_pb2.BatchPredictResult) -> Outcome:
    kind = result.WhichOneof("result")
    if kind == "response":
        return result.response
    return (
        error_from_status(result.error) if kind == "error" else defect("expected a response or an error, got neither")
    )
