# SPDX-License-Identifier: Apache-2.0
"""Every dtype through every shape, byte for byte, by both servers over gRPC. `-s` shows the table.

What must come back is what was sent: the models give their input back, or those elements of it that a mask picks. Run
after `make build`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import grpc
import numpy as np
import pytest
from concord_proto.inference.v1 import model_inference_pb2, model_inference_pb2_grpc, tensor_pb2
from onnx import NodeProto, TensorProto, helper

Tensor = tensor_pb2.Tensor
Request = model_inference_pb2.PredictionRequest

SIZES = {
    "FLOAT": 4, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "INT32": 4, "INT64": 8, "STRING": 0, "BOOL": 1,
    "FLOAT16": 2, "DOUBLE": 8, "UINT32": 4, "UINT64": 8, "BFLOAT16": 2,
}  # fmt: skip

# The bits that get lost first: signalling NaNs with payloads of both signs, infinities, -0.0, subnormals, the largest.
BITS = {
    "FLOAT": [0x7F800001, 0xFFC12345, 0x7F800000, 0xFF800000, 0x80000000, 1, 0x807FFFFF, 0x7F7FFFFF],
    "DOUBLE": [
        0x7FF0000000000001, 0xFFF8123456789ABC, 0x7FF0000000000000, 0x8000000000000000, 1, 0x800FFFFFFFFFFFFF,
        0x7FEFFFFFFFFFFFFF,
    ],
    "FLOAT16": [0x7C01, 0xFE55, 0x7C00, 0xFC00, 0x8000, 1, 0x83FF, 0x7BFF],
    "BFLOAT16": [0x7F81, 0xFFD5, 0x7F80, 0xFF80, 0x8000, 1, 0x807F, 0x7F7F],
    "BOOL": [1, 0],
}  # fmt: skip
STRINGS = [b"\xff\xfe\x80", b"a\0b\0", b"", "日本 é".encode(), b"\0", b"x" * 100_000, b"\xed\xa0\x80", b"plain"]

SURFACES: dict[str, list[int]] = {
    "scalar": [],
    "[0]": [0],
    "[3]": [3],
    "[2,0,3]": [2, 0, 3],
    "rank 4": [2, 1, 3, 2],
    "rank 64": [1] * 63 + [5],
    "dynamic": [40],  # as long as the data says
}


def number(name: str) -> int:
    return int(tensor_pb2.DataType.Value(f"DATA_TYPE_{name}"))


def model(nodes: Sequence[NodeProto], inputs: Sequence[tuple[str, int]], dtype: int) -> bytes:
    """A graph whose inputs and output, y, may have any shape."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs],
        [helper.make_tensor_value_info("y", dtype, None)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(made.SerializeToString())


def same(dtype: int) -> bytes:
    """y is x."""
    return model([helper.make_node("Identity", ["x"], ["y"])], [("x", dtype)], dtype)


def pick(dtype: int) -> bytes:
    """y is what the mask picks of x."""
    nodes = [
        helper.make_node("NonZero", ["mask"], ["places"]),
        helper.make_node("Squeeze", ["places"], ["indices"]),
        helper.make_node("Gather", ["x", "indices"], ["y"]),
    ]
    return model(nodes, [("x", dtype), ("mask", TensorProto.BOOL)], dtype)


def elements(name: str, count: int) -> list[bytes]:
    """That many elements on the wire, the dangerous ones first, then others that differ."""
    if name == "STRING":
        return [STRINGS[i % len(STRINGS)] + (b"%d" % i if i >= len(STRINGS) else b"") for i in range(count)]
    size = SIZES[name]
    top = 1 << (8 * size)
    first = BITS.get(name, [0, top - 1, top // 2, top // 2 - 1, 1])  # integers: both ends, signed or not
    rest = np.random.default_rng(number(name)).integers(0, 2 if name == "BOOL" else 256, (count, size), np.uint8)
    others = (row.tobytes() for row in rest)
    return list(itertools.islice(itertools.chain((bits.to_bytes(size, "little") for bits in first), others), count))


def tensor(name: str, shape: Sequence[int], items: Sequence[bytes]) -> Tensor:
    dtype = tensor_pb2.DataType.Name(number(name))
    if name == "STRING":
        return Tensor(dtype=dtype, shape=shape, strings=items)
    return Tensor(dtype=dtype, shape=shape, data=b"".join(items))


def asked(name: str, surface: str) -> tuple[Request, Tensor]:
    """A request, and the one output that answers it."""
    shape = SURFACES[surface]
    count = math.prod(shape)
    items = elements(name, count)
    x = tensor(name, shape, items)
    if surface != "dynamic":
        return Request(model_id=f"same-{name.lower()}", request_id=f"{name} {surface}", inputs={"x": x}), x
    picked = [i % 3 != 1 for i in range(count)]
    mask = tensor("BOOL", shape, [bytes([bit]) for bit in picked])
    kept = [item for item, bit in zip(items, picked, strict=True) if bit]
    request = Request(model_id=f"pick-{name.lower()}", inputs={"x": x, "mask": mask}, output_names=["y"])
    return request, tensor(name, [len(kept)], kept)


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, both: Callable[..., dict[str, grpc.Channel]]
) -> dict[str, grpc.Channel]:
    models = tmp_path_factory.mktemp("models")
    for name in SIZES:
        dtype = number(name)
        for kind, made in (("same", same(dtype)), ("pick", pick(dtype))):
            folder = models / f"{kind}-{name.lower()}" / "1"
            folder.mkdir(parents=True)
            (folder / "model.onnx").write_bytes(made)
    return both(models)


def verdict(stub: model_inference_pb2_grpc.ModelInferenceStub, request: Request, expected: Tensor) -> str:
    """What is wrong with the answers to a request, alone and in a batch."""
    try:
        alone = stub.Predict(request, timeout=20)
        together = stub.BatchPredict(model_inference_pb2.BatchPredictionRequest(requests=[request] * 2), timeout=20)
    except grpc.RpcError as error:
        return str(error.details())
    answers = [alone, *(result.response for result in together.results)]
    if len(answers) != 3 or any(set(answer.outputs) != {"y"} for answer in answers):
        return f"other outputs: {answers}"
    for answer in answers:
        if answer.outputs["y"] != expected:
            return f"other bits: {answer.outputs['y']}"
        if answer.model_version != "1" or request.request_id not in ("", answer.request_id):
            return f"other names: {answer}"
        rows = request.inputs["x"].shape[0] if request.inputs["x"].shape else 1
        if answer.timing.batch_rows != max(rows, 1):
            return f"{answer.timing.batch_rows} rows"
    return "ok"


def test_every_dtype_in_every_shape_by_both_servers(servers: dict[str, grpc.Channel]) -> None:
    numbers = set(tensor_pb2.DataType.values()) - {tensor_pb2.DATA_TYPE_UNSPECIFIED}
    assert {number(name) for name in SIZES} == numbers
    stubs = {name: model_inference_pb2_grpc.ModelInferenceStub(channel) for name, channel in servers.items()}
    wrong: dict[tuple[str, str, str], str] = {}
    lines = [f"{'dtype':10}" + "".join(f"{surface:>14}" for surface in SURFACES) + f"   ({', '.join(stubs)})"]
    for name in SIZES:
        line = f"{name:10}"
        for surface in SURFACES:
            request, expected = asked(name, surface)
            verdicts = {server: verdict(stub, request, expected) for server, stub in stubs.items()}
            line += f"{' '.join('ok' if v == 'ok' else 'FAIL' for v in verdicts.values()):>14}"
            wrong.update({(server, name, surface): v for server, v in verdicts.items() if v != "ok"})
        lines.append(line)
    print("\n" + "\n".join(lines))
    assert wrong == {}
