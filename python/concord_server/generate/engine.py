# SPDX-License-Identifier: Apache-2.0
"""Generates the texts of one version: side by side as many as the decoder has slots, the others wait in order."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from concord_proto.inference.v1 import inference_service_pb2

from concord_server import fault, telemetry
from concord_server.fault import Fault, Reason, quote, shown
from concord_server.generate.decoder import Decoder, Logits, Row
from concord_server.generate.generation import Asked, Ending, Generation, Token
from concord_server.generate.pace import Pace
from concord_server.generate.plan import Round, plan
from concord_server.generate.tokenizer import Tokenizer, TokenizerError
from concord_server.generate.watcher import Watcher, nobody
from concord_server.model.session import Call, SessionError

__all__ = ["Engine"]

_log = telemetry.log(__name__)

_LEAST_RETRY, _MOST_RETRY = 0.01, 5.0
_WEIGHT = 1 / 8  # of one generation in a running mean

_STOP = inference_service_pb2.FINISH_REASON_STOP
_LENGTH = inference_service_pb2.FINISH_REASON_LENGTH
_STOP_SEQUENCE = inference_service_pb2.FINISH_REASON_STOP_SEQUENCE


class _News:
    """What the engine has to tell: gathered through a run, told at once. To wake a reader costs as much as a token."""

    __slots__ = ("began", "endings", "shared", "tokens")

    def __init__(self) -> None:
        self.tokens: list[tuple[Generation, Token]] = []
        self.endings: list[Generation] = []
        self.began: list[Generation] = []
        self.shared: list[int] = []


class Engine:
    """One thread runs the decoder, and sleeps while there is nothing to do.

    `begin` and `leave` are of one event loop, once `serve` has named it; until then they may be of any thread.
    """

    def __init__(
        self,
        model_id: str,
        version: str,
        tokenizer: Tokenizer,
        decoder: Decoder,
        *,
        chunk_tokens: int,
        failed: Callable[[SessionError], Fault],
        max_waiting: int = 1024,
    ) -> None:
        """`chunk_tokens` is the most of a prompt in one run, `failed` makes the fault of a decoder's error.

        It owns tokenizer and decoder.
        """
        self.tokenizer = tokenizer
        self.decoder = decoder
        self.chunk_tokens = chunk_tokens
        self.max_waiting = max_waiting
        """How many generations may wait for a slot."""
        self._name = (model_id, version)
        self._failed = failed
        self._end_tokens = frozenset(decoder.end_tokens)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watcher: Watcher = nobody(model_id, version, 0)
        self._condition = threading.Condition()  # of what follows
        self._waiting: deque[Generation] = deque()
        self._running = 0  # generations that have a slot
        self._closing = False
        self._thread: threading.Thread | None = None
        self._seconds = 0.0  # that a generation keeps its slot: a running mean
        # Of the run under way: those of its generations that somebody still waits for, and what ends it.
        self._members: set[Generation] = set()
        self._call = Call()
        # The thread's alone.
        self._slots: list[Generation | None] = [None] * decoder.slots
        self._pace = Pace()
        self._news = _News()
        self._rows: list[Row] = []

    def serve(self, loop: asyncio.AbstractEventLoop, watcher: Watcher) -> None:
        """Tells readers and the watcher on an event loop from now on. Nothing is under way then."""
        self._loop, self._watcher = loop, watcher

    @property
    def busy(self) -> bool:
        """Whether generations are under way or wait."""
        return self._running > 0 or bool(self._waiting)

    def begin(self, asked: Asked, call: Call, arrived: float) -> Generation:
        """Begins a generation for a request that arrived then, by time.perf_counter().

        At the call's deadline it ends. Raises Fault where the call has ended, or where too many wait.
        """
        call.check()
        generation = Generation(asked, call, arrived, time.perf_counter())
        with self._condition:
            if self._closing:
                raise fault.cancelled()
            if self._running + len(self._waiting) >= len(self._slots) + self.max_waiting:
                raise self._full()
            self._waiting.append(generation)
            if self._thread is None:
                name = f"generate {shown(self._name[0])}"
                self._thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._thread.start()
            self._condition.notify()
        self._watcher.waiting(1)
        loop = self._loop
        if loop is not None and call.deadline is not None:
            left = max(call.deadline - time.monotonic(), 0)
            generation.timer = loop.call_later(left, self._expire, generation)
        return generation

    def check_room(self) -> None:
        """Raises Fault QUEUE_FULL where a generation would find no room: before its prompt is worth reading."""
        with self._condition:
            if self._running + len(self._waiting) >= len(self._slots) + self.max_waiting:
                raise self._full()

    def leave(self, generation: Generation, why: Fault) -> None:
        """Says that nobody waits for a generation any more: its slot is free within one step. Its reader hears `why`.

        Where it has ended, nothing happens.
        """
        if generation.over:
            return
        with self._condition:
            if generation.gone is not None:
                return
            generation.gone = why
            waited = generation in self._waiting
            if waited:
                self._waiting.remove(generation)
            elif generation in self._members:
                self._members.discard(generation)
                if not self._members:
                    self._call.cancel()
            self._condition.notify()
        if waited:
            self._watcher.waiting(-1)
            _close(generation)
        ending = generation.ending
        generation.give([], Ending(ending.prompt_tokens, ending.seed, fault=why.at(*self._name)))

    def close(self) -> None:
        """Ends what runs, then frees tokenizer and decoder; waits for nothing."""
        with self._condition:
            if self._closing:
                return
            self._closing = True
            self._call.cancel()
            self._condition.notify()
            thread = self._thread
        if thread is None:
            self._free_all()

    def join(self, seconds: float) -> bool:
        """Waits until a closed engine has freed everything; whether it has."""
        if self._thread is not None:
            self._thread.join(seconds)
            return not self._thread.is_alive()
        return True

    def _expire(self, generation: Generation) -> None:
        deadline = generation.call.deadline
        if (
            self._loop is not None and deadline is not None and deadline > time.monotonic()
        ):  # the loop's clock is coarse
            generation.timer = self._loop.call_later(0.001, self._expire, generation)
            return
        self.leave(generation, generation.call.expired())

    def _full(self) -> Fault:
        model_id, version = self._name
        text = (
            f"the queue of model {quote(model_id)} version {shown(version)} is full: "
            f"expected at most {self.max_waiting} generations to wait"
        )
        full = Fault(Reason.QUEUE_FULL, text).at(model_id, version)
        seconds = self._seconds * len(self._waiting) / len(self._slots)
        full.retry_seconds = round(min(max(seconds, _LEAST_RETRY), _MOST_RETRY), 3)
        return full

    # What follows is the thread's.

    def _work(self) -> None:
        while True:
            with self._condition:
                while not (self._waiting or self._running or self._closing):
                    self._condition.wait()
                if self._closing:
                    break
            try:
                made = self._settle()
                if made.slot >= 0:
                    self._prefill(made.slot, made.tokens, made.decode not in ([], [made.slot]))
                self._decode()
            except Exception as error:  # a defect must not leave readers waiting
                _log.error("generation failed", model_id=self._name[0], model_version=self._name[1], cause=error)
                failure = fault.internal(error.with_traceback(None))
                for generation in self._slots:
                    if generation is not None:
                        self._free(generation, failure)
            self._tell()
        with self._condition:
            waiting = list(self._waiting)
            self._waiting.clear()
        for generation in (*self._slots, *waiting):
            if generation is not None:
                generation.ending.fault = fault.cancelled().at(*self._name)
                _close(generation)
                self._news.endings.append(generation)
        self._slots = [None] * len(self._slots)
        self._tell()
        self._free_all()

    def _free_all(self) -> None:
        self.decoder.close()
        self.tokenizer.close()

    def _settle(self) -> Round:
        """Frees the slots of those who are gone, and does of the plan what needs no run."""
        slots = self._slots
        for generation in slots:
            if generation is not None and generation.gone is not None:
                self._free(generation, generation.gone)
        came = []
        with self._condition:
            made = plan(slots, self._waiting, self._pace, self.chunk_tokens)
            for slot in made.join:
                generation = slots[slot] = self._waiting.popleft()
                generation.slot = slot
                self._running += 1
                came.append(generation)
        if came:
            now = time.perf_counter()
            for generation in came:
                generation.ending.began = now
                generation.ending.queue_seconds = now - generation.since
            self._news.began += came
            self._tell()  # their first runs may be long
        for source, target, tokens in made.moves:
            mover = slots[source]
            if mover is not None:
                if tokens:
                    self.decoder.move(source, target, tokens)
                slots[target], slots[source] = mover, None
                mover.slot = target
        return made

    def _prefill(self, slot: int, count: int, beside: bool) -> None:
        """Puts the next tokens of a prompt into its slot; `beside` is that others take steps."""
        oldest = self._slots[slot]
        if oldest is None:
            return
        at = oldest.cached
        # Slices are copied: a prompt that fits is given as it is.
        tokens = oldest.prompt if count == oldest.length else oldest.prompt[at : at + count]
        try:
            logits, seconds = self._run((oldest,), (Row(oldest.slot, at, tokens),))
        except (Fault, SessionError) as error:
            self._fail(oldest, error)
            return
        self._pace.prefilled(count, seconds, beside)
        oldest.cached += count
        if oldest.cached == oldest.length:
            oldest.prompt = []
            self._sample(oldest, logits[0], time.perf_counter())
            if beside:
                self._tell()  # the others' step would keep the first token waiting

    def _decode(self) -> None:
        """Gives each generation whose prompt is in the cache its next token."""
        together = [
            generation
            for generation in self._slots
            if generation is not None and generation.cached >= generation.length and generation.gone is None
        ]
        if not together:
            return
        if self._news.tokens or self._news.endings:
            self._tell()
        rows = [Row(generation.slot, generation.cached, (generation.next_token,)) for generation in together]
        try:
            logits, seconds = self._run(together, rows)
        except (Fault, SessionError) as error:
            if len(together) == 1:
                self._fail(together[0], error)
            else:
                self._decode_alone(together, rows)
            return
        self._pace.stepped(seconds)
        now = time.perf_counter()
        for generation, its in zip(together, logits, strict=True):
            generation.cached += 1
            self._sample(generation, its, now)

    def _decode_alone(self, together: Sequence[Generation], rows: Sequence[Row]) -> None:
        """Who is to blame for a run that failed shows where each runs alone."""
        for generation, row in zip(together, rows, strict=True):
            if generation.gone is not None:
                continue
            try:
                logits, _ = self._run((generation,), (row,))
            except (Fault, SessionError) as error:
                self._fail(generation, error)
            else:
                generation.cached += 1
                self._sample(generation, logits[0], time.perf_counter())

    def _run(self, together: Sequence[Generation], rows: Sequence[Row]) -> tuple[Sequence[Logits], float]:
        """Runs the decoder, until the last of the generations is gone. Raises Fault or SessionError."""
        with self._condition:
            self._members = {generation for generation in together if generation.gone is None}
            if self._call.cancelled and not self._closing:
                self._call = Call()
            call = self._call
            if not self._members:
                raise fault.cancelled()
        begin = time.perf_counter()
        try:
            logits = self.decoder.run(rows, call)
        finally:
            seconds = time.perf_counter() - begin
            with self._condition:
                self._members = set()
        count = len(rows)
        for generation in together:
            ending = generation.ending
            ending.compute_seconds += seconds
            if count > ending.rows:
                ending.rows = count
        self._news.shared.append(count)
        return logits, seconds

    def _fail(self, generation: Generation, error: Fault | SessionError) -> None:
        """Ends a generation on which the decoder failed; one that was ended is settled by whoever ended it."""
        if generation.gone is None and not self._closing:
            self._free(generation, error if isinstance(error, Fault) else self._failed(error))

    def _sample(self, generation: Generation, logits: Logits, now: float) -> None:
        """Takes the next token of a generation from its logits, which were there at `now`."""
        if generation.gone is not None:
            return
        asked, ending = generation.asked, generation.ending
        try:
            token = asked.picker.next(logits, ending.tokens)
            if token in self._end_tokens:
                self._finish(generation, _STOP)
                return
            text = asked.text.add(token)
        except Fault as failure:
            self._free(generation, failure)
            return
        except TokenizerError as error:
            self._free(generation, fault.internal(error.with_traceback(None)))
            return
        if not ending.tokens:
            ending.decoding = now
            ending.first_seconds = now - generation.arrived
        ending.tokens += 1
        ending.until = now
        generation.next_token = token
        generation.held.append(token)
        texts, stopped = asked.stops.add(text)
        if texts:
            self._release(generation, texts)
        if stopped:
            self._finish(generation, _STOP_SEQUENCE)
        elif ending.tokens == asked.limit:
            self._finish(generation, _LENGTH)

    def _finish(self, generation: Generation, reason: inference_service_pb2.FinishReason) -> None:
        """Ends a generation by itself."""
        generation.ending.reason = reason
        self._free(generation, None)

    def _release(self, generation: Generation, texts: Sequence[str]) -> None:
        """Gives the reader the oldest of the tokens that were held back, with these texts."""
        held, tokens = generation.held, self._news.tokens
        for text in texts:
            tokens.append((generation, Token(held.popleft(), text)))

    def _free(self, generation: Generation, why: Fault | None) -> None:
        """Ends a generation that has a slot; without a fault it has ended by itself."""
        if generation.held:
            self._release(generation, generation.asked.stops.rest())  # what it has is its reader's
        if why is not None:
            generation.ending.fault = why.at(*self._name)
        kept = time.perf_counter() - generation.ending.began
        with self._condition:
            self._slots[generation.slot] = None
            self._running -= 1
            self._seconds += (kept - self._seconds) * (_WEIGHT if self._seconds else 1)
        generation.prompt = []
        _close(generation)
        self._news.endings.append(generation)

    def _tell(self) -> None:
        """Tells what has come, in one turn of the event loop."""
        news = self._news
        if not (news.tokens or news.endings or news.began or news.shared):
            return
        self._news = _News()
        if self._loop is None:
            self._told(news)
            return
        # Once the loop is closed the server has stopped, and nobody waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._told, news)

    def _told(self, news: _News) -> None:
        watcher = self._watcher
        for generation in news.began:
            watcher.waiting(-1)
            watcher.running(1)
            watcher.began(generation.ending.queue_seconds)
        for count in news.shared:
            watcher.shared(count)
        for generation, token in news.tokens:
            if generation.untold:
                generation.untold = False
                watcher.first(generation.ending.first_seconds)
            generation.give([token])
        if news.tokens:
            watcher.tokens(len(news.tokens))
        for generation in news.endings:
            if generation.ending.began:
                watcher.running(-1)
                watcher.ended(generation.ending.compute_seconds)
            else:
                watcher.waiting(-1)
            generation.give([], generation.ending)


def _close(generation: Generation) -> None:
    generation.asked.text.close()
