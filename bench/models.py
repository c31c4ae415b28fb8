# SPDX-License-Identifier: Apache-2.0
"""Makes what every server of a benchmark serves: model packages, the same graphs as bare files, requests and answers.

    python -m bench.models build/bench

writes packages/<model>/<model>/1, a repository for each, for the servers of Concord, and for each model
files/<model>.onnx, files/<model>.json, which says what goes in and comes out, and files/<model>.request.<format>, the
one request of the benchmark. Same bytes each time, but for the time of the export in the manifests.

m1     30 measures, gradient-boosted trees: the breast-cancer model as it is served, 30 named features
m1x    the same trees, the 30 measures as one array: the fast layout
m2     30 features through a perceptron of 58 MB: memory-bound, gains by batches
cnn    30 features through five convolutions: compute-bound
array  the mean of one array of 262,144 floats: a message of one megabyte
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from concord_export import Feature, export_sklearn
from concord_export.models import breast_cancer
from concord_export.wrapping import Wrapping, wrap_onnx
from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import manifest_pb2
from onnx import TensorProto, helper, numpy_helper

from bench.messages import FORMATS

MODELS = ("m1", "m1x", "m2", "cnn", "array")
COLUMNS = [f"feature_{i:02d}" for i in range(30)]
CLASSES = ["no", "yes"]
ELEMENTS = 262_144


class Graph(NamedTuple):
    """The nodes and weights of a graph under construction."""

    nodes: list[onnx.NodeProto]
    weights: list[onnx.TensorProto]
    random: np.random.Generator

    def weight(self, name: str, *shape: int, scale: float) -> str:
        """Adds random weights that spread with `scale`."""
        values = (self.random.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Adds a node and gives its output's name."""
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def model(self, width: int, output: str, shape: list[Any]) -> bytes:
        """The whole graph: `x` [rows, width] to one output."""
        graph = helper.make_graph(
            self.nodes,
            "bench",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", width])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return made.SerializeToString(deterministic=True)


def perceptron() -> bytes:
    """Four hidden layers, 14.5 million weights."""
    graph = Graph([], [], np.random.default_rng(0))
    widths = [30, 1536, 2560, 2560, 1536, 2]
    x = "x"
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        bias = graph.weight(f"b{i}", b, scale=0.0)
        x = graph.node("Gemm", [x, graph.weight(f"w{i}", a, b, scale=a**-0.5), bias], f"g{i}")
        if b != 2:
            x = graph.node("Relu", [x], f"r{i}")
    return graph.model(30, graph.node("Softmax", [x], "probabilities", axis=1), ["rows", 2])


def convolutions() -> bytes:
    """30 numbers spread over an image of 3 x 32 x 32, five convolutions, mean over the image."""
    graph = Graph([], [], np.random.default_rng(1))
    graph.weights.append(numpy_helper.from_array(np.array([-1, 3, 32, 32], np.int64), "image"))
    x = graph.node("MatMul", ["x", graph.weight("spread", 30, 3 * 32 * 32, scale=1 / 6)], "spreaded")
    x = graph.node("Reshape", [x, "image"], "shaped")
    channels = 3
    for i, (out, stride) in enumerate([(32, 1), (64, 2), (64, 1), (128, 2), (128, 1)]):
        kernel = graph.weight(f"k{i}", out, channels, 3, 3, scale=(channels * 9) ** -0.5)
        x = graph.node("Conv", [x, kernel], f"c{i}", kernel_shape=[3, 3], pads=[1] * 4, strides=[stride] * 2)
        x, channels = graph.node("Relu", [x], f"r{i}"), out
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x], "pooled")], "flat")
    x = graph.node("MatMul", [x, graph.weight("last", channels, 2, scale=1.0)], "logits")
    return graph.model(30, graph.node("Softmax", [x], "probabilities", axis=1), ["rows", 2])


def mean() -> bytes:
    """The mean of a long row."""
    graph = Graph([], [], np.random.default_rng(2))
    return graph.model(ELEMENTS, graph.node("ReduceMean", ["x"], "mean", axes=[1], keepdims=0), ["rows"])


