# SPDX-License-Identifier: Apache-2.0
"""How long the axes may be that a graph leaves open: the same as go/internal/feature/limit_test.go."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from concord_proto.inference.v1 import model_pb2, tensor_pb2
from concord_proto.modelpackage.v1 import manifest_pb2
from concord_server.fault import Fault, Reason, Violation
from concord_server.feature import BindError, from_graph, from_manifest, limit
from concord_server.tensor import DType, Spec, from_wire

X = Spec("x", DType.FLOAT, (-1, -1, 2))
ANY = Spec("any", DType.FLOAT, (), unranked=True)
OUT = [Spec("y", DType.FLOAT, (-1, 2))]


def at_most(name: str, axis: int, length: int) -> manifest_pb2.AxisLimit:
    return manifest_pb2.AxisLimit(input=name, axis=axis, max_length=length)


def manifest(*shape: int, max_length: int = 0) -> manifest_pb2.Manifest:
    made = manifest_pb2.Manifest()
    feature = model_pb2.Feature(
        name="x", type=model_pb2.FEATURE_TYPE_FLOAT, shape=shape, required=True, max_length=max_length
    )
    made.features.add(feature=feature, input="x")
    made.predictions.add(prediction=model_pb2.Prediction(name="p"), output="y")
    return made


@pytest.mark.parametrize("bare", [False, True])
def test_a_longer_array_is_refused(kit: SimpleNamespace, bare: bool) -> None:
    inputs = limit([at_most("x", 1, 3)], [X])
    given = manifest(-1, 2)
    plan = from_graph(inputs, OUT) if bare else from_manifest(given, inputs, OUT)
    assert plan.public_features[0].max_length == 3
    assert given.features[0].feature.max_length == 0  # the manifest stays as it is
    [fits] = plan.decode(kit.request(x=[1.0] * 6).features)
    assert fits.array.shape == (1, 3, 2)
    with pytest.raises(Fault) as caught:
        plan.decode(kit.request(x=[1.0] * 8).features)
    assert caught.value.reason is Reason.FEATURE_SHAPE_MISMATCH
    assert caught.value.message == 'feature "x": expected at most 6 values, got 8'


def test_a_longer_tensor_is_refused() -> None:
    [spec] = limit([at_most("x", 1, 3)], [X])

    def sent(*shape: int) -> tensor_pb2.Tensor:
        count = shape[0] * shape[1] * shape[2]
        return tensor_pb2.Tensor(dtype=1, shape=shape, data=bytes(4 * count))  # type: ignore[arg-type]

    assert not isinstance(from_wire(sent(7, 3, 2), spec), Violation)
    refused = from_wire(sent(1, 4, 2), spec)
    assert isinstance(refused, Violation)
    assert refused.reason is Reason.TENSOR_SHAPE_MISMATCH
    assert refused.message == "expected shape [?, <=3, 2], got [1, 4, 2]"


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ([at_most("y", 0, 1)], 'the graph has no input "y"'),
        ([at_most("x", 2, 1)], 'input "x": expected an open axis, got axis 2 of float [-1, -1, 2]'),
        ([at_most("x", 3, 1)], 'input "x": expected an open axis, got axis 3 of float [-1, -1, 2]'),
        ([at_most("x", -1, 1)], 'input "x": expected an open axis, got axis -1 of float [-1, -1, 2]'),
        ([at_most("any", 0, 1)], 'input "any": expected an open axis, got axis 0 of float of unknown rank'),
        ([at_most("x", 1, 0)], 'input "x": expected a max_length from 1 to 2147483648, got 0'),
        ([at_most("x", 1, 2**31 + 1)], 'input "x": expected a max_length from 1 to 2147483648, got 2147483649'),
        ([at_most("x", 1, 5), at_most("x", 1, 5)], 'input "x": axis 1 is limited twice'),
    ],
)
def test_limits_that_do_not_fit(limits: list[manifest_pb2.AxisLimit], message: str) -> None:
    with pytest.raises(BindError) as caught:
        limit(limits, [X, ANY])
    assert str(caught.value) == f"axis_limits: {message}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (manifest(4, 2), 'input "x": expected at most 3 on axis 1, got [1, 4, 2]'),
        (manifest(-1, 2, max_length=3), 'feature "x": max_length: expected 0, since axis_limits tells it'),
    ],
)
def test_manifests_against_their_own_limits(given: manifest_pb2.Manifest, message: str) -> None:
    with pytest.raises(BindError) as caught:
        from_manifest(given, limit([at_most("x", 1, 3)], [X]), OUT)
    assert str(caught.value) == message
