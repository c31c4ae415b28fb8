# SPDX-License-Identifier: Apache-2.0
"""How a client learns what a model's features are, and notices when that changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from concord_client import FeatureValue, InvalidArgumentError, NotFoundError, UnavailableError
from concord_proto.inference.v1 import inference_service_pb2

if TYPE_CHECKING:
    from tests.client.conftest import Connect, FakeServer, Start

PredictResponse = inference_service_pb2.PredictResponse


@pytest.fixture
def server(start: Start) -> FakeServer:
    """A fake server with a catalog."""
    return start()


def methods(server: FakeServer) -> list[str]:
    return [call.method for call in server.seen]


@pytest.mark.parametrize(
    ("kind", "field"), [("FLOAT", "float_value"), ("DOUBLE", "double_value"), ("INT64", "int64_value")]
)
def test_42_is_right_for_every_number(server: FakeServer, connect: Connect, kind: str, field: str) -> None:
    server.serve("m", server.version("1", age=kind))
    client = connect(server.address)
    for value in (42, 42.0, np.int32(42), np.float32(42)):
        client.predict("m", {"age": value})
        assert server.sent() == {"age": field}


def test_the_catalog_is_asked_once(server: FakeServer, connect: Connect) -> None:
    server.serve("m", server.version("1", a="FLOAT"), server.version("2", a="INT64"), stable="1")
    client = connect(server.address)
    kinds = []
    for version in ("", "1", "2", "stable", ""):
        client.predict("m", {"a": 1}, version=version)
        kinds.append(server.sent()["a"])
    client.predict_batch("m", [{"a": 1}, {"a": 2}])
    assert kinds == ["int64_value", "float_value", "int64_value", "float_value", "int64_value"]
    assert methods(server).count("GetModel") == 1


def test_model_fills_the_memory(server: FakeServer, connect: Connect) -> None:
    server.serve("m", server.version("1", a="DOUBLE"))
    client = connect(server.address)
    client.model("m")
    client.predict("m", {"a": 1})
    assert methods(server) == ["GetModel", "Predict"]
    assert server.sent() == {"a": "double_value"}


def test_explicit_values_need_no_catalog(server: FakeServer, connect: Connect) -> None:
    server.serve("m", server.version("1", a="DOUBLE"))
    connect(server.address).predict("m", {"a": FeatureValue(int64_value=1)})
    assert methods(server) == ["Predict"]
    assert server.sent() == {"a": "int64_value"}


def test_a_new_version_that_refuses_the_old_kind(server: FakeServer, connect: Connect) -> None:
    server.serve("m", server.version("1", age="FLOAT"))
    client = connect(server.address)
    client.predict("m", {"age": 42})
    server.serve("m", server.version("1", age="FLOAT"), server.version("2", age="INT64"))
    _strict(server, "int64_value")
    assert client.predict("m", {"age": 42}).model_version == "2"
    assert methods(server)[2:] == ["Predict", "GetModel", "Predict"]
    client.predict("m", {"age": 43})
    assert methods(server)[5:] == ["Predict"]


def test_a_new_version_that_would_take_less(server: FakeServer, connect: Connect) -> None:
    """A DOUBLE takes a float_value: without a second look the answer would be one to a rounded question."""
    server.serve("m", server.version("1", age="FLOAT"))
    client = connect(server.address)
    client.predict("m", {"age": 0.1})
    server.serve("m", server.version("1", age="FLOAT"), server.version("2", age="DOUBLE"))
    assert client.predict("m", {"age": 0.1}).model_version == "2"
    assert methods(server)[2:] == ["Predict", "GetModel", "Predict"]
    assert server.requests("Predict")[-1].features["age"].double_value == 0.1


def test_a_new_version_with_the_same_features_costs_one_look(server: FakeServer, connect: Connect) -> None:
    server.serve("m", server.version("1", age="FLOAT"))
    client = connect(server.address)
    client.predict("m", {"age": 1})
    server.serve("m", server.version("1", age="FLOAT"), server.version("2", age="FLOAT"))
    client.predict("m", {"age": float("nan")})
    client.predict("m", {"age": 1})
    assert methods(server)[2:] == ["Predict", "GetModel", "Predict"]


def test_versions_that_take_turns_cost_nothing(server: FakeServer, connect: Connect) -> None:
    """Two servers behind one address, one a version ahead."""
    server.serve("m", server.version("1", age="FLOAT"), server.version("2", age="FLOAT"))
    client = connect(server.address)
    client.predict("m", {"age": 1})
    for version in ("1", "2", "1", "2"):
        server.predict = lambda request, context, version=version: PredictResponse(model_version=version)  # type: ignore[misc]
        client.predict("m", {"age": 1})
    assert methods(server).count("GetModel") == 1
    assert methods(server).count("Predict") == 5


def test_a_moved_label(server: FakeServer, connect: Connect) -> None:
    one, two = server.version("1", a="FLOAT"), server.version("2", a="DOUBLE")
    server.serve("m", one, two, stable="1")
    client = connect(server.address)
    client.predict("m", {"a": 1}, version="stable")
    assert server.sent() == {"a": "float_value"}
    server.serve("m", one, two, stable="2")
    client.predict("m", {"a": 1}, version="stable")
    client.predict("m", {"a": 1}, version="stable")
    assert server.sent() == {"a": "double_value"}
    assert methods(server) == ["GetModel", "Predict", "Predict", "Predict", "Predict"]


def test_only_the_rows_that_need_it_are_sent_again(server: FakeServer, connect: Connect) -> None:
    server.serve("m", server.version("1", age="FLOAT"))
    client = connect(server.address)
    client.predict("m", {"age": 1})
    server.serve("m", server.version("1", age="FLOAT"), server.version("2", age="INT64"))
    _strict(server, "int64_value")
    rows: list[Any] = [{"age": 1}, {"age": FeatureValue(int64_value=2)}, {"age": 0.5}, {"age": None}, {"age": 3}]
    results = client.predict_batch("m", rows, request_ids=list("abcde"))
    assert [getattr(r, "request_id", None) or r.reason for r in results] == [
        "a", "b", "FEATURE_TYPE_MISMATCH", "FEATURE_TYPE_MISMATCH", "e",
    ]  # fmt: skip
    assert [[r.request_id for r in b.requests] for b in server.requests("BatchPredict")] == [list("abce"), list("ae")]


def test_a_row_refused_for_an_old_shape(server: FakeServer, connect: Connect) -> None:
    server.serve("m", server.version("1", image="FLOAT[2,3]"))
    client = connect(server.address)
    client.predict("m", {"image": np.zeros((2, 3))})
    server.serve("m", server.version("2", image="FLOAT[3,2]"))
    assert client.predict("m", {"image": np.zeros((3, 2))}).model_version == "2"
    with pytest.raises(InvalidArgumentError, match=r"expected values of shape \[3, 2\], got shape \[2, 3\]"):
        client.predict("m", {"image": np.zeros((2, 3))})


def test_a_bad_value_is_refused_by_the_server(server: FakeServer, connect: Connect) -> None:
    server.serve("m", server.version("1", age="INT64"))
    _strict(server, "int64_value")
    client = connect(server.address)
    for _ in range(2):
        with pytest.raises(InvalidArgumentError, match="expected int64_value, got string_value"):
            client.predict("m", {"age": "old"})
    # At first the features are known to be fresh; later they are looked at again, and found unchanged.
    assert methods(server) == ["GetModel", "Predict", "Predict", "GetModel"]


def test_an_unknown_model_is_the_servers_to_refuse(server: FakeServer, connect: Connect) -> None:
    def refuse(request: Any, context: Any) -> Any:
        raise server.failure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", f'model "{request.model_id}" not found')

    server.predict = refuse
    client = connect(server.address)
    with pytest.raises(NotFoundError, match='model "x" not found'):
        client.predict("x", {"a": 1})
    [error] = client.predict_batch("x", [{"a": 1}])
    assert isinstance(error, NotFoundError)
    server.serve("x", server.version("1", a="FLOAT"))
    client.predict("x", {"a": 1})
    assert server.sent() == {"a": "float_value"}


@pytest.mark.parametrize("code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED])
def test_a_server_without_a_catalog(server: FakeServer, connect: Connect, code: grpc.StatusCode) -> None:
    server.catalog_failure = server.failure(code, "X")
    client = connect(server.address)
    for _ in range(2):
        client.predict("m", {"i": 1, "f": 0.5, "b": True, "s": "x", "a": [1, 2], "v": [0.5]})
        assert server.sent() == {
            "i": "int64_value", "f": "float_value", "b": "bool_value", "s": "string_value", "a": "int64_array",
            "v": "float_array",
        }  # fmt: skip
    assert methods(server) == ["GetModel", "Predict", "Predict"]


def test_a_catalog_out_of_order_fails_the_call(server: FakeServer, connect: Connect) -> None:
    server.catalog_failure = server.failure(
        grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING", "the server is shutting down"
    )
    with pytest.raises(UnavailableError, match="SERVER_DRAINING"):
        connect(server.address, retry=False).predict("m", {"a": 1})
    assert methods(server) == ["GetModel"]


def test_a_version_that_the_catalog_never_tells(server: FakeServer, connect: Connect) -> None:
    """A foreign server, perhaps, that leaves model_version empty: it is not asked for its catalog for ever."""
    server.serve("m", server.version("1", a="DOUBLE"))
    server.predict = lambda request, context: PredictResponse()
    client = connect(server.address)
    for _ in range(4):
        client.predict("m", {"a": 1})
    assert methods(server).count("GetModel") <= 2
    assert methods(server).count("Predict") <= 5


def _strict(server: FakeServer, wanted: str) -> None:
    """From now on the default version refuses every other kind of value."""
    answer = server.predict

    def predict(request: Any, context: Any) -> Any:
        for name, value in request.features.items():
            if (got := value.WhichOneof("value")) != wanted:
                message = f'feature "{name}": expected {wanted}, got {got}'
                raise server.failure(grpc.StatusCode.INVALID_ARGUMENT, "FEATURE_TYPE_MISMATCH", message, model_id="m")
        return answer(request, context)

    server.predict = predict
