# SPDX-License-Identifier: Apache-2.0
"""A folder as onnxruntime-genai's own model builder leaves one, without manifest and golden cases, to test servers on.

    python -m concord_export.llama.builder_folder SOURCE FOLDER [--position-ids]

The builder needs torch, so this follows its layout (0.18): logits after each token; each weight, however small, in
model.onnx.data. On a CPU its attention rotates queries and keys itself; --position-ids is what it writes where the
attention cannot: positions are an input then, and queries, keys and values come from products of their own.
"""

from __future__ import annotations

from pathlib import Path

import click

from concord_export.llama.architecture import check_weights
from concord_export.llama.genai_config import GENAI_CONFIG_FILE, genai_config
from concord_export.llama.graph import Layout, write_graph
from concord_export.llama.package import read_model
from concord_export.llama.quantisation import Precision
from concord_export.llama.storage import DATA_FILE, Constants
from concord_export.package import MODEL_FILE

__all__ = ["write_builder_folder"]

# What is smaller are shapes and indices, which the builder writes as nodes.
_LEAST_BYTES = 64


def write_builder_folder(
    source: Path, folder: Path, *, position_ids: bool = False, precision: Precision = "fp32"
) -> None:
    """Writes the folder, which may be there and is else made. Raises ExportError, OSError."""
    model = read_model(source)
    check_weights(model.llama, model.weights)
    layout = Layout(last_logits_only=False, position_ids=position_ids)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / DATA_FILE).open("wb") as stream:
        graph = write_graph(model.llama, model.weights, precision, Constants(stream, least_bytes=_LEAST_BYTES), layout)
    graph.producer_name = "onnxruntime-genai"
    (folder / MODEL_FILE).write_bytes(graph.SerializeToString(deterministic=True))
    (folder / GENAI_CONFIG_FILE).write_bytes(genai_config(model.llama, layout))
    for name, data in model.tokenizer.items():
        (folder / name).write_bytes(data)


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--position-ids", is_flag=True)
def _main(source: Path, folder: Path, position_ids: bool) -> None:
    write_builder_folder(source, folder, position_ids=position_ids)


if __name__ == "__main__":
    _main()
