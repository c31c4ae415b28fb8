# SPDX-License-Identifier: Apache-2.0
"""Magika: the first and last bytes of a file to what kind of file it is. Google's production model, as it is.

    python -m concord_export.models.magika SOURCES REPOSITORY/MODEL_ID/VERSION

SOURCES is a directory into which the package magika, which carries the graph, is installed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import sklearn
from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import manifest_pb2

from concord_export.runtime import Session
from concord_export.source import Metric
from concord_export.wrapping import Wrapping, wrap_onnx

__all__ = ["beginning_and_end", "export"]

_INPUT, _OUTPUT = "bytes", "target_label"
_SIZE, _BLOCK, _PADDING = 1024, 4096, 256
# Kinds of files in scikit-learn's distribution, whose names tell them.
_KINDS = {".py": "python", ".csv": "csv", ".rst": "rst", ".jpg": "jpeg", ".css": "css", ".so": "elf", ".gz": "gzip"}
_OF_EACH = 40


def beginning_and_end(content: bytes) -> list[int]:
    """What the model sees of a file: its first and its last 1024 bytes without white space around, 256 for no byte."""
    first = content[:_BLOCK].lstrip()[:_SIZE]
    last = content[-_BLOCK:].rstrip()[-_SIZE:]
    nothing = [_PADDING]
    return [*first, *nothing * (_SIZE - len(first)), *nothing * (_SIZE - len(last)), *last]


def export(sources: Path, directory: Path) -> manifest_pb2.Manifest:
    """Writes the package. Raises ExportError, OSError."""
    folder = sources / "magika" / "models" / "standard_v3_3"
    config = json.loads((folder / "config.min.json").read_text())
    labels: list[str] = config["target_labels_space"]
    model = (folder / "model.onnx").read_bytes()
    manifest = manifest_pb2.Manifest(
        kind=model_pb2.MODEL_KIND_TABULAR,
        description=(
            f"Which of {len(labels)} kinds of content a file has, from its beginning and end. "
            "Google's Magika, model standard_v3_3 (Apache-2.0), as it is published."
        ),
    )
    feature = model_pb2.Feature(
        name=_INPUT,
        type=model_pb2.FEATURE_TYPE_INT64,
        shape=[2 * _SIZE],
        required=True,
        description=(
            f"The first {_SIZE} bytes after leading white space, filled up with {_PADDING} at the end, then the last "
            f"{_SIZE} bytes before trailing white space, filled up with {_PADDING} at the front. White space is cut "
            f"off from the first and the last {_BLOCK} bytes."
        ),
    )
    manifest.features.add(feature=feature, input=_INPUT)
    for index, label in enumerate(labels):
        prediction = model_pb2.Prediction(name=label, description=f"Probability of {label}.")
        manifest.predictions.add(prediction=prediction, output=_OUTPUT, index=index)
    files = _files()
    metric = _quality(Session(model), labels, files)
    manifest.quality.add(name=metric.name, value=metric.value, rows=metric.rows)
    one_of_each = [next(path for path, known in files if known == kind) for kind in sorted({kind for _, kind in files})]
    wrapping = Wrapping(manifest=manifest, inputs=[{_INPUT: _row(path)} for path in one_of_each])
    return wrap_onnx(model, directory, wrapping, replace_existing=True).manifest


def _row(path: Path) -> npt.NDArray[np.int32]:
    return np.array([beginning_and_end(path.read_bytes())], np.int32)


def _files() -> list[tuple[Path, str]]:
    """Files of scikit-learn's distribution and what they are, at most so many of each kind."""
    root = Path(sklearn.__file__).parent
    chosen: list[tuple[Path, str]] = []
    for suffix, kind in _KINDS.items():
        paths = [path for path in sorted(root.rglob(f"*{suffix}")) if path.stat().st_size > 4 * _SIZE]
        chosen += [(path, kind) for path in paths[:: max(1, len(paths) // _OF_EACH)][:_OF_EACH]]
    return chosen


def _quality(session: Session, labels: Sequence[str], files: Sequence[tuple[Path, str]]) -> Metric:
    """How many files of a library are what their names say; what Magika was trained on is not known."""
    right = 0
    for path, kind in files:
        scores = session.run({_INPUT: _row(path)})[_OUTPUT][0]
        right += labels[int(scores.argmax())] == kind
    return Metric("accuracy", right / len(files), len(files))


@click.command()
@click.argument("sources", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("directory", type=click.Path(path_type=Path))
def _main(sources: Path, directory: Path) -> None:
    manifest = export(sources, directory)
    click.echo(f"{directory}")
    metric = manifest.quality[0]
    click.echo(f"  {len(manifest.predictions)} kinds of files; {metric.name} {metric.value:.4g} of {metric.rows}")


if __name__ == "__main__":
    _main()
