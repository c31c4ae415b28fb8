# SPDX-License-Identifier: Apache-2.0
"""What people see: tables and progress on a terminal, the same words without colours and folding elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

# What steers a terminal or turns text around. Names, labels and messages come from servers and files.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Where nothing folds lines: wider than any of them.
_ENDLESS = 1 << 20


def visible(text: str, *, lines: bool = False) -> str:
    """A text whose control characters show instead of acting; with lines, line breaks stay."""
    return _CONTROLS.sub(lambda found: found[0] if lines and found[0] == "\n" else _escape(found[0]), text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints columns. On a terminal they are folded into its width; elsewhere a line is a row."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head in heads:
        made.add_column(head, overflow="fold")
    for row in rows:
        made.add_row(*(Text(visible(" ".join(cell.split("\n")))) for cell in row))
    if sys.stdout.isatty():
        Console(file=sys.stdout, highlight=False).print(made)
        return
    console = Console(width=_ENDLESS, force_terminal=False, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(made)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def title(text: str) -> None:
    """Prints a heading."""
    click.secho(visible(text), bold=True)


def line(text: str) -> None:
    """Prints a line."""
    click.echo(visible(text))


class RowProgress:
    """Tells how a file comes on: a bar while it runs, where stderr is a terminal; a line at the end, everywhere."""

    def __init__(self, total_bytes: int | None, *, bar: bool, summary: bool) -> None:
        """With total_bytes None nobody knows how much there is."""
        self._total = total_bytes
        self._summary = summary
        self._start = time.monotonic()
        self._rows = 0
        self._failed = 0
        self._bar: Progress | None = None
        if bar:
            self._bar, self._task = _bar(total_bytes)

    @property
    def failed(self) -> int:
        """Rows that failed so far."""
        return self._failed

    def advance(self, rows: int, failed: int, position: int | None) -> None:
        """Notes rows done, and how many bytes of the file they took up to here."""
        self._rows += rows
        self._failed += failed
        if self._bar is not None:
            self._bar.update(self._task, completed=position or 0, what=self._words())

    def say(self, text: str) -> None:
        """Prints a line on stderr, above the bar."""
        if self._bar is None:
            click.echo(visible(text), err=True)
        else:
            self._bar.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._summary:
            seconds = time.monotonic() - self._start
            click.echo(f"{self._words()}, {seconds:.1f} s", err=True)

    def _words(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        failed = f", {self._failed:,} failed" if self._failed else ""
        noun = "row" if self._rows == 1 else "rows"
        return f"{self._rows:,} {noun}{failed}, {self._rows / seconds:,.0f} rows/s"


def _bar(total: int | None) -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    progress = Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[what]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    return progress, progress.add_task("", total=total, what="")
