# SPDX-License-Identifier: Apache-2.0
"""Telling how far long work has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

__all__ = ["Progress", "followed", "terminal_progress"]

_Item = TypeVar("_Item")

Progress = Callable[[str, int, int], None]
"""Told what is under way, how much of it is done, and how much it is."""


def followed(items: Sequence[_Item], what: str, progress: Progress | None) -> Iterator[_Item]:
    """The items, one after the other; progress is told."""
    for index, item in enumerate(items):
        if progress is not None:
            progress(what, index, len(items))
        yield item


@contextmanager
def terminal_progress() -> Iterator[Progress | None]:
    """A bar on a terminal, which goes away in the end; None where standard error is none."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=1)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
