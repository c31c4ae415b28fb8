# SPDX-License-Identifier: Apache-2.0
"""`concord health`."""

from __future__ import annotations

import sys

import click

from concord_client import Health, NotFoundError
from concord_client.command import completion
from concord_client.command.catalog import output_option
from concord_client.command.connection import Connection, Text, with_connection
from concord_client.command.failure import EXIT_FAILED, FailedError, service_hint, told
from concord_client.command.results import json_text
from concord_client.command.screen import visible


@click.command()
@click.argument("name", type=Text(), metavar="[NAME]", default="", shell_complete=completion.services)
@output_option
@with_connection
def health(connection: Connection, name: str, output: str) -> None:
    """Tell whether the server serves; or a service by its full name, or a model by models/ID.

    Ends with 0 where it is SERVING, else with 1.
    """
    with connection.open() as client, told(connection, client):
        try:
            found = client.check(name)
        except NotFoundError as error:
            raise FailedError(visible(f"{error}{service_hint(error, name, client)}", lines=True)) from error
    click.echo(json_text({"service": name, "status": str(found)}) if output == "json" else str(found))
    if found is not Health.SERVING:
        sys.exit(EXIT_FAILED)
