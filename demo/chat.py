# SPDX-License-Identifier: Apache-2.0
"""The same texts from two servers side by side, token by token."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from concord_client import Client, ConcordError, Finish
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

MOST_TOKENS = 64
SECONDS = 300.0


@dataclass(frozen=True)
class Question:
    """What is asked, and how the tokens are picked."""

    prompt: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def title(self) -> str:
        how = " ".join(f"{name} {value}" for name, value in self.settings.items())
        return f"{self.prompt} ({how or 'greedy'})"


QUESTIONS = {
    "tiny-chat": (
        Question("What is the capital of France?"),
        Question("Speak Japanese."),
        Question("Tell me a story.", {"temperature": 1.5, "seed": 12}),
    )
}
OF_ANY_MODEL = (
    Question("What is the capital of France?"),
    Question("Name three colors."),
    Question("Write one sentence about the sea.", {"temperature": 0.8, "top_k": 40, "seed": 7}),
)


class _Telling:
    """One server's text as it comes."""

    def __init__(self, client: Client, model_id: str, question: Question) -> None:
        self.text = ""
        self.token_ids: list[int] = []
        self.finish: Finish | None = None
        self.error: ConcordError | None = None
        self._stream = client.stream(
            model_id, question.prompt, max_tokens=MOST_TOKENS, timeout=SECONDS, **question.settings
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for token in self._stream:
                self.token_ids.append(token.token_id)
                self.text += token.text
            self.finish = self._stream.finish
        except ConcordError as error:
            self.error = error

    def wait(self, seconds: float) -> bool:
        """Whether it is over."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def figures(self) -> str:
        """How fast it was."""
        if self.error is not None:
            return str(self.error)
        if self.finish is None:
            return ""
        timing = self.finish.timing
        return (
            f"{self.finish.usage.completion_tokens} tokens, first after {timing.time_to_first_token_ms:.0f} ms, "
            f"{timing.tokens_per_second:,.0f}/s"
        )


def converse(console: Console, model_id: str, clients: Mapping[str, Client]) -> bool:
    """Asks all servers the same and shows their texts as they come; whether all tokens are equal."""
    console.print(f"\n{model_id}: the same questions at the same time, so that they share the machine", highlight=False)
    all_equal = True
    for question in QUESTIONS.get(model_id, OF_ANY_MODEL):
        tellings = {name: _Telling(client, model_id, question) for name, client in clients.items()}
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not all(telling.wait(0.05) for telling in tellings.values()):
                # What is not a terminal gets the end alone.
                if console.is_terminal:
                    live.update(_side_by_side(question, tellings), refresh=True)
        same = len({tuple(telling.token_ids) for telling in tellings.values()}) == 1
        same = same and all(telling.finish is not None for telling in tellings.values())
        console.print(_side_by_side(question, tellings, same))
        all_equal = all_equal and same
    if all_equal:
        console.print("[green]All tokens are equal.[/green]")
    else:
        console.print("[red]Not all tokens are equal.[/red]")
    return all_equal


def _side_by_side(question: Question, tellings: Mapping[str, _Telling], same: bool | None = None) -> Group:
    table = Table(box=box.SIMPLE_HEAD, title=question.title(), title_justify="left", expand=True, pad_edge=False)
    for name in tellings:
        table.add_column(name, ratio=1)
    table.add_row(*(Text(telling.text) for telling in tellings.values()))
    table.add_row(*(Text(telling.figures(), style="dim") for telling in tellings.values()))
    verdict = {None: Text(""), True: Text("tokens equal", style="green"), False: Text("tokens DIFFER", style="red")}
    return Group(table, verdict[same])
