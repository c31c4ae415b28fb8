# SPDX-License-Identifier: Apache-2.0
"""`concord models` and `concord describe`: what a server has, and what a model takes and gives."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import click
from concord_proto.inference.v1 import model_pb2
from google.protobuf import json_format

from concord_client import Feature, Model, ModelVersion
from concord_client._values import quote
from concord_client.command import completion
from concord_client.command.connection import Connection, Text, with_connection
from concord_client.command.failure import FailedError, told, versions_there
from concord_client.command.results import json_text
from concord_client.command.screen import line, table, title, visible
from concord_client.command.suggestion import did_you_mean

output_option = click.option(
    "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="For people or programs."
)

_EXAMPLE_FEATURES = 6


@click.command()
@output_option
@with_connection
def models(connection: Connection, output: str) -> None:
    """List the server's models, those that failed to load too."""
    with connection.open() as client, told(connection, client):
        found = client.models()
    if output == "json":
        click.echo(json_text([_document(model.proto) for model in found], indent=2))
        return
    if not found:
        click.echo("The server has no models.", err=True)
        return
    table(
        ("MODEL", "KIND", "DEFAULT", "VERSIONS", "LABELS", "DESCRIPTION"),
        [
            (
                model.model_id,
                shown.kind.lower() if shown is not None and shown.state != "FAILED" else "",
                model.default_version,
                ", ".join(_numbered(version) for version in model.versions),
                ", ".join(f"{label}={number}" for label, number in model.labels.items()),
                _first_line(shown.description) if shown is not None else "",
            )
            for model in found
            for shown in [_shown(model)]
        ],
    )


@click.command()
@click.argument("model", type=Text(), metavar="MODEL", shell_complete=completion.models)
@click.option(
    "--version",
    type=Text(),
    metavar="NUMBER|LABEL",
    default="",
    shell_complete=completion.versions,
    help="Which version. [default: the one that answers]",
)
@output_option
@with_connection
def describe(connection: Connection, model: str, version: str, output: str) -> None:
    """Show what a model takes and gives, and what is known of it."""
    with connection.open() as client, told(connection, client, model):
        found = client.model(model)
    chosen = choose(found, version) if version else _shown(found)
    if output == "json":
        proto = model_pb2.Model()
        proto.CopyFrom(found.proto)
        if version and chosen is not None:
            del proto.versions[:]
            proto.versions.append(chosen.proto)
        click.echo(json_text(_document(proto), indent=2))
        return
    if chosen is None:
        title(found.model_id)
        click.echo("No versions.")
        return
    _print_version(found, chosen)


def choose(model: Model, version: str) -> ModelVersion:
    """The version of a model that a number or label stands for. FailedError where there is none."""
    number = model.labels.get(version, version)
    for each in model.versions:
        if each.version == number:
            return each
    names = [*(each.version for each in model.versions), *model.labels]
    what = f"version {number}" if number.isdigit() else f"label {quote(version)}"
    text = f"model {quote(model.model_id)} has no {what}{did_you_mean(version, names)}"
    raise FailedError(visible(f"{text}\nThe model has {versions_there(model)}", lines=True))


def _shown(model: Model) -> ModelVersion | None:
    """The version that answers; where none does, the newest."""
    for version in model.versions:
        if version.version == model.default_version:
            return version
    return model.versions[-1] if model.versions else None


def _numbered(version: ModelVersion) -> str:
    return version.version if version.state == "READY" else f"{version.version} {version.state.lower()}"


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0]


def _print_version(model: Model, version: ModelVersion) -> None:
    labels = [label for label, number in model.labels.items() if number == version.version]
    marks = [version.state.lower()] if version.state != "READY" else []
    marks += ["default"] if version.version == model.default_version else []
    marks += [f"label {label}" for label in labels]
    beside = f" ({', '.join(marks)})" if marks else ""
    title(f"{model.model_id} version {version.version}{beside}")
    if version.error is not None:
        line(f"  {version.error.message}")
    if version.state == "READY" or version.features:
        for text in version.description.strip().split("\n") if version.description.strip() else ():
            line(f"  {text}")
        line(f"  {', '.join(_facts(version))}")
        for text in _record(version.proto):
            line(f"  {text}")
        _print_values(version)
        _print_example(model, version)
    others = [_numbered(each) for each in model.versions if each.version != version.version]
    if others:
        click.echo()
        line(f"Other versions: {', '.join(others)}")


