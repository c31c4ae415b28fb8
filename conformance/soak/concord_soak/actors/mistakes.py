# SPDX-License-Identifier: Apache-2.0
"""Bad input of many kinds, each with the code and the reason that it must get."""

from __future__ import annotations

import random
from collections.abc import Callable

from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_proto.inference.v1 import model_catalog_service_pb2 as catalog
from concord_proto.inference.v1 import model_inference_pb2 as tensor_service
from concord_proto.inference.v1 import tensor_pb2

from concord_soak.truth import PREDICT, PREDICT_BATCH, STREAM, TENSOR, TENSOR_BATCH
from concord_soak.world import Turn, actor

_GET = "/inference.v1.ModelCatalogService/GetModel"
_LIST = "/inference.v1.ModelCatalogService/ListModels"
_HEALTH = "/grpc.health.v1.Health/Check"
_INVALID = "INVALID_ARGUMENT"
_NAMES = (
    "",
    "a/b",
    "../../etc/passwd",
    "-x",
    "x" * 129,
    "nul\x00",
    "%s%n",
    "ü",
    "{a}",
    "a b",
    "\u202e",
    '"',
    "\r\nx: y",
)
_ABSENT = ("nobody", "x" * 128, "IDENTITY", "identity.", "init__", "con")

Mistake = tuple[str, bytes, str, str]


def _predict(model_id: str, version: str = "", **features: service.FeatureValue) -> bytes:
    return service.PredictRequest(model_id=model_id, model_version=version, features=features).SerializeToString()


def _tensor(model_id: str, tensor: tensor_pb2.Tensor, name: str = "x", outputs: tuple[str, ...] = ()) -> bytes:
    return tensor_service.PredictionRequest(
        model_id=model_id, inputs={name: tensor}, output_names=outputs
    ).SerializeToString()


def _too_wide() -> bytes:
    names = ("i8", "u8", "i16", "u16", "i32", "u32", "u64")
    features = {name: service.FeatureValue(int64_value=1 << 40) for name in names}
    return service.PredictRequest(model_id="narrow", features=features).SerializeToString()


def _number(value: float = 1.0) -> service.FeatureValue:
    return service.FeatureValue(float_value=value)


def _floats(shape: list[int], data: bytes) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT, shape=shape, data=data)


def _config(rng: random.Random) -> bytes:
    bad = rng.choice(
        [
            service.InferenceConfig(top_p=1.5),
            service.InferenceConfig(temperature=float("nan")),
            service.InferenceConfig(max_tokens=-1),
            service.InferenceConfig(stop=[""]),
        ]
    )
    return service.PredictRequest(model_id="identity", features={"x": _number()}, config=bad).SerializeToString()


