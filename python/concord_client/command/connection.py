# SPDX-License-Identifier: Apache-2.0
"""The options that every command has, before or behind the command's name, and the client made of them."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from concord_client import Client

DEFAULT_SERVER = "127.0.0.1:50051"

_F = TypeVar("_F", bound=Callable[..., Any])
_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class Text(click.ParamType[str]):
    """Text that can be sent: an argument's bytes may be no UTF-8."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"expected UTF-8, got {text!r}", param, ctx)
        return text


class Duration(click.ParamType[float]):
    """Seconds: 30, 1.5, 500ms, 2m."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|)", value)
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if not seconds or math.isinf(seconds):
            self.fail(f"expected a time such as 30s, 500ms or 2m, got {value!r}", param, ctx)
        return seconds


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a server is and how it is asked."""

    server: str
    source: str
    """Which of the ways to name a server did."""
    plaintext: bool | None
    ca: Path | None
    cert: Path | None
    key: Path | None
    server_name: str | None
    token_file: Path | None
    gzip: bool
    deadline: float

    def open(self, *, retry: bool = True, deadline: float | None = None) -> Client:
        """A client. Contradictions and unreadable files are a UsageError; nothing is connected yet."""
        try:
            return Client(
                self.server,
                plaintext=self.plaintext,
                ca=self.ca,
                cert=self.cert,
                key=self.key,
                server_name=self.server_name,
                token=self._token(),
                gzip=self.gzip,
                timeout=self.deadline if deadline is None else deadline,
                retry=retry,
            )
        except (ValueError, OSError) as error:
            raise click.UsageError(str(error)) from error

    def _token(self) -> str | None:
        if self.token_file is None:
            return None
        return self.token_file.read_text(encoding="ascii", errors="replace").strip()


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Notes an option for the whole command line: one behind the command's name wins over one before it."""
    kept = context.ensure_object(dict)
    name = option.name
    source = context.get_parameter_source(name)
    if source is not ParameterSource.COMMANDLINE and name in kept:
        return
    kept[name] = value
    if name == "server":
        kept["source"] = {ParameterSource.COMMANDLINE: "--server", ParameterSource.ENVIRONMENT: "CONCORD_SERVER"}.get(
            source or ParameterSource.DEFAULT, "the default"
        )


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_option = functools.partial(click.option, expose_value=False, callback=_keep)
_OPTIONS = (
    _option(
        "--server",
        metavar="HOST:PORT",
        envvar="CONCORD_SERVER",
        default=DEFAULT_SERVER,
        show_default=True,
        show_envvar=True,
        help="Where the server is; also unix:PATH and gRPC's other names.",
    ),
    _option("--ca", type=_FILE, envvar="CONCORD_CA", help="PEM of the authorities to trust. [default: the system's]"),
    _option("--cert", type=_FILE, envvar="CONCORD_CERT", help="PEM of this client's certificate, with --key."),
    _option("--key", type=_FILE, envvar="CONCORD_KEY", help="PEM of the certificate's private key."),
    _option("--server-name", metavar="NAME", help="The name in the server's certificate, where it is not HOST."),
    _option(
        "--token-file",
        type=_FILE,
        envvar="CONCORD_TOKEN_FILE",
        help="File with the bearer token; it is sent over TLS or on this machine only.",
    ),
    _option(
        "--plaintext/--tls",
        default=None,
        help="Force either. [default: plaintext on this machine without TLS options, else TLS]",
    ),
    _option("--gzip", is_flag=True, help="Compress requests and answers."),
    _option(
        "--deadline",
        type=Duration(),
        metavar="TIME",
        default="60s",
        show_default=True,
        help="Time for one call: 30s, 500ms, 2m.",
    ),
)


def connection_options(command: _F) -> _F:
    """Gives a command the options of a connection; kept_connection() is what they make."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def with_connection(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the options of a connection, and the connection itself as the first argument."""

    @functools.wraps(command)
    def invoke(*arguments: Any, **options: Any) -> Any:
        return command(kept_connection(click.get_current_context()), *arguments, **options)

    return connection_options(invoke)


def kept_connection(context: click.Context) -> Connection:
    """The connection that the options of this command line make."""
    return Connection(**context.ensure_object(dict))
