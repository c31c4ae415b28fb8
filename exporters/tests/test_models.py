# SPDX-License-Identifier: Apache-2.0
"""The models of `make models`; those that are downloaded, as far as that goes without the download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from concord_export import verify_package
from concord_export.errors import SourceError
from concord_export.from_sklearn import export_source
from concord_export.models import bert, breast_cancer, diabetes, digits, magika, mixed, wine
from concord_export.runtime import Session
from concord_proto.inference.v1 import model_pb2


@pytest.mark.parametrize(
    ("module", "features", "predictions", "measures"),
    [
        (breast_cancer, 30, 2, ["accuracy", "roc_auc", "log_loss"]),
        (mixed, 4, 1, ["r2", "mean_absolute_error"]),
        (wine, 13, 3, ["accuracy", "log_loss"]),
        (diabetes, 10, 1, ["r2", "mean_absolute_error"]),
        (digits, 1, 10, ["accuracy", "log_loss"]),
    ],
)
def test_what_each_says_of_itself(
    tmp_path: Path, module: Any, features: int, predictions: int, measures: list[str]
) -> None:
    source = module.source()
    report = export_source(source, tmp_path / "m" / "1")
    manifest = report.manifest
    assert len(manifest.features) == features
    assert len(manifest.predictions) == predictions
    assert [metric.name for metric in manifest.quality] == measures
    assert all(0 < metric.rows < report.real_rows for metric in manifest.quality)
    assert manifest.quality[0].value > (0.9 if "accuracy" in measures else 0.2)
    assert manifest.description
    assert all(item.feature.description for item in manifest.features)
    assert report.parity.max_ulp_error == 0
    assert report.precision == "double"
    assert manifest.batching.batchable
    verify_package(report.directory)


def test_digits_are_one_array(tmp_path: Path) -> None:
    feature = export_source(digits.source(), tmp_path / "m" / "1").manifest.features[0].feature
    assert (feature.name, list(feature.shape), feature.type) == ("pixels", [64], model_pb2.FEATURE_TYPE_FLOAT)


def tiny_bert() -> tuple[bert.Bert, dict[str, npt.NDArray[np.float32]]]:
    rng = np.random.default_rng(0)
    made = bert.Bert(hidden=8, heads=2, layers=2, epsilon=1e-12, positions=16)

    def some(*shape: int) -> npt.NDArray[np.float32]:
        return rng.standard_normal(shape).astype(np.float32) * np.float32(0.5)

    weights = {
        "embeddings.word_embeddings.weight": some(20, 8),
        "embeddings.position_embeddings.weight": some(6, 8),
        "embeddings.token_type_embeddings.weight": some(2, 8),
        "embeddings.LayerNorm.weight": some(8),
        "embeddings.LayerNorm.bias": some(8),
    }
    for layer in range(2):
        sizes = {f"attention.self.{part}": (8, 8) for part in ("query", "key", "value")}
        sizes |= {"attention.output.dense": (8, 8), "intermediate.dense": (16, 8), "output.dense": (8, 16)}
        for name, shape in sizes.items():
            weights[f"encoder.layer.{layer}.{name}.weight"] = some(*shape)
            weights[f"encoder.layer.{layer}.{name}.bias"] = some(shape[0])
        for name in ("attention.output", "output"):
            weights[f"encoder.layer.{layer}.{name}.LayerNorm.weight"] = some(8)
            weights[f"encoder.layer.{layer}.{name}.LayerNorm.bias"] = some(8)
    return made, weights


def test_the_embedder_computes_what_numpy_does() -> None:
    made, weights = tiny_bert()
    session = Session(bert.graph(made, weights).SerializeToString())
    rng = np.random.default_rng(1)
    for length in (1, 2, 6):
        ids = rng.integers(0, 20, (3, length))
        got = session.run({bert.INPUT_IDS: ids})[bert.EMBEDDING]
        expected = np.stack([bert.embed(made, weights, row) for row in ids])
        assert np.abs(got - expected).max() < 1e-6
        assert np.linalg.norm(expected, axis=1) == pytest.approx(1.0)
    with pytest.raises(Exception, match="fails on a row"):
        session.run({bert.INPUT_IDS: np.zeros((1, 7), np.int64)})


def test_configs_that_are_computed_otherwise() -> None:
    config = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 16,
    }
    assert bert.Bert.of_config(config) == bert.Bert(8, 2, 2, 1e-12, 16)
    with pytest.raises(SourceError, match="hidden_act: expected 'gelu', got 'relu'"):
        bert.Bert.of_config({**config, "hidden_act": "relu"})


def test_safetensors(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    header = json.dumps(
        {"__metadata__": {"a": "b"}, "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    ).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    assert bert.read_safetensors(path)["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    for wrong in (b"", b"\xff" * 20, len(header).to_bytes(8, "little") + header, (2).to_bytes(8, "little") + b"[]"):
        path.write_bytes(wrong)
        with pytest.raises(SourceError, match="is no safetensors file"):
            bert.read_safetensors(path)


@pytest.mark.parametrize(
    ("content", "beginning", "end"),
    [
        (b"", [256] * 1024, [256] * 1024),
        (b"  ab \n", [97, 98, 32, 10, *[256] * 1020], [*[256] * 1020, 32, 32, 97, 98]),
        (bytes(range(256)) * 40, [*range(256)] * 4, [*range(256)] * 4),
        (b" " * 5000 + b"x", [256] * 1024, [*[32] * 1023, 120]),
    ],
)
def test_what_magika_sees(content: bytes, beginning: list[int], end: list[int]) -> None:
    assert magika.beginning_and_end(content) == [*beginning, *end]
