# SPDX-License-Identifier: Apache-2.0
"""`python -m concord_soak --seconds N [--report DIR] -- COMMAND`: everything at once against one server."""

from __future__ import annotations

import asyncio
import secrets
import sys
from pathlib import Path

import click

from concord_soak.actors import all_actors
from concord_soak.output import show_soak, write_json
from concord_soak.process import ServerError
from concord_soak.soak import run_soak


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--seconds", default=600.0, show_default=True, type=click.FloatRange(1), help="How long, after a warm-up."
)
@click.option("--seed", default=None, type=int, help="Of all that is random; it is printed. Default: drawn.")
@click.option(
    "--report", "directory", type=click.Path(path_type=Path), help="Writes soak.json and the server's log there."
)
@click.option("--name", default="server", show_default=True, help="What the server is called in the report.")
@click.option("--actor", "only", multiple=True, help="Only this actor; may be repeated.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def main(
    seconds: float, seed: int | None, directory: Path | None, name: str, only: tuple[str, ...], command: tuple[str, ...]
) -> None:
    """Starts COMMAND with --config FILE and plays all actors against it.

    Exit codes: 0 passed, 1 failed, 2 wrong usage.
    """
    known = {actor.name for actor in all_actors()}
    if unknown := sorted(set(only) - known):
        raise click.UsageError(f"--actor: expected one of {', '.join(sorted(known))}, got {', '.join(unknown)}")
    seed = secrets.randbelow(1 << 32) if seed is None else seed
    click.echo(f"{name}: seed {seed}", err=True)
    try:
        report = asyncio.run(run_soak(command, name=name, seconds=seconds, seed=seed, only=only, keep=directory))
    except ServerError as error:
        click.echo(f"concord_soak: the server: {error}", err=True)
        sys.exit(1)
    show_soak(report)
    if directory is not None:
        write_json(directory / "soak.json", report)
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()
