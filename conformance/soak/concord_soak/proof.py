# SPDX-License-Identifier: Apache-2.0
"""What the proofs share: their options, their report, their exit code."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import click

from concord_soak.output import quantile, table, write_json
from concord_soak.process import ServerError

__all__ = ["figures", "finish", "proof_options"]


def proof_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--report`, `--name` and the command that starts the server."""
    for decorate in (
        click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED),
        click.option("--name", default="server", show_default=True, help="What the server is called in the report."),
        click.option(
            "--report", type=click.Path(path_type=Path), help="Writes a JSON report and the server's log there."
        ),
    ):
        command = decorate(command)
    return command


def finish(what: str, name: str, directory: Path | None, run: Callable[[], Awaitable[dict[str, Any]]]) -> None:
    """Runs a proof, prints its figures and writes them as JSON; exit code 1 where something in `problems` is wrong.

    Only wrong answers and lost requests are problems. A time that misses its goal is printed: machines differ.
    """
    try:
        report = asyncio.run(_awaited(run))
    except ServerError as error:
        click.echo(f"{what}: the server: {error}", err=True)
        sys.exit(1)
    problems: list[str] = report.setdefault("problems", [])
    report = {"proof": what, "server": name, "processors": os.cpu_count(), **report}
    click.echo(f"{name}: {what}: {'FAILED' if problems else 'done'}")
    table([(key, value) for key, value in report.items() if key not in ("proof", "server", "problems")])
    for problem in problems[:20]:
        click.echo(f"  PROBLEM {problem}")
    if directory is not None:
        write_json(directory / f"{what}.json", report)
    sys.exit(1 if problems else 0)


async def _awaited(run: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    return await run()


def figures(name: str, seconds: Sequence[float]) -> dict[str, Any]:
    """Median, 99th percentile and largest of some times, in milliseconds."""
    return {
        f"{name}_ms_p50": round(quantile(seconds, 0.5) * 1000, 2),
        f"{name}_ms_p99": round(quantile(seconds, 0.99) * 1000, 2),
        f"{name}_ms_max": round(max(seconds, default=float("nan")) * 1000, 2),
    }