# Each makes one mistake: method, bytes, code, reason.
MISTAKES: tuple[Callable[[random.Random], Mistake], ...] = (
    lambda r: (PREDICT, b"\xff" + r.randbytes(r.randint(0, 300)), _INVALID, "REQUEST_MALFORMED"),
    lambda r: (PREDICT, b"\x0a\xff\xff\xff\xff\x07x", _INVALID, "REQUEST_MALFORMED"),
    lambda r: (PREDICT_BATCH, b"\x07", _INVALID, "REQUEST_MALFORMED"),
    lambda r: (TENSOR, b"\x22" + b"\xff" * 9, _INVALID, "REQUEST_MALFORMED"),
    lambda r: (PREDICT, _predict(r.choice(_NAMES), x=_number()), _INVALID, "MODEL_ID_INVALID"),
    lambda r: (TENSOR, _tensor(r.choice(_NAMES), _floats([1, 1], bytes(4))), _INVALID, "MODEL_ID_INVALID"),
    lambda r: (PREDICT, _predict(r.choice(_ABSENT), x=_number()), "NOT_FOUND", "MODEL_NOT_FOUND"),
    lambda r: (PREDICT, _predict("identity", "01", x=_number()), _INVALID, "MODEL_VERSION_INVALID"),
    lambda r: (PREDICT, _predict("identity", "../1", x=_number()), _INVALID, "MODEL_VERSION_INVALID"),
    lambda r: (PREDICT, _predict("identity", "77", x=_number()), "NOT_FOUND", "VERSION_NOT_FOUND"),
    lambda r: (PREDICT, _predict("identity", "canary", x=_number()), "NOT_FOUND", "LABEL_NOT_FOUND"),
    lambda r: (PREDICT, _predict("broken-sha256", x=_number()), "FAILED_PRECONDITION", "MODEL_FAILED"),
    lambda r: (PREDICT, _predict("identity"), _INVALID, "FEATURE_MISSING"),
    lambda r: (PREDICT, _predict("identity", x=_number(), y=_number()), _INVALID, "FEATURE_UNKNOWN"),
    lambda r: (
        PREDICT,
        _predict("identity", x=service.FeatureValue(string_value="1")),
        _INVALID,
        "FEATURE_TYPE_MISMATCH",
    ),
    lambda r: (PREDICT, _predict("identity", x=service.FeatureValue()), _INVALID, "FEATURE_TYPE_MISMATCH"),
    lambda r: (
        PREDICT,
        _too_wide(),
        _INVALID,
        "FEATURE_OUT_OF_RANGE",
    ),
    lambda r: (PREDICT, _config(r), _INVALID, "CONFIG_INVALID"),
    lambda r: (
        PREDICT,
        _predict("fail", index=service.FeatureValue(int64_value=r.choice([4, -5, 1 << 40]))),
        "INTERNAL",
        "MODEL_EXECUTION_FAILED",
    ),
    # 8 MB of ones where a message holds 4 MiB.
    lambda r: (
        PREDICT,
        _predict("big", n=service.FeatureValue(int64_value=2_000_000)),
        "RESOURCE_EXHAUSTED",
        "OUTPUT_TOO_LARGE",
    ),
    lambda r: (PREDICT_BATCH, b"", _INVALID, "BATCH_EMPTY"),
    lambda r: (TENSOR_BATCH, b"", _INVALID, "BATCH_EMPTY"),
    lambda r: (
        PREDICT_BATCH,
        service.BatchPredictRequest(requests=[service.PredictRequest()] * 10_001).SerializeToString(),
        _INVALID,
        "BATCH_TOO_LARGE",
    ),
    lambda r: (STREAM, _predict("identity", x=_number()), "FAILED_PRECONDITION", "METHOD_NOT_SUPPORTED"),
    lambda r: (TENSOR, _tensor("any-float", _floats([1 << 40, 1 << 40], b"")), _INVALID, "TENSOR_SHAPE_MISMATCH"),
    lambda r: (TENSOR, _tensor("any-float", _floats([-1], b"")), _INVALID, "TENSOR_SHAPE_MISMATCH"),
    lambda r: (TENSOR, _tensor("any-float", _floats([1] * 65, bytes(4))), _INVALID, "TENSOR_SHAPE_MISMATCH"),
    lambda r: (TENSOR, _tensor("any-float", _floats([1 << 30], bytes(8))), _INVALID, "TENSOR_DATA_INVALID"),
    lambda r: (TENSOR, _tensor("any-float", _floats([3], bytes(11))), _INVALID, "TENSOR_DATA_INVALID"),
    lambda r: (
        TENSOR,
        _tensor("any-bool", tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_BOOL, shape=[2], data=b"\x01\x02")),
        _INVALID,
        "TENSOR_DATA_INVALID",
    ),
    lambda r: (
        TENSOR,
        _tensor("any-float", tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_INT8, shape=[1], data=b"\x01")),
        _INVALID,
        "TENSOR_DTYPE_MISMATCH",
    ),
    lambda r: (TENSOR, _tensor("any-float", _floats([1], bytes(4)), "z"), _INVALID, "TENSOR_MISSING"),
    lambda r: (TENSOR, _tensor("any-float", _floats([1], bytes(4)), outputs=("q",)), _INVALID, "OUTPUT_UNKNOWN"),
    lambda r: (_GET, catalog.GetModelRequest(model_id="a/b").SerializeToString(), _INVALID, "MODEL_ID_INVALID"),
    lambda r: (_GET, catalog.GetModelRequest(model_id="nobody").SerializeToString(), "NOT_FOUND", "MODEL_NOT_FOUND"),
    lambda r: (_LIST, catalog.ListModelsRequest(page_size=-1).SerializeToString(), _INVALID, "REQUEST_MALFORMED"),
    lambda r: (
        _HEALTH,
        service.HealthCheckRequest(service="models/nobody").SerializeToString(),
        "NOT_FOUND",
        "SERVICE_NOT_FOUND",
    ),
    lambda r: (
        f"/inference.v1.InferenceService/Method{r.randint(0, 9)}",
        b"",
        "UNIMPLEMENTED",
        "METHOD_UNIMPLEMENTED",
    ),
    lambda r: ("/no.such.Service/Call", b"x", "UNIMPLEMENTED", "METHOD_UNIMPLEMENTED"),
)


@actor(copies=2, pause=0.02, needs=["mistakes refused"])
async def mistakes(turn: Turn) -> None:
    """One mistake."""
    path, data, code, reason = turn.rng.choice(MISTAKES)(turn.rng)
    call = turn.connection().stream if path == STREAM else turn.connection().unary
    outcome = await call(path, data)
    if turn.expect(outcome, code, reason, f"{path} {data[:60].hex()}"):
        turn.saw("mistakes refused")


@actor(pause=3.0)
async def too_large(turn: Turn) -> None:
    """A message of 4 MiB and more: refused by the server's own limit or by the library beneath it."""
    size = (4 << 20) + turn.rng.choice([1, 100_000, 8 << 20])
    outcome = await turn.connection().unary(PREDICT, b"\x12\x80\x80\x80\x04" + bytes(size))
    if outcome.code not in ("RESOURCE_EXHAUSTED",) or outcome.reason not in ("", "MESSAGE_TOO_LARGE"):
        turn.wrong(f"a message of {size} bytes: expected RESOURCE_EXHAUSTED MESSAGE_TOO_LARGE, got {outcome}")
