# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_server import ort
from concord_server.fault import Fault, Reason
from concord_server.model import Call, SessionError
from concord_server.ort.api import PLACES
from concord_server.ort.device import BOUND_CPU
from concord_server.tensor import DType, Spec, Tensor
from onnx import TensorProto, helper, numpy_helper

NUMBERS = [dtype for dtype in DType if dtype is not DType.STRING]


@pytest.fixture(scope="module", params=["cpu", "bound"])
def runtime(request: pytest.FixtureRequest) -> ort.Runtime:
    made = ort.Runtime()
    if request.param == "bound":
        made._device = BOUND_CPU  # the path of a GPU, on the CPU
    return made


def strings(*texts: bytes) -> np.ndarray[Any, Any]:
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (1, 2, 1, 2, 1, 2, 1, 2)])
@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda dtype: dtype.name)
def test_numbers_pass_bit_for_bit(runtime: ort.Runtime, kit: SimpleNamespace, dtype: DType, shape: Any) -> None:
    session = runtime.load(kit.identity(int(dtype), [None] * len(shape)), {})
    raw = np.random.default_rng(7).integers(0, 256, int(np.prod(shape)) * dtype.storage.itemsize, np.uint8)
    array = ((raw & 1) if dtype is DType.BOOL else raw).view(dtype.storage).reshape(shape)
    array.flags.writeable = False  # as what comes from the wire
    (got,) = session.run([Tensor(dtype, array)], [0], Call())
    assert got.dtype is dtype
    assert (got.array.shape, got.array.tobytes()) == (shape, array.tobytes())


@pytest.mark.parametrize("dtype", [DType.FLOAT, DType.FLOAT16, DType.BFLOAT16, DType.DOUBLE])
def test_a_signalling_nan_passes(runtime: ort.Runtime, kit: SimpleNamespace, dtype: DType) -> None:
    bits = {2: 0x7C01, 4: 0x7F800001, 8: 0x7FF0000000000001}[dtype.storage.itemsize]
    bits = 0x7F81 if dtype is DType.BFLOAT16 else bits
    array = np.array([bits], f"u{dtype.storage.itemsize}").view(dtype.storage)
    session = runtime.load(kit.identity(int(dtype), [None]), {})
    assert session.run([Tensor(dtype, array)], [0], Call())[0].array.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    "given",
    [
        (),
        (b"",),
        (b"a", "日本".encode(), b"\xff\xfe\x80", b"a" * 100_000),
        (b"", b"\0", b"a\0b\0", b"\0\xff", b"plain", b"", b"\xed\xa0\x80"),
    ],
)
def test_strings_of_any_bytes_pass(runtime: ort.Runtime, kit: SimpleNamespace, given: tuple[bytes, ...]) -> None:
    session = runtime.load(kit.identity(TensorProto.STRING, None), {})
    for shape in ((len(given),), (1, len(given), 1)):
        array = strings(*given).reshape(shape)
        (got,) = session.run([Tensor(DType.STRING, array)], [0], Call())
        assert (got.array.shape, got.array.reshape(-1).tolist()) == (shape, list(given))


