# SPDX-License-Identifier: Apache-2.0
"""ModelInference without ONNX Runtime and without gRPC; python/tests/contract has both."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_proto.inference.v1 import model_inference_pb2, model_pb2, tensor_pb2
from concord_server.batch import Engine, Settings
from concord_server.fault import Fault, Reason
from concord_server.model import Call, Model, Session, SessionError
from concord_server.server.guard import Received
from concord_server.server.tensors import TensorInference
from concord_server.telemetry import Calls, Record
from concord_server.tensor import DType, Spec, Tensor
from google.rpc import error_details_pb2

Request = model_inference_pb2.PredictionRequest
Batch = model_inference_pb2.BatchPredictionRequest


class OneModel:
    """Plays the repository: one model, "m"."""

    def __init__(self, session: Session, kind: model_pb2.ModelKind = model_pb2.MODEL_KIND_TENSOR) -> None:
        self._model = Model("m", "2", kind, session, features="it has no features")

    def resolve(self, model_id: str, _version: str) -> Model:
        if model_id != "m":
            raise Fault(Reason.MODEL_NOT_FOUND, "not found").at(model_id)
        return self._model


def received(message: Any, call: Call | None) -> Received[Any]:
    calls = Calls()
    return Received(message, 0, call or Call(), 0, Record(calls.method("/s/m"), NoContext()))


class NoContext:
    def invocation_metadata(self) -> None:
        pass

    def peer(self) -> str:
        return ""


class Served:
    """TensorInference on a model of one executor."""

    def __init__(self, session: Session, limit: int = 1 << 20, **more: Any) -> None:
        engine = Engine(lambda _model_id: Settings(executors=1))
        self._inner = TensorInference(OneModel(session, **more), engine, 10, limit)  # type: ignore[arg-type]

    async def predict(self, request: Request, call: Call | None = None) -> Any:
        return await self._inner.predict(received(request, call))

    async def batch_predict(self, request: Batch, call: Call | None = None) -> Any:
        return await self._inner.batch_predict(received(request, call))


def serve(session: Session, limit: int = 1 << 20, **more: Any) -> Served:
    return Served(session, limit, **more)


def floats(*values: float) -> tensor_pb2.Tensor:
    data = np.array(values, np.float32).tobytes()
    return tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_FLOAT, shape=[len(values)], data=data)


def echo(kit: SimpleNamespace) -> Any:
    spec = Spec("x", DType.FLOAT, (-1,))
    return kit.FakeSession(
        [spec], [Spec("y", DType.FLOAT, (-1,)), Spec("z", DType.FLOAT, (-1,))], lambda given: [*given] * 2
    )


def ask(x: tensor_pb2.Tensor, *names: str, model_id: str = "m", request_id: str = "r-é") -> Request:
    return Request(model_id=model_id, request_id=request_id, inputs={"x": x}, output_names=names)


async def test_an_answer_says_who_gave_it(kit: SimpleNamespace) -> None:
    served = serve(echo(kit))
    answer = await served.predict(ask(floats(1, 2, 3), "z"))
    assert (answer.request_id, answer.model_version, set(answer.outputs)) == ("r-é", "2", {"z"})
    assert answer.outputs["z"] == floats(1, 2, 3)
    assert answer.timing.queue_ms > 0
    assert answer.timing.batch_rows == 3
    assert answer.timing.compute_ms > 0
    made = [(await served.predict(ask(floats(1), request_id=""))).request_id for _ in range(2)]
    assert len(made[0]) == len(made[1]) == 32
    assert made[0] != made[1]


async def test_only_what_is_wanted_is_run(kit: SimpleNamespace) -> None:
    session = echo(kit)
    wanted = []
    run = session.run

    def spied(given: Any, indices: Any, call: Call) -> Any:
        wanted.append(list(indices))
        return run(given, indices, call)

    session.run = spied
    served = serve(session)
    for names in ((), ("z",), ("z", "y")):
        await served.predict(ask(floats(1), *names))
    assert wanted == [[0, 1], [1], [1, 0]]


async def test_a_request_that_does_not_fit_does_not_run(kit: SimpleNamespace) -> None:
    session = echo(kit)
    for request, reason in (
        (Request(), Reason.MODEL_ID_INVALID),
        (ask(floats(1), model_id="other"), Reason.MODEL_NOT_FOUND),
        (Request(model_id="m"), Reason.TENSOR_MISSING),
        (ask(floats(1), "q"), Reason.OUTPUT_UNKNOWN),
    ):
        with pytest.raises(Fault) as caught:
            await serve(session).predict(request)
        assert caught.value.reason is reason
    assert caught.value.model_version == "2"
    assert session.runs == []


async def test_an_answer_at_the_limit(kit: SimpleNamespace) -> None:
    request = ask(floats(*range(100)), "y")
    size = (await serve(echo(kit)).predict(request)).ByteSize()
    assert (await serve(echo(kit), size).predict(request)).ByteSize() == size
    for limit, told in ((size - 1, size), (400, size), (399, 400)):
        with pytest.raises(Fault) as caught:
            await serve(echo(kit), limit).predict(request)
        assert caught.value.reason is Reason.OUTPUT_TOO_LARGE
        assert caught.value.message == f"the answer of {told} bytes is larger than the limit of {limit} bytes"


async def test_a_batch_runs_each_request_by_itself(kit: SimpleNamespace) -> None:
    def work(given: Any) -> list[Tensor]:
        if (given[0].array == -1).any():
            raise SessionError("broke at /opt/x.cc")
        return [*given] * 2

    session = echo(kit)
    session.work = work
    served = serve(session)
    requests = [ask(floats(1), "y"), ask(floats(-1)), ask(floats(1), model_id="other"), ask(floats(2, 3), "y")]
    results = (await served.batch_predict(Batch(requests=requests))).results
    assert [result.WhichOneof("result") for result in results] == ["response", "error", "error", "response"]
    assert [results[i].response.outputs["y"] for i in (0, 3)] == [floats(1), floats(2, 3)]
    info = error_details_pb2.ErrorInfo()
    assert results[1].error.details[0].Unpack(info)
    assert (info.reason, dict(info.metadata)) == ("MODEL_EXECUTION_FAILED", {"model_id": "m", "model_version": "2"})
    assert results[1].error.message == 'model "m" version 2 failed on this input: broke at <...>'
    assert [len(run[0].array) for run in session.runs] == [1, 1, 2]


async def test_a_batch_stops_where_its_answers_grow_too_large(kit: SimpleNamespace) -> None:
    session = echo(kit)
    served = serve(session, 1000)
    with pytest.raises(Fault) as caught:
        await served.batch_predict(Batch(requests=[ask(floats(*range(60)), "y")] * 9))
    assert caught.value.reason is Reason.OUTPUT_TOO_LARGE
    assert len(session.runs) == 4


async def test_a_batch_whose_caller_has_gone_stops(kit: SimpleNamespace) -> None:
    call = Call()
    session = echo(kit)

    def work(given: Any) -> list[Tensor]:
        call.cancel()
        return [*given] * 2

    session.work = work
    with pytest.raises(Fault) as caught:
        await serve(session).batch_predict(Batch(requests=[ask(floats(1))] * 3), call)
    assert caught.value.reason is Reason.CANCELLED
    assert len(session.runs) == 1


async def test_a_generator_takes_no_tensors(kit: SimpleNamespace) -> None:
    served = serve(echo(kit), kind=model_pb2.MODEL_KIND_GENERATOR)
    with pytest.raises(Fault) as caught:
        await served.predict(ask(floats(1)))
    assert caught.value.reason is Reason.METHOD_NOT_SUPPORTED
    assert caught.value.message == 'model "m" is generator: it takes no tensors'


@pytest.mark.parametrize(("shape", "rows"), [((), 1), ((0, 3), 1), ((4, 1), 4)])
async def test_rows_are_those_of_the_first_input(kit: SimpleNamespace, shape: tuple[int, ...], rows: int) -> None:
    spec = Spec("x", DType.UINT8, (), unranked=True)
    session = kit.FakeSession([spec], [spec], list)
    x = tensor_pb2.Tensor(dtype=tensor_pb2.DATA_TYPE_UINT8, shape=shape, data=bytes(int(np.prod(shape))))
    assert (await serve(session).predict(ask(x))).timing.batch_rows == rows