def _facts(version: ModelVersion) -> list[str]:
    proto = version.proto
    facts = [
        version.kind.lower(),
        "verified on this server" if version.verified else "not verified: it has no manifest",
    ]
    facts.append("rows are computed together" if proto.batchable else "each row is computed by itself")
    return facts


def _record(proto: model_pb2.ModelVersion) -> list[str]:
    lines = []
    if proto.quality:
        measures = ", ".join(f"{metric.name} {metric.value:.4g} on {metric.rows:,} rows" for metric in proto.quality)
        lines.append(f"quality on rows it was not fitted on: {measures}")
    if proto.HasField("parity"):
        parity = proto.parity
        labels = f", {parity.labels_compared:,} labels equal" if parity.labels_compared else ""
        lines.append(
            f"against the source model on {parity.rows:,} rows: largest difference {parity.max_absolute_error:.3g} "
            f"({parity.max_ulp_error} ULP){labels}"
        )
    return lines


def _print_values(version: ModelVersion) -> None:
    parts: list[tuple[str, Sequence[str], list[tuple[str, ...]]]] = [
        (
            "FEATURE",
            ("TYPE", "DEFAULT", "DESCRIPTION"),
            [(f.name, _type(f.type, f.shape, f.max_length), _default(f), f.description) for f in version.features],
        ),
        ("PREDICTION", ("DESCRIPTION",), [(p.name, p.description) for p in version.predictions]),
        (
            "OUTPUT",
            ("TYPE", "DESCRIPTION"),
            [(o.name, _type(o.type, o.shape), o.description) for o in version.outputs],
        ),
    ]
    if version.kind == "TENSOR":
        for head, specs in (
            ("INPUT TENSOR", version.proto.input_tensors),
            ("OUTPUT TENSOR", version.proto.output_tensors),
        ):
            dtypes = [(s.name, _dtype(s.dtype), _tensor_shape(s)) for s in specs]
            parts.append((head, ("DTYPE", "SHAPE"), [tuple(spec) for spec in dtypes]))
    for head, heads, rows in parts:
        if rows:
            click.echo()
            # A column in which nothing stands is left out.
            used = [0, *(i for i in range(1, len(heads) + 1) if any(row[i] for row in rows))]
            table([(head, *heads)[i] for i in used], [[row[i] for i in used] for row in rows])


def _print_example(model: Model, version: ModelVersion) -> None:
    if version.kind == "GENERATOR":
        click.echo()
        line(f"concord chat {model.model_id}")
        return
    required = [feature for feature in version.features if feature.required]
    if not version.features or version.kind == "RECOMMENDER":
        return
    words = [shlex.quote(f"{feature.name}={_sample(feature)}") for feature in required[:_EXAMPLE_FEATURES]]
    more = " ..." if len(required) > _EXAMPLE_FEATURES else ""
    click.echo()
    line(f"concord predict {model.model_id} {' '.join(words)}{more}".rstrip())


def _sample(feature: Feature) -> str:
    if feature.shape:
        return "[...]"
    return {"FLOAT": "NUMBER", "DOUBLE": "NUMBER", "INT64": "INTEGER", "BOOL": "true"}.get(feature.type, "TEXT")


def _type(kind: str, shape: Sequence[int], most: int = 0) -> str:
    open_length = f"at most {most}" if most else "any"
    axes = ", ".join(open_length if length == -1 else str(length) for length in shape)
    return f"{kind.lower()} [{axes}]" if shape else kind.lower()


def _tensor_shape(spec: model_pb2.TensorSpec) -> str:
    longest = [*spec.max_shape] or [0] * len(spec.shape)
    lengths = [f"<={most}" if most else str(length) for length, most in zip(spec.shape, longest, strict=False)]
    return f"[{', '.join(lengths)}]"


def _dtype(number: int) -> str:
    from concord_proto.inference.v1 import tensor_pb2

    value = tensor_pb2.DataType.DESCRIPTOR.values_by_number.get(number)
    return str(number) if value is None else str(value.name).removeprefix("DATA_TYPE_").lower()


def _default(feature: Feature) -> str:
    if feature.required:
        return ""
    return json_text(feature.default)


def _document(proto: model_pb2.Model) -> dict[str, Any]:
    """A model as protobuf's JSON has it, empty fields too."""
    made = model_pb2.Model()
    made.CopyFrom(proto)
    for version in made.versions:
        # What this client has no definition of cannot be written as JSON.
        known = [d for d in version.error.details if d.TypeName().startswith("google.rpc.")]
        if len(known) < len(version.error.details):
            del version.error.details[:]
            version.error.details.extend(known)
    document: dict[str, Any] = json_format.MessageToDict(
        made, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return document
