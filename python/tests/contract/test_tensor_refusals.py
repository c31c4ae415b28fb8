# SPDX-License-Identifier: Apache-2.0
"""Requests of ModelInference that cannot be answered: both servers say the same, and go on. Run after `make build`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from concord_proto.inference.v1 import model_inference_pb2, model_inference_pb2_grpc, tensor_pb2
from google.rpc import error_details_pb2, status_pb2
from onnx import NodeProto, TensorProto, helper, numpy_helper

Tensor = tensor_pb2.Tensor
Request = model_inference_pb2.PredictionRequest
Stub = model_inference_pb2_grpc.ModelInferenceStub

LIMIT = 1 << 20  # bytes of a message
FLOAT, INT64, STRING, BOOL = 1, 7, 8, 9


def tensor(dtype: int, shape: Sequence[int], data: bytes = b"", strings: Sequence[bytes] = ()) -> Tensor:
    return Tensor(dtype=dtype, shape=shape, data=data, strings=strings)  # type: ignore[arg-type]


X = tensor(FLOAT, [1, 2], bytes(8))
FLAG = tensor(BOOL, [], b"\1")
GOOD = {"x": X, "flag": FLAG}


def graph(nodes: Sequence[NodeProto], inputs: Any, outputs: Any, constants: Mapping[str, Any] | None = None) -> bytes:
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def copies(*names: tuple[str, int, Any]) -> bytes:
    """Each input comes back as "<name> out"."""
    nodes = [helper.make_node("Identity", [name], [f"{name} out"]) for name, *_ in names]
    return graph(nodes, names, [(f"{name} out", dtype, shape) for name, dtype, shape in names])


MODELS = {
    "pair": copies(("x", TensorProto.FLOAT, [None, 2]), ("flag", TensorProto.BOOL, [])),
    "text": copies(("s", TensorProto.STRING, ["n"])),
    "any": copies(("x", TensorProto.FLOAT, None)),
    # As many zeros, and as many strings, as the request says.
    "big": graph(
        [
            helper.make_node("Expand", ["zero", "n"], ["zeros"]),
            helper.make_node("Expand", ["word", "m"], ["words"]),
        ],
        [("n", TensorProto.INT64, [1]), ("m", TensorProto.INT64, [1])],
        [("zeros", TensorProto.FLOAT, [None]), ("words", TensorProto.STRING, [None])],
        {"zero": np.float32(0), "word": np.array("ab", object)},
    ),
    "lookup": graph(
        [helper.make_node("Gather", ["v", "i"], ["y"])],
        [("i", TensorProto.INT64, [None])],
        [("y", TensorProto.FLOAT, [None])],
        {"v": np.array([1, 2], np.float32)},
    ),
    "constant": graph(
        [helper.make_node("Identity", ["v"], ["y"])], [], [("y", TensorProto.FLOAT, [2])], {"v": np.ones(2, np.float32)}
    ),
}


def count(n: int, m: int = 0) -> dict[str, Tensor]:
    return {
        "n": tensor(INT64, [1], n.to_bytes(8, "little")),
        "m": tensor(INT64, [1], m.to_bytes(8, "little")),
    }


def pair(x: Tensor, **more: Tensor) -> Request:
    return Request(model_id="pair", request_id="r", inputs={"x": x, "flag": FLAG, **more})


def ask(model_id: str, inputs: Mapping[str, Tensor], *names: str) -> Request:
    return Request(model_id=model_id, request_id="r", inputs=inputs, output_names=names)


# Requests, each with its reason, its message and the fields that it blames.
REFUSALS: dict[str, tuple[Request, str, str, list[str]]] = {
    "no dtype": (
        pair(tensor(0, [1, 2], bytes(8))),
        "TENSOR_DTYPE_MISMATCH", 'input "x": expected dtype FLOAT, got no dtype', ['inputs["x"].dtype'],
    ),
    "no such dtype": (
        pair(tensor(99, [1, 2], bytes(8))),
        "TENSOR_DTYPE_MISMATCH", 'input "x": expected dtype FLOAT, got 99', ['inputs["x"].dtype'],
    ),
    "a dtype that is not served": (
        pair(tensor(17, [1, 2], bytes(2))),
        "TENSOR_DTYPE_MISMATCH", 'input "x": expected dtype FLOAT, got 17', ['inputs["x"].dtype'],
    ),
    "another dtype": (
        pair(tensor(11, [1, 2], bytes(16))),
        "TENSOR_DTYPE_MISMATCH", 'input "x": expected dtype FLOAT, got DOUBLE', ['inputs["x"].dtype'],
    ),
    "data before another dtype": (
        pair(tensor(11, [1, 2], bytes(8))),
        "TENSOR_DATA_INVALID", 'input "x": expected 16 bytes of data, got 8', ['inputs["x"].data'],
    ),
    "negative": (
        pair(tensor(FLOAT, [-1, 2])),
        "TENSOR_SHAPE_MISMATCH", 'input "x": expected lengths of at least 0, got [-1, 2]', ['inputs["x"].shape'],
    ),
    "least": (
        pair(tensor(FLOAT, [0, -(1 << 63)])),
        "TENSOR_SHAPE_MISMATCH",
        'input "x": expected lengths of at least 0, got [0, -9223372036854775808]',
        ['inputs["x"].shape'],
    ),
    "overflow": (
        pair(tensor(FLOAT, [1 << 32, 1 << 32])),
        "TENSOR_SHAPE_MISMATCH",
        'input "x": expected fewer elements, got [4294967296, 4294967296]',
        ['inputs["x"].shape'],
    ),
    "overflow to 0": (
        pair(tensor(FLOAT, [1 << 33] * 4)),
        "TENSOR_SHAPE_MISMATCH",
        'input "x": expected fewer elements, got [8589934592, 8589934592, 8589934592, 8589934592]',
        ['inputs["x"].shape'],
    ),
    "overflow beside an empty axis": (
        pair(tensor(FLOAT, [0, 1 << 62])),
        "TENSOR_SHAPE_MISMATCH",
        'input "x": expected fewer elements, got [0, 4611686018427387904]',
        ['inputs["x"].shape'],
    ),
    "a terabyte that is not there": (
        pair(tensor(FLOAT, [1 << 38, 2], bytes(8))),
        "TENSOR_DATA_INVALID", 'input "x": expected 2199023255552 bytes of data, got 8', ['inputs["x"].data'],
    ),
    "rank 65": (
        ask("any", {"x": tensor(FLOAT, [1] * 65, bytes(4))}),
        "TENSOR_SHAPE_MISMATCH", 'input "x": expected at most 64 axes, got 65', ['inputs["x"].shape'],
    ),
    "a byte short": (
        pair(tensor(FLOAT, [1, 2], bytes(7))),
        "TENSOR_DATA_INVALID", 'input "x": expected 8 bytes of data, got 7', ['inputs["x"].data'],
    ),
    "data of an empty tensor": (
        pair(tensor(FLOAT, [0, 2], bytes(1))),
        "TENSOR_DATA_INVALID", 'input "x": expected 0 bytes of data, got 1', ['inputs["x"].data'],
    ),
    "strings beside numbers": (
        pair(tensor(FLOAT, [1, 2], bytes(8), [b""])),
        "TENSOR_DATA_INVALID", 'input "x": expected no strings with dtype FLOAT, got 1', ['inputs["x"].strings'],
    ),
    "shape": (
        pair(tensor(FLOAT, [2, 4], bytes(32))),
        "TENSOR_SHAPE_MISMATCH", 'input "x": expected shape [?, 2], got [2, 4]', ['inputs["x"].shape'],
    ),
    "rank": (
        pair(tensor(FLOAT, [], bytes(4))),
        "TENSOR_SHAPE_MISMATCH", 'input "x": expected shape [?, 2], got []', ['inputs["x"].shape'],
    ),
    "a vector for a scalar": (
        pair(X, flag=tensor(BOOL, [1], b"\1")),
        "TENSOR_SHAPE_MISMATCH", 'input "flag": expected shape [], got [1]', ['inputs["flag"].shape'],
    ),
    "a bool of 2": (
        pair(X, flag=tensor(BOOL, [], b"\2")),
        "TENSOR_DATA_INVALID", 'input "flag": expected bools of 0 or 1, got 2', ['inputs["flag"].data'],
    ),
    "fewer strings": (
        ask("text", {"s": tensor(STRING, [3], strings=[b"a", b"b"])}),
        "TENSOR_DATA_INVALID", 'input "s": expected 3 strings, got 2', ['inputs["s"].strings'],
    ),
    "a lying count of strings": (
        ask("text", {"s": tensor(STRING, [1 << 40], strings=[b"a"])}),
        "TENSOR_DATA_INVALID", 'input "s": expected 1099511627776 strings, got 1', ['inputs["s"].strings'],
    ),
    "data beside strings": (
        ask("text", {"s": tensor(STRING, [1], b"abcd", [b"a"])}),
        "TENSOR_DATA_INVALID", 'input "s": expected no data with dtype STRING, got 4 bytes', ['inputs["s"].data'],
    ),
    "missing": (
        ask("pair", {"x": X}),
        "TENSOR_MISSING", 'input "flag": expected a bool tensor, got nothing', ['inputs["flag"]'],
    ),
    "missing, of an integer": (
        ask("lookup", {}), "TENSOR_MISSING", 'input "i": expected an int64 tensor, got nothing', ['inputs["i"]'],
    ),
    "all together": (
        ask("pair", {"x": tensor(FLOAT, [1]), "z": X, "\U0001f600": X, "\uffff": X, "a": X}, "x out", "x out", "y"),
        "TENSOR_DATA_INVALID",
        'input "x": expected 4 bytes of data, got 0 (and 7 more)',
        [
            'inputs["x"].data', 'inputs["flag"]', 'inputs["a"]', 'inputs["z"]', 'inputs["\uffff"]',
            'inputs["\U0001f600"]', "output_names[1]", "output_names[2]",
        ],
    ),
    "an unknown output": (
        ask("pair", GOOD, "flag out", "nothing"),
        "OUTPUT_UNKNOWN", 'output_names[1]: the model has no output "nothing"', ["output_names[1]"],
    ),
    "an output twice": (
        ask("pair", GOOD, "flag out", "flag out"),
        "OUTPUT_UNKNOWN", 'output_names[1]: "flag out" is there already', ["output_names[1]"],
    ),
    "an output that is an input": (
        ask("pair", GOOD, "x"), "OUTPUT_UNKNOWN", 'output_names[0]: the model has no output "x"', ["output_names[0]"],
    ),
    "a name of many characters": (
        ask("constant", {'"\n' + "é" * 100: X}),
        "TENSOR_UNKNOWN",
        'input "\\"\\n' + "é" * 62 + '"...: the model has no such input',
        ['inputs["\\"\\n' + "é" * 62 + '"...]'],
    ),
    "many names": (
        ask("constant", {f"{i:03}": tensor(0, []) for i in range(100)}),
        "TENSOR_UNKNOWN",
        'input "000": the model has no such input (and 99 more)',
        [f'inputs["{i:03}"]' for i in range(16)],
    ),
    "no model": (ask("nobody", GOOD), "MODEL_NOT_FOUND", 'model "nobody" not found', []),
    "no id": (
        Request(), "MODEL_ID_INVALID", "model_id: expected [A-Za-z0-9][A-Za-z0-9._-]{0,127}, got nothing", ["model_id"],
    ),
    "an answer of too many numbers": (
        ask("big", count(1 << 24)),
        "OUTPUT_TOO_LARGE", f"the answer of {4 << 24} bytes is larger than the limit of {LIMIT} bytes", [],
    ),
    "an answer of too many strings": (
        ask("big", count(0, 1 << 20), "words"),
        "OUTPUT_TOO_LARGE", f"the answer of {4 << 20} bytes is larger than the limit of {LIMIT} bytes", [],
    ),
    "numbers and strings": (
        ask("big", count(1 << 17, 1 << 17), "words", "zeros"),
        "OUTPUT_TOO_LARGE", f"the answer of {LIMIT} bytes is larger than the limit of {LIMIT} bytes", [],
    ),
    "more than memory": (ask("big", count(1 << 50)), "MODEL_EXECUTION_FAILED", "", []),
    "out of the model's range": (
        ask("lookup", {"i": tensor(INT64, [1], (7).to_bytes(8, "little"))}), "MODEL_EXECUTION_FAILED", "", [],
    ),
}  # fmt: skip
# The elements alone are just what may be sent; around them there is more, which only the whole message tells.
FRAMED = "numbers and strings"


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, both: Callable[..., dict[str, grpc.Channel]]
) -> dict[str, grpc.Channel]:
    models = tmp_path_factory.mktemp("models")
    for name, made in MODELS.items():
        folder = models / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(made)
    return both(models, "--max-message-bytes", str(LIMIT), "--max-batch-requests", "200")


def refused(stub: Stub, request: Request) -> status_pb2.Status:
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request, timeout=30)
    metadata: Any = caught.value.trailing_metadata() or ()
    details = [value for key, value in metadata if key == "grpc-status-details-bin"]
    assert details, caught.value
    return status_pb2.Status.FromString(bytes(details[0]))


def content(status: status_pb2.Status) -> list[Any]:
    """What a status says; two that say the same may differ in bytes, since maps have no order."""
    found: list[Any] = [status.code, status.message]
    for detail in status.details:
        for kind in (error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()):
            if detail.Unpack(kind):
                found.append(kind)
    assert len(found) == 2 + len(status.details)
    return found


@pytest.mark.parametrize("case", REFUSALS)
def test_both_refuse_in_the_same_words(servers: dict[str, grpc.Channel], case: str) -> None:
    request, reason, message, fields = REFUSALS[case]
    told = {}
    for name, channel in servers.items():
        stub = Stub(channel)
        status = told[name] = refused(stub, request)
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        assert status.details[0].Unpack(info)
        assert (info.reason, info.domain) == (reason, "concord")
        if fields:
            assert status.details[1].Unpack(bad)
        assert [violation.field for violation in bad.field_violations] == fields
        if case != FRAMED:
            assert message in ("", status.message)
        # The same request in a batch fails alone, with the same status, and the same process goes on.
        good = ask("constant", {})
        batch = stub.BatchPredict(
            model_inference_pb2.BatchPredictionRequest(requests=[good, request, good]), timeout=30
        )
        assert content(batch.results[1].error) == content(status)
        for at in (0, 2):
            answer = batch.results[at].response.outputs["y"]
            assert np.frombuffer(answer.data, "<f4").tolist() == [1.0, 1.0]
    assert content(told["go"]) == content(told["python"])
    if case == FRAMED:
        size = int(told["go"].message.split()[3])
        assert LIMIT < size < LIMIT + 200


@pytest.mark.parametrize("shape", [[1 << 31, 0], [0, (1 << 31) + 1], [1 << 40, 0, 3], [0, 1 << 60]])
def test_an_empty_tensor_may_be_long(servers: dict[str, grpc.Channel], shape: list[int]) -> None:
    for channel in servers.values():
        answer = Stub(channel).Predict(ask("any", {"x": tensor(FLOAT, shape)}), timeout=30)
        assert answer.outputs["x out"] == tensor(FLOAT, shape)


def test_outputs_as_asked_for(servers: dict[str, grpc.Channel]) -> None:
    for channel in servers.values():
        stub = Stub(channel)
        for names in ([], ["x out"], ["flag out", "x out"]):
            answer = stub.Predict(ask("pair", GOOD, *names), timeout=30)
            wanted = {"x out": X, "flag out": FLAG}
            assert dict(answer.outputs) == {name: wanted[name] for name in names or wanted}
            assert (answer.request_id, answer.timing.batch_rows) == ("r", 1)
        assert stub.Predict(ask("constant", {}), timeout=30).timing.batch_rows == 1
        empty = stub.Predict(ask("big", count(0)), timeout=30).outputs
        assert (list(empty["zeros"].shape), list(empty["words"].shape)) == ([0], [0])


def test_a_batch_whose_answers_are_too_large_together(servers: dict[str, grpc.Channel]) -> None:
    request = ask("big", count(1 << 16), "zeros")  # 256 KiB
    told = []
    for channel in servers.values():
        few, many = (model_inference_pb2.BatchPredictionRequest(requests=[request] * count) for count in (3, 5))
        assert len(Stub(channel).BatchPredict(few, timeout=30).results) == 3
        with pytest.raises(grpc.RpcError) as caught:
            Stub(channel).BatchPredict(many, timeout=30)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        told.append(caught.value.details())
    assert told[0] == told[1]
    assert str(told[0]).endswith(f"bytes is larger than the limit of {LIMIT} bytes")


def test_batches_have_a_size(servers: dict[str, grpc.Channel]) -> None:
    for requests, message in (
        (0, "requests: expected at least 1 request, got 0"),
        (201, "requests: expected at most 200 requests, got 201"),
    ):
        for channel in servers.values():
            batch = model_inference_pb2.BatchPredictionRequest(requests=[Request()] * requests)
            with pytest.raises(grpc.RpcError) as caught:
                Stub(channel).BatchPredict(batch, timeout=30)
            assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, message)
