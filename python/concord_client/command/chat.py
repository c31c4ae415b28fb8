# SPDX-License-Identifier: Apache-2.0
"""`concord chat`: a conversation with a text generator, its words as they come."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Self

import click

from concord_client import Client, ConcordError, Finish, TokenStream
from concord_client.command import completion
from concord_client.command.connection import Connection, Text, with_connection
from concord_client.command.failure import FailedError, explanation
from concord_client.command.screen import visible

# As a shell's for a program that SIGINT ended.
EXIT_INTERRUPTED = 130


@click.command()
@click.argument("model", type=Text(), metavar="MODEL", shell_complete=completion.models)
@click.argument("prompt", type=Text(), metavar="[PROMPT]", required=False)
@click.option("--system", type=Text(), default="", metavar="TEXT", help="A system message to begin with.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 100),
    default=0.0,
    show_default=True,
    help="0 always takes the likeliest token; 1 follows the model's probabilities.",
)
@click.option("--top-k", type=click.IntRange(0), default=0, metavar="N", help="Only the N likeliest tokens.")
@click.option(
    "--top-p", type=click.FloatRange(0, 1), default=0.0, metavar="P", help="Only the likeliest that make P together."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**64 - 1), metavar="N", help="The same seed, the same answers. [default: drawn]"
)
@click.option(
    "--max-tokens", type=click.IntRange(0), default=0, metavar="N", help="Longest answer. [default: the server's, 256]"
)
@click.option("--stop", type=Text(), multiple=True, metavar="TEXT", help="End an answer before this text; repeatable.")
@click.option("--version", type=Text(), default="", metavar="NUMBER|LABEL", shell_complete=completion.versions)
@click.option("--quiet", "-q", is_flag=True, help="No prompts, counts or hints on stderr.")
@with_connection
def chat(connection: Connection, model: str, prompt: str | None, quiet: bool, **options: Any) -> None:
    """Talk with a text generator.

    With PROMPT it answers that and ends. On a terminal it asks for more, until an empty Ctrl-D; Ctrl-C ends the answer
    that is being given, and a second one leaves. From a pipe each line is a question of one conversation.

    \b
      concord chat smollm2
      concord chat smollm2 "What is the capital of France?"
      printf '%s\\n' 'Say hello.' 'What is 2+2?' | concord chat tiny-chat

    Ends with 0 where all went well, 1 where an answer was an error, 2 for wrong use, 130 after Ctrl-C.
    """
    with connection.open() as client:
        talk = _Talk(connection, client, model, options, quiet=quiet, lasting=prompt is None and sys.stdin.isatty())
        if prompt is not None:
            talk.answer(prompt)
        elif sys.stdin.isatty():
            talk.converse()
        else:
            for line in sys.stdin:
                if line.strip():
                    talk.answer(line.rstrip("\r\n"))
    if talk.interrupted:
        sys.exit(EXIT_INTERRUPTED)


@dataclass
class _Talk:
    """One conversation."""

    connection: Connection
    client: Client
    model: str
    options: dict[str, Any]
    quiet: bool
    lasting: bool
    """An answer that fails or is interrupted does not end it."""
    interrupted: bool = False

    def __post_init__(self) -> None:
        system = self.options.pop("system")
        self._messages: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []

    def converse(self) -> None:
        """Asks on the terminal until there is nothing more."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (lines can be edited and called back)
        if not self.quiet:
            click.secho("Ctrl-C ends an answer, Ctrl-D the conversation.", dim=True, err=True)
        while True:
            try:
                prompt = input("" if self.quiet else "> ")
            except EOFError:
                click.echo(err=True)
                return
            except KeyboardInterrupt:
                click.echo(err=True)
                self.interrupted = True
                return
            if prompt.strip():
                self.answer(prompt)

    def answer(self, prompt: str) -> None:
        """Gives one answer, word by word. Raises FailedError, or KeyboardInterrupt, where that ends the command."""
        asked = [*self._messages, {"role": "user", "content": prompt}]
        with _Interrupt() as interrupt:
            stream = self.client.stream(self.model, asked, **self.options)
            interrupt.ends(stream)
            try:
                self._print(stream)
            except KeyboardInterrupt:
                stream.cancel()
            except ConcordError as error:
                if stream.text:
                    click.echo()
                told = visible(explanation(error, self.connection, self.client, self.model), lines=True)
                if not self.lasting:
                    raise FailedError(told) from error
                click.secho(f"Error: {told}", fg="red", err=True)
                return
        cut = interrupt.came
        if not stream.text.endswith("\n"):
            click.echo()
        if cut and not self.lasting:
            raise SystemExit(EXIT_INTERRUPTED)
        # What came belongs to the conversation, an answer that was cut short too.
        self._messages = [*asked, {"role": "assistant", "content": stream.text}]
        if not self.quiet and sys.stderr.isatty():
            click.secho("(cancelled)" if cut else _summary(stream.finish), dim=True, err=True)

    def _print(self, stream: TokenStream) -> None:
        for text in _shown(stream):
            # With color, echo leaves a pipe what the model gave.
            click.echo(text, nl=False, color=True)


class _Interrupt:
    """Ctrl-C while an answer is given: it ends the stream, from another thread; a second one is a KeyboardInterrupt.

    Raised between the taking of a lock of grpc's and the `with` that gives it back, a KeyboardInterrupt leaves it
    locked, and nothing more comes over the connection.
    """

    def __init__(self) -> None:
        self.came = False
        self._stream: TokenStream | None = None
        self._before = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> Self:
        if self._before is signal.default_int_handler:  # not where it is ignored, as behind nohup
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._before)

    def ends(self, stream: TokenStream) -> None:
        """This is the stream to end."""
        self._stream = stream
        if self.came:
            stream.cancel()

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
        if self._stream is not None:
            threading.Thread(target=self._stream.cancel, daemon=True).start()


def _shown(stream: TokenStream) -> Iterator[str]:
    """What to print of each token: on a terminal nothing that steers it."""
    steers = sys.stdout.isatty()
    for token in stream:
        if token.text:
            yield visible(token.text.replace("\t", "    "), lines=True) if steers else token.text


def _summary(finish: Finish | None) -> str:
    if finish is None:
        return ""
    made, timing = finish.usage.completion_tokens, finish.timing
    parts = [f"{made} token{'' if made == 1 else 's'}"]
    if made:
        parts.append(f"{timing.time_to_first_token_ms / 1000:.2f} s to the first")
    if timing.tokens_per_second:
        parts.append(f"{timing.tokens_per_second:,.0f} tokens/s")
    if finish.reason == "LENGTH":
        parts.append("cut at its longest (--max-tokens)")
    if finish.seed:
        parts.append(f"--seed {finish.seed}")
    return ", ".join(parts)