def test_a_string_scalar_passes(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    session = runtime.load(kit.identity(TensorProto.STRING, []), {})
    (got,) = session.run([Tensor(DType.STRING, strings(b"a\0\xff").reshape(()))], [0], Call())
    assert (got.array.shape, got.array.item()) == ((), b"a\0\xff")


def test_an_output_outlives_the_run_and_the_session(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    session = runtime.load(kit.identity(TensorProto.FLOAT, [None]), {})
    given = np.arange(1 << 16, dtype=np.float32)
    kept = [session.run([Tensor(DType.FLOAT, given + i)], [0], Call())[0].array[i:] for i in range(20)]
    del session
    gc.collect()
    assert all((array == given[i:] + i).all() for i, array in enumerate(kept))


def test_memory_comes_back(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    """Of answers, of failed runs and of sessions."""
    lookup = kit.graph(
        [helper.make_node("Gather", ["v", "i"], ["y"])],
        [("v", 1, [None]), ("i", 7, [None])],
        [("y", 1, [None])],
    )

    def work() -> None:
        session = runtime.load(lookup, {})
        values = Tensor(DType.FLOAT, np.zeros(1 << 20, np.float32))
        for index in (np.zeros(1 << 20, np.int64), np.full(1 << 20, 1 << 40)):
            with contextlib.suppress(SessionError):
                session.run([values, Tensor(DType.INT64, index)], [0], Call())

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    for _ in range(5):
        work()
    before = resident()
    for _ in range(50):
        work()
    assert resident() - before < 50 << 20  # a leak of one answer each would be 200 MB


def test_a_name_that_is_no_text_is_refused(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    made = kit.identity(TensorProto.FLOAT, [1]).replace(b"\x0a\x01x", b"\x0a\x01\xff")
    with pytest.raises(SessionError, match=r"^the name of an input is not UTF-8$"):
        runtime.load(made, {})


def copies(kit: SimpleNamespace, *names: tuple[str, int]) -> bytes:
    """A graph that gives each of its inputs back."""
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name, _ in names]
    made: bytes = kit.graph(nodes, [(n, t, [None]) for n, t in names], [(f"{n}_out", t, [None]) for n, t in names])
    return made


def test_bfloat16_beside_other_types(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    names = (("b", TensorProto.BFLOAT16), ("h", TensorProto.FLOAT16), ("t", TensorProto.BOOL), ("i", TensorProto.INT64))
    session = runtime.load(copies(kit, *names), {})
    given = [
        Tensor(DType.BFLOAT16, np.array([0x3F80], np.uint16)),
        Tensor(DType.FLOAT16, np.array([0x3C00], np.uint16)),
        Tensor(DType.BOOL, np.array([True])),
        Tensor(DType.INT64, np.array([-7])),
    ]
    got = session.run(given, [3, 2, 1, 0], Call())
    assert [t.array.tolist() for t in got] == [[-7], [True], [0x3C00], [0x3F80]]
    assert session.run(given, [2], Call())[0].array.tolist() == [True]


def test_bfloat16_beside_strings(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    session = runtime.load(copies(kit, ("b", TensorProto.BFLOAT16), ("s", TensorProto.STRING)), {})
    given = [Tensor(DType.BFLOAT16, np.array([0x7F81], np.uint16)), Tensor(DType.STRING, strings(b"\xff"))]
    got = session.run(given, [1, 0], Call())
    assert [t.array.tolist() for t in got] == [[b"\xff"], [0x7F81]]


def test_the_functions_are_where_the_go_server_finds_them() -> None:
    source = (Path(__file__).parents[3] / "go/internal/ort/api.c").read_text()
    go = {name: int(place) for place, name in re.findall(r"PLACE\((\d+), (\w+)\);", source)}
    ours = {name: place for name, (place, *_) in PLACES.items()}
    assert {name: ours[name] for name in ours.keys() & go.keys()} == {n: go[n] for n in ours.keys() & go.keys()}
    # What Go does otherwise; the places are from the same header.
    assert {name: ours[name] for name in ours.keys() - go.keys()} == {
        "FillStringTensor": 52,
        "GetTensorElementTypeAndShapeDataReference": 414,
    }


def test_specs_tell_open_axes_and_unknown_ranks(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    inputs = [("n", TensorProto.FLOAT, ["N", None, 3]), ("r", TensorProto.FLOAT, None), ("s", TensorProto.INT64, [])]
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name, *_ in inputs]
    made = kit.graph(nodes, inputs, [(f"{name}_out", dtype, shape) for name, dtype, shape in inputs])
    assert list(runtime.load(made, {}).inputs) == [
        Spec("n", DType.FLOAT, (-1, -1, 3)),
        Spec("r", DType.FLOAT, (), unranked=True),
        Spec("s", DType.INT64, ()),
    ]


def sequence(kit: SimpleNamespace) -> bytes:
    made = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    return bytes(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10).SerializeToString()
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "the graph is empty"),
        ("html", "protobuf parsing failed"),
        ("half", "protobuf parsing failed"),
        ("float8", 'input "x" is of type float8e4m3fn, which is not served'),
        ("sequence", 'output "y" is a sequence; only tensors are served'),
        ("operator", "Frobnicate"),
    ],
)
def test_graphs_that_are_refused(runtime: ort.Runtime, kit: SimpleNamespace, name: str, message: str) -> None:
    graphs = {
        "empty": b"",
        "html": b"<html>" * 100,
        "half": kit.identity()[:-20],
        "float8": kit.identity(TensorProto.FLOAT8E4M3FN),
        "sequence": sequence(kit),
        "operator": kit.graph([helper.make_node("Frobnicate", ["x"], ["y"])], [("x", 1, [1])], [("y", 1, [1])]),
    }
    with pytest.raises(SessionError) as caught:
        runtime.load(graphs[name], {})
    assert message in str(caught.value)
    assert "[ONNXRuntimeError]" not in str(caught.value)


WEIGHTS = np.arange(1000, dtype=np.float32)


def external(kit: SimpleNamespace, location: str, offset: int = 0) -> Any:
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1000], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", "4000")):
        weights.external_data.add(key=key, value=value)
    return kit.graph([helper.make_node("Add", ["x", "w"], ["y"])], [("x", 1, [1])], [("y", 1, [1000])], [weights])


def test_external_data_comes_from_memory(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    session = runtime.load(external(kit, "model.onnx.data"), {"model.onnx.data": WEIGHTS.tobytes()})
    (got,) = session.run([Tensor(DType.FLOAT, np.ones(1, np.float32))], [0], Call())
    assert (got.array == WEIGHTS + 1).all()


@pytest.mark.parametrize("files", [{}, {"other": b"1234"}, {"model.onnx.data": b"short"}])
@pytest.mark.parametrize("location", ["model.onnx.data", "./model.onnx.data", "../cwd/model.onnx.data", "ABSOLUTE"])
def test_external_data_never_comes_from_disk(
    runtime: ort.Runtime,
    kit: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    location: str,
    files: dict[str, bytes],
) -> None:
    folder = tmp_path / "cwd"
    folder.mkdir()
    (folder / "model.onnx.data").write_bytes(WEIGHTS.tobytes())
    monkeypatch.chdir(folder)
    if location == "ABSOLUTE":
        location = str(folder / "model.onnx.data")
    with pytest.raises(SessionError):
        runtime.load(external(kit, location), files)


def slow(kit: SimpleNamespace) -> bytes:
    """Adds 1 to x as often as n says."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["cond_in"], ["cond_out"]),
            helper.make_node("Add", ["acc_in", "one"], ["acc_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("acc_in", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("cond_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("acc_out", TensorProto.FLOAT, [1]),
        ],
    )
    true = numpy_helper.from_array(np.array(True), "true")
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    loop = helper.make_node("Loop", ["n", "true", "x"], ["y"], body=body)
    inputs = [("n", TensorProto.INT64, []), ("x", TensorProto.FLOAT, [1])]
    made: bytes = kit.graph([loop], inputs, [("y", TensorProto.FLOAT, [1])], [true, one])
    return made


def steps(count: int) -> list[Tensor]:
    return [Tensor(DType.INT64, np.array(count)), Tensor(DType.FLOAT, np.zeros(1, np.float32))]


def test_a_run_ends_with_its_call(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    session = runtime.load(slow(kit), {})
    assert session.run(steps(3), [0], Call())[0].array.tolist() == [3]
    call = Call()
    begun = threading.Event()
    ended: list[BaseException] = []

    def run() -> None:
        begun.set()
        try:
            session.run(steps(1 << 50), [0], call)
        except Fault as fault:
            ended.append(fault)

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(kit.LIMIT)
    call.cancel()
    thread.join(kit.LIMIT)
    assert not thread.is_alive()
    assert [fault.reason for fault in ended if isinstance(fault, Fault)] == [Reason.CANCELLED]
    assert session.run(steps(2), [0], Call())[0].array.tolist() == [2]


def test_a_failing_run_tells_why_and_harms_nothing(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    values = numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "values")
    gather = [helper.make_node("Gather", ["values", "i"], ["y"])]
    session = runtime.load(kit.graph(gather, [("i", 7, [None])], [("y", 1, [None])], [values]), {})
    with pytest.raises(SessionError, match=r"^Non-zero status code returned while running Gather node"):
        session.run([Tensor(DType.INT64, np.array([7]))], [0], Call())
    assert session.run([Tensor(DType.INT64, np.array([1]))], [0], Call())[0].array.tolist() == [2]


def test_many_threads_share_a_session(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    session = runtime.load(kit.identity(TensorProto.FLOAT, [None]), {})
    wrong: list[int] = []

    def work(nonce: int) -> None:
        for step in range(50):
            value = float(nonce * 1000 + step)
            (got,) = session.run([Tensor(DType.FLOAT, np.array([value], np.float32))], [0], Call())
            if got.array[0] != value:
                wrong.append(nonce)

    threads = [threading.Thread(target=work, args=(nonce,)) for nonce in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(kit.LIMIT)
    assert wrong == []


def test_the_library_must_be_the_packages_own(tmp_path: Path) -> None:
    own = ort.library()
    assert ort.check_library(own) is None
    copy = tmp_path / "copy.so"
    shutil.copyfile(own, copy)
    assert ort.check_library(copy) is None
    with copy.open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"\0\1\2\3")
    wrong = ort.check_library(copy)
    assert wrong is not None
    assert "got another file" in wrong
    assert ort.check_library(tmp_path / "none") == "cannot be read: No such file or directory"


def test_a_gpu_that_is_not_there() -> None:
    if os.environ.get("CONCORD_REQUIRE_GPU"):
        pytest.skip("this machine has a GPU")
    why = ort.check_device("cuda:0")
    assert why is not None
    assert why.startswith("expected a GPU at cuda:0, got none: ")
    assert ort.check_device("cpu") is None


def test_the_nodes_on_the_cpu_are_counted(runtime: ort.Runtime, kit: SimpleNamespace) -> None:
    session = runtime.load(kit.identity(int(DType.FLOAT), [None]), {})
    assert session.cpu_nodes == (1 if runtime._device == BOUND_CPU else 0)
