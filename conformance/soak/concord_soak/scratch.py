# SPDX-License-Identifier: Apache-2.0
"""A repository for one run: copies of fixtures and fitted models, and `stamp`, whose versions come and go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from concord_export.package import write_package
from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2
from onnx import ModelProto, TensorProto, helper

__all__ = ["STAMP", "STAMP_WIDTH", "Scratch"]

STAMP = "stamp"
# Long enough that an answer put together from two versions would be seen.
STAMP_WIDTH = 64


class Scratch:
    """The directory `root`/models is the repository; versions are made beside it and renamed in."""

    def __init__(self, root: Path) -> None:
        self.models = root / "models"
        self._beside = root / "beside"
        self.models.mkdir()
        self._beside.mkdir()
        self._made = 0

    def copy(self, source: Path, model_ids: Sequence[str]) -> list[str]:
        """Copies models from another repository; tells which of them are there."""
        there = [model_id for model_id in model_ids if (source / model_id).is_dir()]
        for model_id in there:
            shutil.copytree(source / model_id, self.models / model_id)
        return there

    def copy_as(self, source: Path, model_id: str) -> None:
        """Copies one model under another id."""
        shutil.copytree(source, self.models / model_id)

    def package(self, model_id: str, version: int) -> Path:
        """A package of a copied model."""
        return self.models / model_id / str(version)

    def make_stamp(self, version: int, *, broken: bool = False) -> Path:
        """Makes a version of `stamp` beside the repository: y = x + version, and a vector of its number.

        A broken one has a byte of its graph changed.
        """
        self._made += 1
        made = self._beside / str(self._made) / STAMP / str(version)
        write_package(
            made, model=_stamp_graph(version), manifest=_stamp_manifest(version), golden=_stamp_golden(version)
        )
        if broken:
            path = made / "model.onnx"
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(data)
        return made

    def bring_in(self, made: Path, model_id: str = STAMP) -> None:
        """Renames a version into the repository."""
        (self.models / model_id).mkdir(exist_ok=True)
        made.rename(self.models / model_id / made.name)

    def take_out(self, version: int, model_id: str = STAMP) -> None:
        """Renames a version out of the repository and deletes it."""
        self._made += 1
        gone = self._beside / f"gone-{self._made}"
        (self.models / model_id / str(version)).rename(gone)
        shutil.rmtree(gone)

    def label(self, labels: dict[str, int], model_id: str = STAMP) -> None:
        """Replaces the labels of a model."""
        self._made += 1
        written = self._beside / f"labels-{self._made}.json"
        written.write_text(json.dumps({name: str(version) for name, version in labels.items()}), encoding="utf-8")
        written.replace(self.models / model_id / "labels.json")


def _stamp_graph(version: int) -> ModelProto:
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "number"], ["y"]),
            helper.make_node("Shape", ["x"], ["shape"], end=1),
            helper.make_node("Concat", ["shape", "width"], ["wide"], axis=0),
            helper.make_node("Expand", ["number", "wide"], ["stamps"]),
        ],
        "stamp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1]),
            helper.make_tensor_value_info("stamps", TensorProto.FLOAT, ["N", STAMP_WIDTH]),
        ],
        [
            helper.make_tensor("number", TensorProto.FLOAT, [1, 1], [float(version)]),
            helper.make_tensor("width", TensorProto.INT64, [1], [STAMP_WIDTH]),
        ],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, producer_name="concord-soak"
    )


def _stamp_manifest(version: int) -> manifest_pb2.Manifest:
    return manifest_pb2.Manifest(
        kind=model_pb2.MODEL_KIND_TABULAR,
        description=f"x + {version}, and {version} many times.",
        features=[
            manifest_pb2.FeatureBinding(
                feature=model_pb2.Feature(name="x", type=model_pb2.FEATURE_TYPE_FLOAT, required=True), input="x"
            )
        ],
        predictions=[manifest_pb2.PredictionBinding(prediction=model_pb2.Prediction(name="y"), output="y")],
        outputs=[
            manifest_pb2.OutputBinding(
                output=model_pb2.Output(name="stamps", type=model_pb2.FEATURE_TYPE_FLOAT, shape=[STAMP_WIDTH]),
                onnx_output="stamps",
            )
        ],
        batching=manifest_pb2.Batching(batchable=True),
    )


def _stamp_golden(version: int) -> golden_pb2.GoldenSet:
    stamps = service.FeatureValue(float_array=service.FloatArray(values=[float(version)] * STAMP_WIDTH))
    return golden_pb2.GoldenSet(
        cases=[
            golden_pb2.GoldenCase(
                features=service.PredictRequest(features={"x": service.FeatureValue(float_value=2.0)}),
                predictions=service.PredictResponse(predictions={"y": 2.0 + version}, outputs={"stamps": stamps}),
            )
        ]
    )
