# SPDX-License-Identifier: Apache-2.0
"""The commands together."""

from __future__ import annotations

import contextlib
import importlib.metadata
import sys

import click

from concord_client.command import completion
from concord_client.command.catalog import describe, models
from concord_client.command.chat import chat
from concord_client.command.connection import connection_options
from concord_client.command.health import health
from concord_client.command.predict import predict


def _version() -> str:
    try:
        return importlib.metadata.version("concord")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "unknown"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(_version(), prog_name="concord")
@connection_options
def program() -> None:
    """Ask a Concord server: which models it has, what they take, what they answer.

    The options of the connection may stand before or behind the command's name.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character is no reason to fail.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


@program.command(name="completion")
@click.argument("shell", type=click.Choice(completion.SHELLS))
def _completion(shell: str) -> None:
    """Print the script that teaches a shell to complete this command.

    \b
      bash: eval "$(concord completion bash)"                  in ~/.bashrc
      zsh:  eval "$(concord completion zsh)"                   in ~/.zshrc, behind compinit
      fish: concord completion fish | source                   in ~/.config/fish/config.fish
    """
    click.echo(completion.script(program, shell), nl=False)


for _command in (models, describe, predict, chat, health):
    program.add_command(_command)
