# SPDX-License-Identifier: Apache-2.0
"""From bytes to bytes on the event loop: the very answers of the general way."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_proto.inference.v1 import inference_service_pb2 as pb
from concord_server import ort, telemetry
from concord_server.batch import Engine, Policy, Settings
from concord_server.feature import Plan, from_manifest
from concord_server.repository import Repository
from concord_server.server import Health, Server
from concord_server.tensor import DType, Spec, Tensor

PREDICT = "/inference.v1.InferenceService/Predict"


class EndedError(Exception):
    """A call that was aborted."""


class Context:
    """A call's, without gRPC."""

    def __init__(self, remaining: float | None = None) -> None:
        self.remaining = remaining

    def time_remaining(self) -> float | None:
        return self.remaining

    def add_done_callback(self, done: Callable[[Any], None]) -> None:
        pass

    def disable_next_message_compression(self) -> None:
        pass

    async def abort(self, code: Any, message: str, trailers: Any) -> None:
        raise EndedError(code.name, message, trailers)


def ask(server: Server, data: bytes, remaining: float | None = None) -> Any:
    """What a call is answered: a response without times and made ids, or how it ended."""
    handler = server._methods[PREDICT].unary_unary
    call = handler(data, Context(remaining))

    async def wait() -> Any:
        try:
            response = pb.PredictResponse.FromString(await call)
        except EndedError as ended:
            return ended.args
        assert response.latency_ms >= 0
        assert response.timing.batch_rows == 1
        response.ClearField("timing")
        response.ClearField("latency_ms")
        if len(response.request_id) == 32:
            response.request_id = "made"
        return response.SerializeToString(deterministic=True)

    return wait()


@pytest.fixture
def pair(tmp_path: Path, kit: SimpleNamespace) -> Callable[..., Any]:
    """Runs a test with a server, and with one that has the general way alone."""

    def run(test: Callable[[Server, Server], Any], **limits: Any) -> None:
        outputs = [{"output": {"name": "b", "type": "FEATURE_TYPE_FLOAT"}, "onnxOutput": "y", "index": 1}]
        kit.write_identity(tmp_path, outputs=outputs[:0])
        kit.write_identity(tmp_path, "many", outputs=outputs)

        async def whole() -> None:
            repository = Repository(tmp_path, ort.Runtime(1).load, require_manifest=True)
            repository.list()
            await asyncio.to_thread(repository.load)
            servers = []
            for quick in (True, False):
                engine = Engine(lambda _: Settings(policy=Policy.INLINE, own_policy=True))
                given = {"max_message_bytes": 1 << 20, "max_batch_requests": 10, "reflection": False, **limits}
                server = Server(repository, Health(("",)), engine, calls=telemetry.Calls(), **given)
                if not quick:
                    server._quick._max_request_seconds = lambda: 0.0
                await server.start("127.0.0.1:0")
                servers.append(server)
            try:
                await test(servers[0], servers[1])
            finally:
                for server in servers:
                    await server.stop(0)

        asyncio.run(whole())

    return run


def test_every_byte_cut_off_and_flipped(pair: Callable[..., Any], kit: SimpleNamespace) -> None:
    async def test(quick: Server, general: Server) -> None:
        for model in ("m", "many", "none", "a b"):
            data = kit.request(model, request_id="r1", a=1.5, b=-2.25).SerializeToString(deterministic=True)
            for _ in range(2):  # the second time its layout is known
                assert await ask(quick, data) == await ask(general, data)
            for at in range(len(data)):
                assert await ask(quick, data[:at]) == await ask(general, data[:at]), data[:at]
                for bit in range(8):
                    other = bytearray(data)
                    other[at] ^= 1 << bit
                    got, want = await ask(quick, bytes(other)), await ask(general, bytes(other))
                    assert got == want, bytes(other)

    pair(test)


def test_other_requests_meanwhile(pair: Callable[..., Any], kit: SimpleNamespace) -> None:
    """What is beside the features, in another order, or missing; a request that has expired; a server that drains."""
    plain = kit.request("m", a=1.0, b=2.0)
    config, version, text, unknown, missing = (
        pb.PredictRequest.FromString(plain.SerializeToString()) for _ in range(5)
    )
    config.config.temperature = -1
    version.model_version = "1"
    text.features["a"].string_value = "x"
    unknown.features["c"].float_value = 1
    del missing.features["b"]
    named = kit.request("m", request_id="é" * 40, a=1.0, b=2.0)
    two = kit.request("m", a=1.0).SerializeToString() + kit.request(b=2.0).SerializeToString()
    twice = plain.SerializeToString() + kit.request(b=5.0).SerializeToString()
    datas = [m.SerializeToString() for m in (config, version, text, unknown, missing, named)]

    async def test(quick: Server, general: Server) -> None:
        for data in (plain.SerializeToString(), *datas, two, two[::-1], twice, b""):
            for _ in range(2):
                assert await ask(quick, data) == await ask(general, data), data
        first = plain.SerializeToString()
        assert (await ask(quick, first, 0.0))[0] == "DEADLINE_EXCEEDED"
        assert (await ask(quick, first, 60.0)) == await ask(general, first)
        quick._draining = general._draining = True
        assert (await ask(quick, first)) == await ask(general, first)
        assert (await ask(quick, first))[0] == "UNAVAILABLE"

    pair(test)


def test_the_longest_time_of_a_request(pair: Callable[..., Any], kit: SimpleNamespace) -> None:
    async def test(quick: Server, general: Server) -> None:
        data = kit.request("m", a=1.0, b=2.0).SerializeToString()
        got = await ask(quick, data)
        assert got[:2] == ("DEADLINE_EXCEEDED", "the server's longest time for a request passed: 0 ms")

    pair(test, max_request_seconds=1e-9)


