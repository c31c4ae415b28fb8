# SPDX-License-Identifier: Apache-2.0
"""`concord predict`: one row of arguments, or a file of rows."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click
import grpc

from concord_client import Answer, Client, ConcordError, Feature, Model, ModelVersion, Value
from concord_client._values import quote
from concord_client.command import completion
from concord_client.command.bulk import Asked, Bulk, StoppedError
from concord_client.command.catalog import choose
from concord_client.command.connection import Connection, Text, with_connection
from concord_client.command.failure import (
    EXIT_FAILED,
    FailedError,
    UnfitError,
    explanation,
    one_line,
    told,
    versions_there,
)
from concord_client.command.results import Csv, JsonLines, Writer, document, json_text, shortest, values_of
from concord_client.command.rows import Reading, Row, csv_rows, delimiter, json_rows, text_of, unknown_feature
from concord_client.command.screen import RowProgress, line, table, visible
from concord_client.command.value import UnreadableError, read_text

# So many failed rows are told on stderr; all of them are in the output.
_MOST_TOLD = 20
_SUFFIXES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}


def _file(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    return None if value is None or str(value) == "-" else value


def _delimiter(context: click.Context, parameter: click.Parameter, value: str) -> str:
    try:
        return delimiter(value)
    except (ValueError, UnicodeError) as error:
        raise click.BadParameter(str(error)) from error


_INPUT = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


@click.command()
@click.argument("model", type=Text(), metavar="MODEL", shell_complete=completion.models)
@click.argument("values", metavar="[NAME=VALUE]...", nargs=-1, shell_complete=completion.values)
@click.option(
    "--json",
    "json_file",
    type=_INPUT,
    help="Rows of a file (- is stdin): JSON Lines, objects or an array of objects, each with a value by feature name.",
)
@click.option(
    "--csv", "csv_file", type=_INPUT, help="Rows of a file (- is stdin): CSV with the features' names on top."
)
@click.option(
    "--out",
    callback=_file,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where a file's answers go. [default: stdout]",
)
@click.option(
    "--output",
    type=click.Choice(["table", "json", "csv"]),
    help="How answers are written. [default: a table for one row; for a file as --out ends, else as it is itself]",
)
@click.option(
    "--version",
    type=Text(),
    metavar="NUMBER|LABEL",
    default="",
    shell_complete=completion.versions,
    help="Which version answers. [default: the highest that is ready]",
)
@click.option(
    "--request-id", type=Text(), default="", metavar="ID", help="Names the request in logs; row 7 of a file has ID-7."
)
@click.option("--delimiter", default=",", callback=_delimiter, metavar="CHAR", help="What parts a CSV's cells, or tab.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Copy this column of the CSV to the output.")
@click.option("--ignore-unknown", is_flag=True, help="Leave out columns and keys that the model does not have.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first row that fails.")
@click.option(
    "--chunk", default=512, show_default=True, type=click.IntRange(1), metavar="ROWS", help="Rows in one call."
)
@click.option(
    "--in-flight",
    default=4,
    show_default=True,
    type=click.IntRange(1, 64),
    metavar="CALLS",
    help="Calls at the same time.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress, summary or failed rows on stderr.")
@with_connection
def predict(connection: Connection, model: str, values: tuple[str, ...], **options: Any) -> None:
    """Ask a model for a prediction, or for one for each row of a file.

    Values are read by the feature's type: numbers (nan and inf too), true or false, text, JSON arrays.

    \b
      concord predict mixed species=setosa 'sepal length (cm)=5.1' 'sepal width (cm)=3.5' 'petal length (cm)=1.4'
      concord predict breast-cancer --csv patients.csv --out answers.csv

    Ends with 0 where all went well, 1 where the answer or that of any row is an error, 2 for wrong use.
    """
    asked = _Options(**options)
    given = sum((bool(values), asked.json_file is not None, asked.csv_file is not None))
    if given > 1:
        raise click.UsageError("expected NAME=VALUE, --json or --csv, got more than one of them")
    file = asked.json_file or asked.csv_file
    with connection.open() as client:
        if file is None:
            if asked.out is not None:
                raise click.UsageError("--out is for --json and --csv")
            _one(connection, client, model, values, asked)
        else:
            _many(connection, client, model, file, asked)


@dataclass(frozen=True, slots=True)
class _Options:
    json_file: Path | None
    csv_file: Path | None
    out: Path | None
    output: str | None
    version: str
    request_id: str
    delimiter: str
    keep: tuple[str, ...]
    ignore_unknown: bool
    fail_fast: bool
    chunk: int
    in_flight: int
    quiet: bool


def _look_up(connection: Connection, client: Client, model_id: str) -> Model | None:
    """What the catalog tells of the model; None where there is no catalog to ask."""
    with told(connection, client, model_id):
        try:
            return client.model(model_id)
        except ConcordError as error:
            if error.code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED):
                return None
            raise


# --- one row ---------------------------------------------------------------------------------------------------------


def _one(connection: Connection, client: Client, model_id: str, values: Sequence[str], options: _Options) -> None:
    found = _look_up(connection, client, model_id)
    version = _version(found, options.version)
    features = {f.name: f for f in version.features} if version is not None and version.features else None
    row = _row(values, features, model_id)
    outcome: Answer | ConcordError
    try:
        outcome = client.predict(model_id, row, version=options.version, request_id=options.request_id)
    except ConcordError as error:
        if options.output in (None, "table"):
            raise FailedError(visible(explanation(error, connection, client, model_id), lines=True)) from error
        outcome = error
    if options.output == "json":
        click.echo(json_text(_full_document(outcome), indent=2))
    elif options.output == "csv":
        if version is None:
            raise UnfitError("the server does not tell what the model gives: expected --output table or json")
        Csv(sys.stdout, version, (), terminal=sys.stdout.isatty()).write(Row(1, 1, 0, {}), outcome)
    elif isinstance(outcome, Answer):
        _print_answer(outcome)
    if isinstance(outcome, ConcordError):
        raise FailedError(visible(explanation(outcome, connection, client, model_id), lines=True))


def _version(model: Model | None, version: str) -> ModelVersion | None:
    """The version that is asked for, as far as the catalog knows: the server has the last word."""
    if model is None:
        return None
    number = model.labels.get(version, version) if version else model.default_version
    return next((each for each in model.versions if each.version == number), None)


def _row(values: Sequence[str], features: Mapping[str, Feature] | None, model_id: str) -> dict[str, Value]:
    row: dict[str, Value] = {}
    problems: list[str] = []
    for text in values:
        name, value = _parted(text, features)
        if value is None:
            problems.append(f"expected NAME=VALUE, got {quote(text)}")
        elif name in row:
            problems.append(f"feature {quote(name)} is there twice")
        elif features is not None and name not in features:
            problems.append(unknown_feature(name, features))
        else:
            try:
                row[name] = read_text(value, features[name] if features else None)
            except UnreadableError as error:
                problems.append(f"feature {quote(name)}: {error}")
    if problems:
        advice = f"\n`concord describe {model_id}` shows the model's features." if features else ""
        raise UnfitError(visible("\n  ".join(problems) + advice, lines=True))
    return row


def _parted(text: str, features: Mapping[str, Feature] | None) -> tuple[str, str | None]:
    """Name and value. A name may hold "=": the longest one that the model has is meant."""
    parts = text.split("=")
    for i in range(len(parts) - 1, 0, -1):
        name = "=".join(parts[:i])
        if features is not None and name in features:
            return name, "=".join(parts[i:])
    name, sign, value = text.partition("=")
    return name, value if sign else None


def _full_document(outcome: Answer | ConcordError) -> dict[str, Any]:
    if isinstance(outcome, ConcordError):
        return document(outcome)
    timing = outcome.timing
    return {
        "model_id": outcome.model_id,
        **document(outcome),
        "latency_ms": shortest(outcome.latency_ms),
        "timing": {
            "queue_ms": shortest(timing.queue_ms),
            "compute_ms": shortest(timing.compute_ms),
            "batch_rows": timing.batch_rows,
        },
    }


def _print_answer(answer: Answer) -> None:
    predictions, outputs = values_of(answer.proto.predictions, answer.proto.outputs)
    for head, values in (("OUTPUT", outputs), ("PREDICTION", predictions)):
        if values:
            table((head, "VALUE"), list(values.items()))
            click.echo()
    line(
        f"{answer.model_id} version {answer.model_version}, {answer.latency_ms:.2f} ms "
        f"(queue {answer.timing.queue_ms:.2f}, compute {answer.timing.compute_ms:.2f}), request {answer.request_id}"
    )


# --- a file ----------------------------------------------------------------------------------------------------------


def _many(connection: Connection, client: Client, model_id: str, file: Path, options: _Options) -> None:
    output = _format(options)
    found = _look_up(connection, client, model_id)
    version = _pinned(found, options.version)
    if version is None and output == "csv":
        raise UnfitError("the server does not tell what the model gives: expected --output json")
    reading = Reading(
        model_id,
        {f.name: f for f in version.features} if version is not None else None,
        options.ignore_unknown,
        options.delimiter,
        options.keep,
    )
    with _opened(file) as text:
        rows = (csv_rows if options.csv_file is not None else json_rows)(text, reading)
        with _written(options.out, file) as out:
            writer: Writer = (
                JsonLines(out)
                if version is None or output == "json"
                else Csv(out, version, options.keep, terminal=options.out is None and sys.stdout.isatty())
            )
            asked = Asked(model_id, version.version if version is not None else options.version, options.request_id)
            failed = _run(connection, client, asked, rows, _Position(text), writer, out, options)
    if failed:
        sys.exit(EXIT_FAILED)


def _format(options: _Options) -> str:
    if options.output == "table":
        raise click.UsageError("--output table is for one row: expected csv or json")
    if options.keep and options.csv_file is None:
        raise click.UsageError("--keep is for --csv")
    suffix = _SUFFIXES.get(options.out.suffix.lower()) if options.out is not None else None
    output = options.output or suffix or ("csv" if options.csv_file is not None else "json")
    if options.keep and output == "json":
        raise click.UsageError("--keep is for output as CSV")
    return output


def _pinned(model: Model | None, version: str) -> ModelVersion | None:
    """The version that answers all rows: one file, one version, also where another becomes the default meanwhile."""
    if model is None:
        return None
    if version:
        chosen = choose(model, version)
    elif model.default_version:
        chosen = choose(model, model.default_version)
    else:
        errors = [str(each.error) for each in model.versions if each.error is not None]
        text = f"no version of model {quote(model.model_id)} is ready; it has {versions_there(model)}"
        raise FailedError(visible("\n  ".join([text, *errors]), lines=True))
    if chosen.error is not None:
        raise FailedError(visible(str(chosen.error)))
    return chosen


def _run(
    connection: Connection,
    client: Client,
    asked: Asked,
    rows: Iterator[Row],
    position: _Position,
    writer: Writer,
    out: IO[str],
    options: _Options,
) -> bool:
    """Asks for all rows; whether any failed."""
    bulk = Bulk(client, asked, chunk_rows=options.chunk, in_flight=options.in_flight)
    # Where answers scroll by on the same terminal a bar would be in their way.
    bar = not options.quiet and sys.stderr.isatty() and not (options.out is None and sys.stdout.isatty())
    with (
        RowProgress(position.total, bar=bar, summary=not options.quiet) as progress,
        contextlib.closing(bulk.run(rows, position)) as chunks,
    ):
        try:
            for chunk in chunks:
                failures = 0
                for row, outcome in zip(chunk.rows, chunk.outcomes, strict=True):
                    error = writer.write(row, outcome)
                    if error is None:
                        continue
                    failures += 1
                    if not options.quiet:
                        _tell(progress, progress.failed + failures, row, error)
                    if options.fail_fast:
                        progress.advance(row.number - chunk.rows[0].number + 1, failures, chunk.position)
                        return True
                progress.advance(len(chunk.rows), failures, chunk.position)
                out.flush()
        except StoppedError as stop:
            why = explanation(stop.cause, connection, client, asked.model_id)
            raise FailedError(visible(f"stopped at row {stop.row}: {why}", lines=True)) from stop
        return progress.failed > 0


def _tell(progress: RowProgress, count: int, row: Row, error: ConcordError) -> None:
    if count <= _MOST_TOLD:
        progress.say(f"row {row.number} (line {row.line}): {one_line(error)}")
    elif count == _MOST_TOLD + 1:
        progress.say("more rows failed: the output has their errors")


class _Position:
    """How far a file has been read, where that can be known."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._buffer: Any = text.buffer  # its type does not say that it tells
        self.total: int | None = None
        with contextlib.suppress(OSError, ValueError):
            status = os.fstat(text.fileno())
            if stat.S_ISREG(status.st_mode) and text.seekable():
                self.total = status.st_size

    def __call__(self) -> int | None:
        return self._buffer.tell() if self.total is not None else None


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[io.TextIOWrapper]:
    try:
        stream = sys.stdin.buffer if str(file) == "-" else file.open("rb")
    except OSError as error:
        raise UnfitError(f"{file}: {error.strerror}") from error
    text = text_of(stream)
    try:
        yield text
    finally:
        text.detach()
        if str(file) != "-":
            stream.close()


@contextlib.contextmanager
def _written(out: Path | None, source: Path) -> Iterator[IO[str]]:
    if out is None:
        # UTF-8, whatever the terminal's language: that is what the files have, too.
        stream = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="")
        try:
            yield stream
            stream.flush()
        finally:
            stream.detach()
        return
    if str(source) != "-" and out.exists() and out.samefile(source):
        raise click.UsageError("--out is the file that is read")
    try:
        opened = out.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UnfitError(f"{out}: {error.strerror}") from error
    with opened:
        yield opened
