# SPDX-License-Identifier: Apache-2.0
"""One request's text as it grows: the engine gives, a reader takes."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from concord_proto.inference.v1 import inference_service_pb2

from concord_server.fault import Fault
from concord_server.generate.sampling import Picker
from concord_server.generate.stop import StopTexts
from concord_server.generate.tokenizer import TextStream
from concord_server.model.session import Call

__all__ = ["Asked", "Ending", "Generation", "Token"]


class Token(NamedTuple):
    """One token of an answer."""

    id: int
    text: str
    """What of the text came with it; all of them together are the whole text."""


@dataclass(slots=True)
class Ending:
    """How a generation ended, and what it took."""

    prompt_tokens: int
    seed: int
    fault: Fault | None = None
    """None where it ended by itself."""
    reason: inference_service_pb2.FinishReason = inference_service_pb2.FINISH_REASON_UNSPECIFIED
    tokens: int = 0
    """That were delivered."""
    queue_seconds: float = 0
    """From its coming to the engine to its slot."""
    compute_seconds: float = 0
    """Of the runs that it had a part in."""
    rows: int = 0
    """The most generations that shared a run with it, itself included."""
    first_seconds: float = 0
    """From the request's arrival to its first token; 0 where there was none."""
    began: float = 0
    """When it had its slot, by time.perf_counter(); 0 where it never had one."""
    decoding: float = 0
    """When its first token was there; 0 where none was."""
    until: float = 0
    """When its last token was there; 0 where none was."""

    @property
    def rate(self) -> float:
        """Tokens after the first, by the seconds between the first and the last; 0 where there are fewer than two."""
        seconds = self.until - self.decoding
        return (self.tokens - 1) / seconds if self.tokens > 1 and seconds > 0 else 0.0


@dataclass(slots=True)
class Asked:
    """What one generation is to be."""

    prompt: list[int]
    limit: int
    """Most tokens, at least 1; with the prompt they fit into the context."""
    seed: int
    """0 where nothing is sampled."""
    picker: Picker
    stops: StopTexts
    text: TextStream


class Generation:
    """A generation under way. Its reader is of one event loop, or waits in a thread."""

    # The engine's alone.
    slot = -1
    cached = 0
    """Tokens in its slot's cache."""
    next_token = 0
    """The one that the cache does not have yet, once the prompt is in it."""
    # Under the engine's lock.
    gone: Fault | None = None
    """Why nobody waits for it any more."""

    def __init__(self, asked: Asked, call: Call, arrived: float, since: float) -> None:
        """`arrived` is when the request came to the server, `since` when it came to the engine: by perf_counter()."""
        self.asked = asked
        self.call = call
        self.arrived = arrived
        self.since = since
        self.prompt = asked.prompt
        self.held: deque[int] = deque()
        """Tokens whose text may belong to a stop text."""
        self.length = len(asked.prompt)
        self.ending = Ending(self.length, asked.seed)
        # The reader's.
        self.untold = True
        """Whether its first token is still to be told."""
        self._tokens: list[Token] = []
        self._ended: Ending | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._whole = False
        self._over = threading.Event()
        self.timer: asyncio.TimerHandle | None = None
        """Ends it at its deadline."""

    def give(self, tokens: list[Token], ending: Ending | None = None) -> None:
        """What has come. Where the reader has its ending already, nothing comes any more."""
        if self._ended is not None:
            return
        self._tokens += tokens
        if ending is not None:
            self._ended = ending
            self._over.set()
            if self.timer is not None:
                self.timer.cancel()
        waiter = self._waiter
        if waiter is not None and (ending is not None or not self._whole):
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    @property
    def ended(self) -> Ending | None:
        """How it ended, as its reader hears it."""
        return self._ended

    @property
    def over(self) -> bool:
        """Whether its end has come."""
        return self._ended is not None

    async def next(self) -> tuple[list[Token], Ending | None]:
        """Waits until there are tokens that it has not given yet, or the end, after which nothing comes."""
        while not self._tokens and self._ended is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        tokens, self._tokens = self._tokens, []
        return tokens, self._ended

    async def all(self) -> tuple[list[Token], Ending]:
        """Waits for the end and gives everything."""
        self._whole = True
        while self._ended is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._tokens, self._ended

    def wait(self) -> tuple[list[Token], Ending]:
        """The same in a thread, where the engine is of no event loop yet."""
        while self._ended is None:
            self._over.wait()
        return self._tokens, self._ended
