# SPDX-License-Identifier: Apache-2.0
"""The command concord-export. Exit codes: 0 done, 1 the export or the package fails, 2 wrong use."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console

from concord_export import __version__
from concord_export.errors import ExportError, SourceError
from concord_export.package import check_model_id, check_version, next_version, read_package
from concord_export.progress import terminal_progress

if TYPE_CHECKING:
    from concord_export.source import Source
    from concord_export.wrapping import Wrapped

__all__ = ["main"]

_Made = TypeVar("_Made")

_PICKLES = (".pkl", ".pickle", ".joblib", ".jbl", ".sav", ".dill", ".cloudpickle", ".pt", ".pth")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="concord-export")
def main() -> None:
    """Make verified, pickle-free model packages of fitted models, and check them."""


@main.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("target", metavar="REPOSITORY/MODEL_ID[/VERSION]", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Put the package in the place of a version that is there.")
@click.option(
    "--absolute-limit",
    type=click.FloatRange(min=0),
    help="Largest difference of a number. [default: 1e-5, or the source's]",
)
@click.option(
    "--relative-limit",
    type=click.FloatRange(min=0),
    help="What a number's size adds to that. [default: 1e-6, or the source's]",
)
@click.option(
    "--precision", type=click.Choice(["double", "float"]), help="Try this only. [default: double, then float]"
)
def sklearn(
    function: str,
    target: Path,
    replace: bool,
    absolute_limit: float | None,
    relative_limit: float | None,
    precision: Any,
) -> None:
    """Export a scikit-learn model.

    MODULE:FUNCTION is a Python function without parameters that returns a concord_export.Source: the fitted estimator,
    some rows and what clients should know. The module is found as `python -m` finds it, from the current directory too.

    Without a VERSION the package becomes the model's next version; a last part of digits is a version.
    """
    from concord_export.source import Source

    directory = _directory(target)
    source = _load_source(function, Source)
    if absolute_limit is not None:
        source = dataclasses.replace(source, absolute_limit=absolute_limit)
    if relative_limit is not None:
        source = dataclasses.replace(source, relative_limit=relative_limit)
    _export(source, directory, replace=replace, precision=precision)


def _export(source: Source, directory: Path, *, replace: bool, precision: Any = None) -> None:
    from concord_export.from_sklearn import export_source

    with _reported(), terminal_progress() as progress:
        report = export_source(
            source,
            directory,
            precision=precision,
            replace_existing=replace,
            progress=progress,
        )
    parity = report.parity
    click.echo(f"{report.directory}")
    labels = f", {parity.labels_compared} labels equal" if parity.labels_compared else ""
    click.echo(
        f"  features: {len(report.manifest.features)}, predictions: {len(report.manifest.predictions)}, "
        f"computed in {report.precision}s"
    )
    click.echo(
        f"  parity: {parity.rows} rows ({report.real_rows} given), largest difference {parity.max_absolute_error:.3g} "
        f"({parity.max_ulp_error} ULP){labels}"
    )
    if report.left_out:
        click.echo(f"  {report.left_out} rows left out: a text is missing in them, and clients cannot leave out a text")
    if not parity.batched_equals_single:
        click.echo("  rows together give other bits than each alone: servers will run requests one by one")


_MODEL_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _file_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of commands that take a model's file."""
    for option in (
        click.option("--replace", is_flag=True, help="Put the package in the place of a version that is there."),
        click.option("--relative-limit", type=click.FloatRange(min=0), default=1e-6, show_default=True),
        click.option("--absolute-limit", type=click.FloatRange(min=0), default=1e-5, show_default=True),
        click.option("--target-names", metavar="NAME,...", help="Names of a regression's numbers, or of labels."),
        click.option("--class-names", metavar="NAME,...", help="Names of the classes, in their order."),
        click.option("--description", default="", help="What the model is, for the catalog."),
        click.option(
            "--rows",
            type=_MODEL_FILE,
            metavar="FILE",
            help="Real rows to compare on: .csv with a header, or .npy. Else rows are made.",
        ),
        click.argument("target", metavar="REPOSITORY/MODEL_ID[/VERSION]", type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


def _export_file(read: Callable[[], Any], target: Path, rows: Path | None, replace: bool, **options: Any) -> None:
    from concord_export.made_rows import made_rows
    from concord_export.rows_file import read_rows
    from concord_export.source import Source

    directory = _directory(target)
    names = {
        field: None if options[field] is None else options[field].split(",")
        for field in ("class_names", "target_names")
    }
    with _reported():
        estimator = read()
        table = made_rows(estimator) if rows is None else read_rows(rows, estimator)
        source = Source(estimator=estimator, rows=table, **{**options, **names})
    _export(source, directory, replace=replace)
    if rows is None:
        click.echo("  the rows were made, for lack of real ones: --rows compares on yours")


@main.command()
@click.argument("model", metavar="MODEL.txt", type=_MODEL_FILE)
@_file_options
def lightgbm(model: Path, **options: Any) -> None:
    """Export a LightGBM model from the text file that Booster.save_model writes."""
    _need("lightgbm")
    from concord_export.from_lightgbm import read_lightgbm

    _export_file(lambda: read_lightgbm(model), **options)


@main.command()
@click.argument("model", metavar="MODEL.json", type=_MODEL_FILE)
@_file_options
def xgboost(model: Path, **options: Any) -> None:
    """Export an XGBoost model from the JSON file that save_model writes."""
    _need("xgboost")
    from concord_export.from_xgboost import read_xgboost

    _export_file(lambda: read_xgboost(model), **options)


@main.command()
@click.argument("model", metavar="MODEL.skops", type=_MODEL_FILE)
@_file_options
@click.option("--trust", multiple=True, metavar="TYPE", help="A type that the file may construct, by its full name.")
def skops(model: Path, trust: tuple[str, ...], **options: Any) -> None:
    """Export a scikit-learn model from a skops file.

    What skops does not trust by itself is constructed only if you name it: the error says which types there are.
    """
    _need("skops")
    from concord_export.from_skops import read_skops

    _export_file(lambda: read_skops(model, trust), **options)


def _need(library: str, extra: str | None = None) -> None:
    try:
        importlib.import_module(library)
    except ImportError as error:
        click.echo(f"error: {error}; it comes with pip install 'concord-export[{extra or library}]'", err=True)
        sys.exit(1)


@main.command()
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("target", metavar="REPOSITORY/MODEL_ID[/VERSION]", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Put the package in the place of a version that is there.")
def torch(function: str, target: Path, replace: bool) -> None:
    """Export a PyTorch module.

    MODULE:FUNCTION is a Python function without parameters that returns a concord_export.TorchSource: the module, some
    rows and what clients should know.
    """
    directory = _directory(target)
    _need("torch")
    from concord_export.from_torch import TorchSource, export_torch

    source = _load_source(function, TorchSource)
    with _reported(), terminal_progress() as progress:
        made = export_torch(source, directory, replace_existing=replace, progress=progress)
    _print_wrapped(made)


@main.command()
@click.argument("model", metavar="MODEL.onnx", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", metavar="REPOSITORY/MODEL_ID[/VERSION]", type=click.Path(path_type=Path))
@click.option(
    "--kind",
    type=click.Choice(["tensor", "tabular"]),
    default="tensor",
    show_default=True,
    help="Tensors in and out, or named features and predictions.",
)
@click.option("--description", default="", help="What the model is, for the catalog.")
@click.option("--columns", multiple=True, metavar="INPUT=NAME,...", help="Names of an input's columns; tabular.")
@click.option("--classes", multiple=True, metavar="OUTPUT=NAME,...", help="Names of an output's columns; tabular.")
@click.option(
    "--manifest",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="YAML or JSON with parts of the manifest, as proto/modelpackage/v1 describes them; they win.",
)
@click.option(
    "--inputs",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.npz",
    help="One input to try and to make a golden case of: an array for each input. Else inputs are made.",
)
@click.option(
    "--rows",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.npz",
    help="Rows on axis 0 of an array for each input and, for outputs, what the graph's source answered to them.",
)
@click.option("--length", multiple=True, metavar="AXIS=N", help="Length of an open axis, by its name or INPUT.NUMBER.")
@click.option(
    "--max-length",
    multiple=True,
    metavar="AXIS=N",
    help="Longest that an open axis may be; servers refuse more.",
)
@click.option("--range", "ranges", multiple=True, metavar="INPUT=LOW:HIGH", help="Least and greatest number made.")
@click.option(
    "--together",
    type=click.Choice(["exact", "within-limits", "never"]),
    default="exact",
    show_default=True,
    help="When requests may share a run: where rows together give the same bits as alone, or the same numbers.",
)
@click.option(
    "--allow-integer-division",
    is_flag=True,
    help="Integers may be divided by inputs, if your servers are set to admit it.",
)
@click.option("--absolute-limit", type=click.FloatRange(min=0), default=1e-5, show_default=True)
@click.option("--relative-limit", type=click.FloatRange(min=0), default=1e-6, show_default=True)
@click.option("--replace", is_flag=True, help="Put the package in the place of a version that is there.")
def wrap(
    model: Path,
    target: Path,
    kind: str,
    description: str,
    columns: tuple[str, ...],
    classes: tuple[str, ...],
    manifest: Path | None,
    inputs: tuple[Path, ...],
    rows: Path | None,
    length: tuple[str, ...],
    max_length: tuple[str, ...],
    ranges: tuple[str, ...],
    together: Any,
    allow_integer_division: bool,
    absolute_limit: float,
    relative_limit: float,
    replace: bool,
) -> None:
    """Make a package of an ONNX graph that you have.

    What goes in and comes out, and which axis counts rows, is read from the graph; the golden cases are what it answers
    here.
    """
    from concord_export.manifest_file import read_manifest_file
    from concord_export.wrapping import Wrapping, split_rows, wrap_onnx

    directory = _directory(target)
    with _reported():
        tried = [_read_arrays(path) for path in inputs]
        answers: dict[str, Any] = {}
        if rows is not None:
            if inputs:
                raise click.UsageError("--inputs and --rows exclude each other")
            tried, answers = split_rows(model, _read_arrays(rows))
        wrapping = Wrapping(
            kind=kind,
            description=description,
            columns={name: text.split(",") for name, text in _pairs(columns, "--columns")},
            classes={name: text.split(",") for name, text in _pairs(classes, "--classes")},
            manifest=None if manifest is None else read_manifest_file(manifest),
            inputs=tried,
            answers=answers,
            lengths={name: _whole(text, "--length") for name, text in _pairs(length, "--length")},
            max_lengths={name: _whole(text, "--max-length") for name, text in _pairs(max_length, "--max-length")},
            ranges={name: _span(text) for name, text in _pairs(ranges, "--range")},
            together=together,
            integer_division=allow_integer_division,
            absolute_limit=absolute_limit,
            relative_limit=relative_limit,
        )
        with terminal_progress() as progress:
            made = wrap_onnx(model, directory, wrapping, replace_existing=replace, progress=progress)
    _print_wrapped(made)


@main.command()
@click.argument("weights", metavar="WEIGHTS", type=click.Path(exists=True, path_type=Path))
@click.argument("target", metavar="REPOSITORY/MODEL_ID[/VERSION]", type=click.Path(path_type=Path))
@click.option(
    "--precision",
    type=click.Choice(["fp32", "int8", "int4"]),
    default="fp32",
    show_default=True,
    help="In what the weights are kept.",
)
@click.option(
    "--integers/--floats",
    default=None,
    help="Multiply in 8-bit integers: much faster with int8 and int4, and less exact. [default: for int4 only]",
)
@click.option(
    "--context",
    type=click.IntRange(min=2),
    help="Most tokens of a prompt and its answer together. [default: what the model was made for]",
)
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="A prompt to make a golden case of.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=24, show_default=True, help="Of a golden answer.")
@click.option("--description", default="", help="What the model is, for the catalog.")
@click.option("--replace", is_flag=True, help="Put the package in the place of a version that is there.")
def llama(
    weights: Path,
    target: Path,
    precision: Any,
    integers: bool | None,
    context: int | None,
    prompts: tuple[str, ...],
    max_tokens: int,
    description: str,
    replace: bool,
) -> None:
    """Export a language model of the Llama family.

    WEIGHTS is a GGUF file, or a folder with config.json, safetensors weights and the tokenizer's files. The golden
    cases are greedy answers that NumPy computes from the same weights.
    """
    directory = _directory(target)
    if weights.suffix.lower() == ".gguf":
        _need("gguf", "llama")
    from concord_export.llama.package import PROMPTS, export_llama

    with _reported(), terminal_progress() as progress:
        made = export_llama(
            weights,
            directory,
            precision=precision,
            integers=integers,
            context=context,
            prompts=prompts or PROMPTS,
            most_tokens=max_tokens,
            description=description,
            replace_existing=replace,
            progress=progress,
        )
    parity = made.manifest.parity
    click.echo(f"{made.directory}")
    click.echo(
        f"  parity: {parity.rows} tokens, largest difference of a logit {parity.max_absolute_error:.3g} from the "
        f"source's weights, {made.own_error:.3g} from those in the package"
    )
    for metric in made.manifest.quality:
        click.echo(f"  {metric.name}: {metric.value:.4g} of {metric.rows}")
    for text in made.texts:
        click.echo(f"  {text.text!r}")
    for note in made.notes:
        click.echo(f"  {note}")


def _print_wrapped(made: Wrapped) -> None:
    click.echo(f"{made.directory}")
    for what, infos in (("in", made.inputs), ("out", made.outputs)):
        for info in infos:
            click.echo(
                f"  {what:<3} {_visible(info.name)}: {info.type.removeprefix('tensor(').removesuffix(')')} {info.axes}"
            )
    if made.manifest.HasField("parity"):
        parity = made.manifest.parity
        click.echo(
            f"  parity: {parity.rows} rows, largest difference {parity.max_absolute_error:.3g} "
            f"({parity.max_ulp_error} ULP)"
        )
    for note in made.notes:
        click.echo(f"  {note}")


def _visible(name: str) -> str:
    """A name of the graph's, which may hold what a terminal would obey."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in name)


def _pairs(given: tuple[str, ...], option: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in given]
    for text, (name, equals, value) in zip(given, pairs, strict=True):
        if not name or not equals or not value:
            raise click.BadParameter(f"expected NAME=VALUE, got {text}", param_hint=option)
    return [(name, value) for name, _, value in pairs]


def _whole(text: str, option: str) -> int:
    if not text.isdigit():
        raise click.BadParameter(f"expected a length, got {text}", param_hint=option)
    return int(text)


def _span(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise click.BadParameter(f"expected LOW:HIGH, got {text}", param_hint="--range") from None


def _read_arrays(path: Path) -> dict[str, Any]:
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            # Strings come as NumPy's own; ONNX Runtime takes objects.
            return {name: array.astype(object) if array.dtype.kind == "U" else array for name, array in arrays.items()}
    except (ValueError, OSError) as error:
        raise SourceError(f"{path.name}: is no .npz file of arrays: {error}") from None


@main.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
def verify(directory: Path) -> None:
    """Check a package: every file's size and SHA-256, the bindings, and the golden cases in this process."""
    from concord_export.verification import verify_package

    with _reported():
        result = verify_package(directory)
    click.echo(
        f"{directory}: {len(result.package.manifest.files)} files as listed, {result.golden_cases} golden cases right, "
        f"largest difference {result.max_absolute_error:.3g}"
    )


@main.command()
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def inspect(directory: Path, as_json: bool) -> None:
    """Show what a package takes and gives, how near it is to its source, and what is in it."""
    from concord_export.inspection import as_document, print_package

    with _reported():
        package = read_package(directory)
    if as_json:
        click.echo(json.dumps(as_document(package), ensure_ascii=False, indent=2))
    else:
        console = Console()
        print_package(package, console if console.is_terminal else Console(width=160))


def _directory(target: Path) -> Path:
    try:
        if target.name.isdigit():
            check_version(target.name)
            check_model_id(target.parent.name)
            return target
        check_model_id(target.name)
        return target / next_version(target)
    except ExportError as error:
        raise click.BadParameter(str(error), param_hint="target") from None


def _load_source(function: str, kind: type[_Made]) -> _Made:
    if function.lower().endswith(_PICKLES) or function.lower().partition(":")[0].endswith(_PICKLES):
        raise click.BadParameter(
            f"{function} looks like a pickled model. Pickles are never read: unpickling runs whatever code is in the "
            "file. Name a function that trains the model, or call concord_export.export_sklearn where it is trained.",
            param_hint="MODULE:FUNCTION",
        )
    module_name, colon, attribute = function.partition(":")
    parts = module_name.split(".")
    if not colon or not attribute.isidentifier() or not all(part.isidentifier() for part in parts):
        raise click.BadParameter(
            f"expected a module and a function in it, as in train.iris:source, got {function}",
            param_hint="MODULE:FUNCTION",
        )
    # As `python -m` does.
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (error.name == module_name or module_name.startswith(error.name + ".")):
            raise click.BadParameter(f"there is no module {error.name}", param_hint="MODULE:FUNCTION") from None
        raise
    made = getattr(module, attribute, None)
    if not callable(made):
        raise click.BadParameter(f"{module_name} has no function {attribute}", param_hint="MODULE:FUNCTION")
    try:
        source = made()
    except Exception:
        # The author's own code: its traceback is what helps.
        traceback.print_exc()
        click.echo(f"error: {function} failed", err=True)
        sys.exit(1)
    if not isinstance(source, kind):
        expected = f"concord_export.{kind.__name__}"
        click.echo(f"error: {function} returned a {type(source).__name__}; expected a {expected}", err=True)
        sys.exit(1)
    return source


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except (ExportError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="concord-export")