def rows_of(model: str) -> npt.NDArray[np.float32]:
    """The one row that every request of a benchmark carries, [1, width]."""
    if model in ("m1", "m1x"):
        return np.asarray(breast_cancer.source().rows[:1], np.float32)
    width = ELEMENTS if model == "array" else len(COLUMNS)
    return np.random.default_rng(3).standard_normal((1, width)).astype(np.float32)


def export_trees(directory: Path, features: list[Feature] | None) -> None:
    """The breast-cancer model, its measures as 30 features or as one array."""
    source = breast_cancer.source()
    if features:
        source = dataclasses.replace(source, features=features)
    export_sklearn(
        source.estimator,
        source.rows,
        directory,
        features=source.features,
        description=source.description,
        replace_existing=True,
    )


def export_network(make: Callable[[], bytes], directory: Path) -> None:
    """A network on 30 features; rows together may differ in the last bits from each alone, which the package allows."""
    wrapping = Wrapping(
        kind="tabular",
        columns={"x": COLUMNS},
        classes={"probabilities": CLASSES},
        together="within-limits",
        description="A network of a benchmark.",
    )
    wrap_onnx(make(), directory, wrapping, replace_existing=True)


def export_array(directory: Path) -> None:
    """The mean, with one feature that is an array."""
    feature = model_pb2.Feature(name="x", type=model_pb2.FEATURE_TYPE_FLOAT, shape=[ELEMENTS], required=True)
    manifest = manifest_pb2.Manifest(
        kind=model_pb2.MODEL_KIND_TABULAR,
        features=[manifest_pb2.FeatureBinding(feature=feature, input="x")],
        predictions=[
            manifest_pb2.PredictionBinding(prediction=model_pb2.Prediction(name="mean"), output="mean"),
        ],
    )
    wrapping = Wrapping(kind="tabular", manifest=manifest, together="within-limits", description="A long message.")
    wrap_onnx(mean(), directory, wrapping, replace_existing=True)


def describe(model: str, file: Path) -> dict[str, Any]:
    """What goes into the bare graph and what comes out, with one row and ONNX Runtime's own answer to it."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    row = rows_of(model)
    output = {"m1": "scores", "m1x": "scores", "array": "mean"}.get(model, "probabilities")
    entry = session.get_inputs()[0].name
    answer = np.ravel(session.run([output], {entry: row})[0])
    if model == "m1":
        names = [f.name for f in breast_cancer.source().features or []]
    else:
        names = {"m1x": ["measures"], "array": ["x"]}.get(model, COLUMNS)
    if model in ("m1", "m1x"):
        classes = ["benign", "malignant"]
    else:
        classes = ["mean"] if model == "array" else CLASSES
    return {
        "model": model,
        "input": entry,
        "width": row.shape[1],
        "output": output,
        "label": "label" if model in ("m1", "m1x") else "",
        "names": names,
        "classes": classes,
        "answer": [float(v) for v in answer],
    }


def main() -> None:
    """Makes everything anew."""
    parser = argparse.ArgumentParser(description="Makes the models of the benchmarks.")
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    packages, files = folder / "packages", folder / "files"
    for made in (packages, files):
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
    export_trees(packages / "m1" / "m1" / "1", None)
    export_trees(packages / "m1x" / "m1x" / "1", [Feature("measures", shape=(30,))])
    export_network(perceptron, packages / "m2" / "m2" / "1")
    export_network(convolutions, packages / "cnn" / "cnn" / "1")
    export_array(packages / "array" / "array" / "1")
    for model in MODELS:
        file = files / f"{model}.onnx"
        shutil.copy(packages / model / model / "1" / "model.onnx", file)
        described = describe(model, file)
        (files / f"{model}.json").write_text(json.dumps(described) + "\n")
        for name, write in FORMATS.items():
            (files / f"{model}.request.{name}").write_bytes(write(described, rows_of(model)))


if __name__ == "__main__":
    main()
