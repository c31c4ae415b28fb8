# SPDX-License-Identifier: Apache-2.0
"""Errors in words. Exit code 0: all went well; 1: an answer, or the answer to any row, was an error; 2: wrong use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click
import grpc

from concord_client import Client, ConcordError, Model, NotFoundError
from concord_client.command.connection import Connection
from concord_client.command.screen import visible
from concord_client.command.suggestion import did_you_mean

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

_MOST_NAMES = 30
_LOOK_UP_SECONDS = 5.0


class FailedError(click.ClickException):
    """Something failed that was asked for in the right way."""

    exit_code = EXIT_FAILED


class UnfitError(click.ClickException):
    """What was asked for cannot be sent: a name that the model does not have, a file that is none."""

    exit_code = EXIT_USAGE


def one_line(error: ConcordError) -> str:
    """An error with all its violations."""
    parts = [violation.description for violation in error.violations] or [error.message]
    return f"{error.code.name}{f' {error.reason}' if error.reason else ''}: {'; '.join(parts)}"


@contextmanager
def told(connection: Connection, client: Client, model_id: str = "") -> Iterator[None]:
    """Turns a ConcordError into a FailedError that says what to do about it."""
    try:
        yield
    except ConcordError as error:
        raise FailedError(visible(explanation(error, connection, client, model_id), lines=True)) from error


def explanation(error: ConcordError, connection: Connection, client: Client, model_id: str = "") -> str:
    """What failed, and what may help. May ask the server what it has."""
    if not error.reason and error.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return _unreachable(error, connection)
    # The message is the first violation's.
    lines = [str(error), *(f"  {violation.description}" for violation in error.violations[1:])]
    if error.code is grpc.StatusCode.UNIMPLEMENTED and not error.reason:
        lines.append(f"Is the server at {connection.server} a Concord server?")
    elif error.reason == "MODEL_NOT_FOUND":
        ids = [model.model_id for model in _models(client)]
        lines[0] += did_you_mean(model_id, ids)
        lines.append(f"The server has {listed(ids)}" if ids else "The server has no models.")
    elif error.reason in ("VERSION_NOT_FOUND", "LABEL_NOT_FOUND"):
        lines += [f"The model has {versions_there(model)}" for model in _models(client) if model.model_id == model_id]
    elif error.reason.startswith("FEATURE_"):
        lines.append(f"`concord describe {model_id}` shows the model's features.")
    elif error.code is grpc.StatusCode.UNAUTHENTICATED:
        lines.append("--token-file names a file with a token, --cert and --key a client certificate.")
    return "\n".join(lines)


def versions_there(model: Model) -> str:
    """The versions and labels of a model, in words."""
    numbers = ", ".join(version.version for version in model.versions)
    versions = f"version{'s' if len(model.versions) > 1 else ''} {numbers}" if numbers else "no versions"
    labels = ", ".join(f"{label} ({number})" for label, number in model.labels.items())
    return versions + (f"; labels {labels}" if labels else "")


def listed(names: Sequence[str]) -> str:
    """Some names; how many more there are, where there are many."""
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _models(client: Client) -> list[Model]:
    """What the server has; nothing where it does not tell: the error that is explained says enough."""
    try:
        return client.models(timeout=_LOOK_UP_SECONDS)
    except ConcordError:
        return []


def service_hint(error: ConcordError, name: str, client: Client) -> str:
    """Which name of the health service was meant."""
    if not isinstance(error, NotFoundError):
        return ""
    ids = [f"models/{model.model_id}" for model in _models(client)]
    if f"models/{name}" in ids:
        return f"\nA model's name is models/{name}"
    return f"\nNames are those of services and of models: {listed(ids)}{did_you_mean(name, ids)}" if ids else ""


def _unreachable(error: ConcordError, connection: Connection) -> str:
    how = "in plaintext" if _is_plaintext(connection) else "over TLS"
    cause = error.message.rpartition("last error: ")[2].strip() or error.code.name
    if error.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        cause = f"no answer within {connection.deadline:g} s (--deadline)"
    lines = [f"cannot reach a server at {connection.server} ({connection.source}) {how}: {cause}"]
    lower = cause.lower()
    if "certificate_verify" in lower and how == "over TLS":
        lines.append(
            "Pass --ca with the authority that signed the server's certificate, or --server-name with its name."
        )
    elif how == "over TLS" and ("handshake" in lower or "ssl" in lower):
        lines.append("If the server speaks plaintext, pass --plaintext.")
    elif how == "in plaintext" and "refused" not in lower and error.code is grpc.StatusCode.UNAVAILABLE:
        lines.append("If the server speaks TLS, pass --ca FILE or --tls.")
    if connection.source == "the default":
        lines.append("--server HOST:PORT, or CONCORD_SERVER, names another.")
    return "\n".join(lines)


def _is_plaintext(connection: Connection) -> bool:
    from concord_client._address import is_loopback

    if connection.plaintext is not None:
        return connection.plaintext
    files = (connection.ca, connection.cert, connection.key, connection.server_name)
    return is_loopback(connection.server) and all(file is None for file in files)
