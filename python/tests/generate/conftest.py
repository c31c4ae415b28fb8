# SPDX-License-Identifier: Apache-2.0
"""A network and a tokenizer whose every token is known, and the run of which a test may hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_server.generate import Asked, Engine, Row
from concord_server.generate.sampling import Picker, Sampling
from concord_server.generate.stop import StopTexts
from concord_server.model import Call, SessionError, execution_failed

LIMIT = 20.0
"""Seconds that a test waits for what should happen at once."""

END = 0
BAD = 99
"""A token on which a run fails."""
VOCABULARY = 100


class FakeDecoder:
    """The next token is the last one and one more; the caches hold what was put there, and are looked at.

    Where `gate` is set a run waits until it is open, or until its call is cancelled.
    """

    vocabulary = VOCABULARY
    end_tokens = (END,)
    cache_bytes = 4096

    def __init__(self, slots: int = 4, context: int = 64) -> None:
        self.slots = slots
        self.context = context
        self.caches: list[list[int]] = [[] for _ in range(slots)]
        self.runs: list[list[Row]] = []
        self.moves: list[tuple[int, int, int]] = []
        self.closed = False
        self.terminated = 0
        self.gate: threading.Semaphore | None = None
        self.began = threading.Semaphore(0)
        self.ends_at: dict[int, int] = {}
        """Where the next token would be one of these, it is the other."""

    def run(self, rows: Sequence[Row], call: Call) -> list[Any]:
        assert not self.closed
        slots = [row.slot for row in rows]
        assert slots == sorted(set(slots))
        assert all(0 <= slot < self.slots for slot in slots)
        assert len(rows) == 1 or all(len(row.tokens) == 1 for row in rows)
        ended = threading.Event()
        call.begin(ended.set)
        try:
            self.began.release()
            gate = self.gate
            while gate is not None and not gate.acquire(timeout=0.001):
                if ended.is_set():
                    self.terminated += 1
                    call.check()
                gate = self.gate
            if any(BAD in row.tokens for row in rows):
                raise SessionError("Non-zero status code: 99, see /opt/models/x.cc at 0x7ffe")
        finally:
            call.end()
        logits = []
        for slot, position, tokens in rows:
            cache = self.caches[slot]
            assert len(cache) >= position, "a hole in the cache"
            cache[position:] = tokens
            assert len(cache) <= self.context
            following = cache[-1] + 1
            row = np.zeros(VOCABULARY, np.float32)
            row[self.ends_at.get(following, following)] = 1
            logits.append(row)
        self.runs.append(list(rows))
        return logits

    def move(self, source: int, target: int, tokens: int) -> None:
        assert source != target
        assert len(self.caches[source]) >= tokens
        self.caches[target] = self.caches[source][:tokens]
        self.caches[source] = []
        self.moves.append((source, target, tokens))

    def close(self) -> None:
        self.closed = True


class FakeStream:
    """The text of a token is its number and a space."""

    def __init__(self, tokenizer: FakeTokenizer) -> None:
        self._tokenizer = tokenizer
        tokenizer.open += 1
        self._closed = False

    def add(self, token: int) -> str:
        assert not self._closed
        return f"{token} "

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._tokenizer.open -= 1


class FakeTokenizer:
    """Numbers between spaces are tokens."""

    def __init__(self) -> None:
        self.open = 0
        """Streams that nobody has closed."""
        self.closed = False

    def template(self, messages: str) -> str:
        return messages

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def stream(self) -> FakeStream:
        return FakeStream(self)

    def close(self) -> None:
        assert not self.open
        self.closed = True


class Watched:
    """A generate.Watcher that remembers."""

    def __init__(self) -> None:
        self.waits = 0
        self.runs = 0
        self.generated = 0
        self.rows: list[int] = []
        self.firsts: list[float] = []
        self.queued: list[float] = []
        self.computed: list[float] = []

    def waiting(self, change: int) -> None:
        self.waits += change

    def running(self, change: int) -> None:
        self.runs += change

    def began(self, wait_seconds: float) -> None:
        self.queued.append(wait_seconds)

    def shared(self, generations: int) -> None:
        self.rows.append(generations)

    def first(self, seconds: float) -> None:
        self.firsts.append(seconds)

    def tokens(self, count: int) -> None:
        self.generated += count

    def ended(self, compute_seconds: float) -> None:
        self.computed.append(compute_seconds)


def asked(
    tokenizer: FakeTokenizer, *prompt: int, limit: int = 5, stop: Sequence[str] = (), temperature: float = 0
) -> Asked:
    """A greedy generation from these tokens, unless there is a temperature."""
    sampling = Sampling(temperature, 0, 0, 7 if temperature else 0)
    return Asked(list(prompt), limit, sampling.seed, Picker(sampling), StopTexts(stop), tokenizer.stream())


def wait_until(condition: Callable[[], Any], what: str = "the condition") -> None:
    """Polls until the condition holds; fails after the limit."""
    pause = threading.Event()
    for _ in range(int(LIMIT / 0.001)):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError(f"{what} did not hold within {LIMIT} s")


@pytest.fixture
def fakes() -> Iterator[SimpleNamespace]:
    """All of the above, since test modules cannot import each other, and engines that are closed at the end."""
    engines: list[Engine] = []

    def engine(decoder: FakeDecoder, *, chunk_tokens: int = 512, **more: Any) -> Engine:
        made = Engine(
            "m",
            "1",
            FakeTokenizer(),
            decoder,
            chunk_tokens=chunk_tokens,
            failed=lambda error: execution_failed("m", "1", str(error)),
            **more,
        )
        engines.append(made)
        return made

    yield SimpleNamespace(
        LIMIT=LIMIT,
        END=END,
        BAD=BAD,
        FakeDecoder=FakeDecoder,
        FakeTokenizer=FakeTokenizer,
        Watched=Watched,
        asked=asked,
        engine=engine,
        wait_until=wait_until,
    )
    for made in engines:
        made.close()
        assert made.join(LIMIT)
