# SPDX-License-Identifier: Apache-2.0
"""Small runs on the event loop: the very answers of all others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_server import ort
from concord_server.model import Call, SessionError
from concord_server.tensor import DType, Tensor
from onnx import TensorProto, helper

NUMBERS = [dtype for dtype in DType if dtype is not DType.STRING]


def inline() -> Call:
    call = Call()
    call.terminable = False
    return call


def used(session: ort.OrtSession) -> list[bool]:
    return [lane is not None for lane in session._lanes._lanes.values()]


@pytest.mark.parametrize("dtype", NUMBERS, ids=lambda dtype: dtype.name)
def test_answers_are_those_of_any_run(kit: SimpleNamespace, dtype: DType) -> None:
    session = ort.Runtime().load(kit.identity(int(dtype), [None, 3]), {})
    kept = []
    for seed in range(3):
        raw = np.random.default_rng(seed).integers(0, 256, 3 * dtype.storage.itemsize, np.uint8)
        array = ((raw & 1) if dtype is DType.BOOL else raw).view(dtype.storage).reshape(1, 3)
        array.flags.writeable = False
        (got,) = session.run([Tensor(dtype, array)], [0], inline())
        assert got.dtype is dtype
        kept.append((got.array, array))
    # Answers are their callers' own: later runs leave them alone.
    assert all((got.shape, got.tobytes()) == ((1, 3), array.tobytes()) for got, array in kept)
    assert used(session) == [True]


def test_a_label_beside_numbers(kit: SimpleNamespace) -> None:
    words = helper.make_tensor("words", TensorProto.STRING, [3], [b"", b"a\0\xff", b"long" * 1000])
    graph = kit.graph(
        [
            helper.make_node("Constant", [], ["w"], value=words),
            helper.make_node("Gather", ["w", "i"], ["label"]),
            helper.make_node("Identity", ["i"], ["y"]),
        ],
        [("i", 7, [None])],
        [("label", 8, [None]), ("y", 7, [None])],
    )
    session = ort.Runtime().load(graph, {})

    def ask(i: int, call: Call) -> Any:
        label, y = session.run([Tensor(DType.INT64, np.array([i]))], [0, 1], call)
        return label.array.tolist(), y.array.tolist()

    for i in (0, 1, 0):
        assert ask(i, inline()) == ask(i, Call()) == ([(b"", b"a\0\xff")[i]], [i])
    assert used(session) == [True]
    with pytest.raises(SessionError, match="idx=7"):
        ask(7, inline())
    assert ask(1, inline()) == ([b"a\0\xff"], [1])
    assert used(session) == [True], "what fails for everybody says nothing against the lane"
    assert ask(2, inline()) == ([b"long" * 1000], [2])
    assert used(session) == [False]
    assert ask(0, inline()) == ([b""], [0])


def test_a_graph_that_breaks_its_word(kit: SimpleNamespace) -> None:
    """It says one row out for each one in, and gives two."""
    graph = kit.graph(
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)], [("x", 1, [None, 2])], [("y", 1, [None, 2])]
    )
    session = ort.Runtime().load(graph, {})
    for _ in range(2):
        (got,) = session.run([Tensor(DType.FLOAT, np.ones((1, 2), np.float32))], [0], inline())
        assert got.array.shape == (2, 2)
    assert used(session) == [False]


def test_what_has_no_lane(kit: SimpleNamespace) -> None:
    """Several rows, open lengths, scalars, large rows, strings in: the general way, and no memory kept for them."""
    row = ort.Runtime().load(kit.identity(1, [None, None]), {})
    for shape in ((2, 3), (1, 0), (1, 1 << 15), *((1, width) for width in range(1, 20))):
        array = np.ones(shape, np.float32)
        (got,) = row.run([Tensor(DType.FLOAT, array)], [0], inline())
        assert got.array.shape == shape
    assert not any(used(row))
    assert len(used(row)) <= 8
    scalar = ort.Runtime().load(kit.identity(1, []), {})
    assert scalar.run([Tensor(DType.FLOAT, np.float32(3).reshape(()))], [0], inline())[0].array == 3
    text = ort.Runtime().load(kit.identity(8, [None]), {})
    array = np.empty(1, object)
    array[0] = b"x"
    assert text.run([Tensor(DType.STRING, array)], [0], inline())[0].array.tolist() == [b"x"]
    assert not used(text)