def plan_of(kit: SimpleNamespace, dtype: DType, columns: int) -> Plan:
    features = [
        {"feature": {"name": f"f{i}", "type": "FEATURE_TYPE_FLOAT", "required": True}, "input": "x", "column": i}
        for i in range(columns)
    ]
    predictions = [{"prediction": {"name": "p"}, "output": "y", "index": 0}]
    document = kit.manifest(features=features, predictions=predictions, outputs=[])
    return from_manifest(kit.parse_manifest(document), [Spec("x", dtype, (-1, columns))], [Spec("y", dtype, (-1, 1))])


@pytest.mark.parametrize("dtype", [DType.FLOAT, DType.DOUBLE])
def test_layouts_read_what_decode_reads(kit: SimpleNamespace, dtype: DType) -> None:
    plan = plan_of(kit, dtype, 5)
    rng = np.random.default_rng(3)
    read = 0
    for _ in range(300):
        bits = rng.integers(0, 1 << 32, 5, np.uint32)
        bits = np.where(rng.random(5) < 0.2, np.uint32(0x7F800001), bits).astype("<u4")
        order = rng.permutation(5) if rng.random() < 0.5 else np.arange(5)
        data = b"".join(b"\x1a\x0b\x0a\x02f%d\x12\x05\x0d%b" % (i, struct.pack("<I", bits[i])) for i in order)
        message = pb.PredictRequest.FromString(data)
        (want,) = plan.decode(message.features)
        got = plan.layouts.read(data, 0)
        if got is None:
            continue
        read += 1
        assert got[0].dtype is dtype
        assert got[0].array.shape == want.array.shape
        assert got[0].array.tobytes() == want.array.tobytes()
    assert read > 100
    for odd in (data + b"\x1a\x00", data[:-1], data + data, b"\x20\x01" + data):
        assert plan.layouts.read(odd, 0) is None


def test_no_more_layouts_than_are_worth_keeping(kit: SimpleNamespace) -> None:
    plan = plan_of(kit, DType.FLOAT, 30)
    rng = np.random.default_rng(3)
    for _ in range(2000):
        order = rng.permutation(30)
        data = b"".join(b"\x1a%c\x0a%cf%d\x12\x05\x0d0000" % (9 + 2 + len(str(i)), 1 + len(str(i)), i) for i in order)
        plan.layouts.read(data, 0)
    assert sum(map(len, plan.layouts._known.values())) <= 8
    assert plan.layouts._tries <= 256


@pytest.mark.parametrize(
    "y",
    [
        Tensor(DType.FLOAT, np.array([[1.5]], np.float32)),
        Tensor(DType.DOUBLE, np.array([[1e300]])),
        Tensor(DType.FLOAT16, np.array([[0x3C01]], np.uint16)),
        Tensor(DType.BFLOAT16, np.array([[0x3F81]], np.uint16)),
        Tensor(DType.UINT64, np.array([[1 << 63]], np.uint64)),
        Tensor(DType.INT8, np.array([[-1]], np.int8)),
        Tensor(DType.INT64, np.array([[127]])),
        Tensor(DType.INT64, np.array([[128]])),
        Tensor(DType.FLOAT, np.zeros((2, 1), np.float32)),
        Tensor(DType.FLOAT, np.zeros((1, 0), np.float32)),
    ],
)
def test_answers_are_those_of_encode(kit: SimpleNamespace, y: Tensor) -> None:
    kind = "DOUBLE" if y.dtype is DType.DOUBLE else "FLOAT" if y.dtype.is_float else "INT64"
    document = kit.manifest(
        features=kit.manifest()["features"],
        predictions=[{"prediction": {"name": "p"}, "output": "y", "index": 0}],
        outputs=[{"output": {"name": "o", "type": f"FEATURE_TYPE_{kind}"}, "onnxOutput": "y", "index": 0}],
    )
    whole = y.array.shape == (1, 1)
    small = whole and y.dtype is DType.INT64 and y.array.item() == 127
    # Predictions are always written, outputs where they are small integers: else encode has the word.
    for outputs, written in ((document["outputs"], small), ([], whole)):
        manifest = kit.parse_manifest({**document, "outputs": outputs})
        plan = from_manifest(manifest, [Spec("x", DType.FLOAT, (-1, 2))], [Spec("y", y.dtype, (-1, 1))])
        parts = plan.answer.parts([y])
        assert (parts is not None) == written
        if parts is not None:
            want = pb.PredictResponse()
            plan.encode([y], want)
            assert pb.PredictResponse.FromString(b"".join(parts)) == want


def test_labels(kit: SimpleNamespace) -> None:
    document = kit.manifest(
        predictions=[],
        outputs=[{"output": {"name": "o", "type": "FEATURE_TYPE_STRING"}, "onnxOutput": "y", "index": 0}],
    )
    plan = from_manifest(
        kit.parse_manifest(document), [Spec("x", DType.FLOAT, (-1, 2))], [Spec("y", DType.STRING, (-1,))]
    )
    for text, plain in ((b"", True), (b"benign", True), ("é".encode(), False), (b"x" * 200, False), (b"\xff", False)):
        array = np.empty(1, object)
        array[0] = text
        parts = plan.answer.parts([Tensor(DType.STRING, array)])
        assert (parts is not None) == plain
        if parts is not None:
            assert pb.PredictResponse.FromString(b"".join(parts)).outputs["o"].string_value == text.decode()
