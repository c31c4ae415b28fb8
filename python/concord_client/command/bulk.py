# SPDX-License-Identifier: Apache-2.0
"""Many rows, in chunks, several chunks in flight, answers in the rows' order.

Held in memory are the rows and answers of at most `in_flight` chunks, however long the file is.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import grpc

from concord_client import Answer, Client, ConcordError
from concord_client.command.failure import FailedError
from concord_client.command.rows import Row

Outcome: TypeAlias = Answer | ConcordError

# A chunk's rows take at most about so many bytes of the file: far below what a message may have.
_CHUNK_BYTES = 8 << 20
_TOO_LARGE = frozenset(("BATCH_TOO_LARGE", "MESSAGE_TOO_LARGE", "OUTPUT_TOO_LARGE"))
# Waits before a row that met a full queue, or a server that restarts, is sent again: some 6 s together, and the
# client's own retries.
_WAITS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
# Seconds between two looks for an interrupt while an answer is awaited.
_LOOK = 0.1
# With these no row can be answered, so that going on is no use.
_ENDS = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)


class Asked(NamedTuple):
    """What one model is asked, for every row."""

    model_id: str
    version: str
    request_id: str
    """Row n has the request id `<this>-n`; empty leaves the ids to the server."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A chunk's answers."""

    rows: Sequence[Row]
    outcomes: Sequence[Outcome]
    """One for each row."""
    position: int | None
    """How many bytes of the file had been read when the chunk was complete."""


class StoppedError(Exception):
    """No row can be answered any more; the cause is a ConcordError."""

    def __init__(self, row: int, cause: ConcordError) -> None:
        super().__init__(row, cause)
        self.row = row
        """The first row that has no answer."""
        self.cause = cause


class Bulk:
    """Asks for rows. Closes the client where it ends early, so that nothing stays under way."""

    def __init__(self, client: Client, asked: Asked, *, chunk_rows: int, in_flight: int) -> None:
        self._client = client
        self._asked = asked
        self._chunk_rows = chunk_rows
        self._in_flight = in_flight
        self._ending = threading.Event()

    def run(self, rows: Iterable[Row], position: Callable[[], int | None]) -> Generator[Answered, None, None]:
        """Yields chunks in order. position tells how far the file has been read.

        Raises StoppedError; and FailedError from rows, after the answers to those before it.
        """
        waiting: deque[tuple[list[Row], int | None, Future[list[Outcome]]]] = deque()
        complete = False
        pool = ThreadPoolExecutor(self._in_flight, thread_name_prefix="concord")
        try:
            broken: FailedError | None = None
            chunks = self._chunks(rows)
            while True:
                try:
                    chunk = next(chunks)
                except StopIteration:
                    break
                except FailedError as error:
                    broken = error
                    break
                waiting.append((chunk, position(), pool.submit(self._ask, chunk)))
                while len(waiting) >= self._in_flight:
                    yield self._first(waiting)
            while waiting:
                yield self._first(waiting)
            if broken is not None:
                raise broken
            complete = True
        finally:
            if not complete:
                self._ending.set()
                for _, _, future in waiting:
                    future.cancel()
                self._client.close()
            # A call that began while the client closed may go on to its deadline: who ends early does not wait for it.
            pool.shutdown(wait=complete, cancel_futures=True)

    def _first(self, waiting: deque[tuple[list[Row], int | None, Future[list[Outcome]]]]) -> Answered:
        rows, position, future = waiting.popleft()
        # An interrupt that comes between Python's last look for signals and the wait itself is not seen before the wait
        # ends, and that may be a call's deadline: so no wait is long.
        while not wait((future,), _LOOK).done:
            pass
        return Answered(rows, future.result(), position)

    def _chunks(self, rows: Iterable[Row]) -> Iterator[list[Row]]:
        chunk: list[Row] = []
        size = 0
        broken: FailedError | None = None
        try:
            for row in rows:
                chunk.append(row)
                size += row.size
                if len(chunk) >= self._chunk_rows or size >= _CHUNK_BYTES:
                    yield chunk
                    chunk, size = [], 0
        except FailedError as error:
            broken = error
        if chunk:
            yield chunk
        if broken is not None:
            raise broken

    def _ask(self, rows: Sequence[Row]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {row.number: row.problem for row in rows if row.problem is not None}
        pending = [row for row in rows if row.problem is None]
        for pause in (*_WAITS, None):
            if not pending:
                break
            for row, outcome in zip(pending, self._send(pending), strict=True):
                outcomes[row.number] = outcome
            again = [row for row in pending if _worth_a_retry(outcomes[row.number])]
            if pause is None or not again:
                break
            asked_for = max(_delay(outcomes[row.number]) for row in again)
            if self._ending.wait(max(pause, min(asked_for, _WAITS[-1]))):
                break
            pending = again
        for row in rows:
            outcome = outcomes[row.number]
            if row.problem is None and isinstance(outcome, ConcordError) and outcome.code in _ENDS:
                raise StoppedError(row.number, outcome)
        return [outcomes[row.number] for row in rows]

    def _send(self, rows: Sequence[Row]) -> Sequence[Outcome]:
        """One call; two of half the size where the server finds one too large, and so on."""
        most = self._chunk_rows  # another thread may have found it too large meanwhile
        if len(rows) > most:
            return [*self._send(rows[:most]), *self._send(rows[most:])]
        model_id, version, request_id = self._asked
        ids = [f"{request_id}-{row.number}" for row in rows] if request_id else None
        try:
            return self._client.predict_batch(
                model_id, [row.features for row in rows], version=version, request_ids=ids
            )
        except ConcordError as error:
            if len(rows) > 1 and _too_large(error):
                if error.reason == "BATCH_TOO_LARGE":
                    self._chunk_rows = min(self._chunk_rows, len(rows) // 2)
                half = len(rows) // 2
                return [*self._send(rows[:half]), *self._send(rows[half:])]
            return [error] * len(rows)


def _worth_a_retry(outcome: Outcome) -> bool:
    return isinstance(outcome, ConcordError) and (
        outcome.retry_delay is not None or outcome.code is grpc.StatusCode.UNAVAILABLE
    )


def _delay(outcome: Outcome) -> float:
    return (outcome.retry_delay or 0.0) if isinstance(outcome, ConcordError) else 0.0


def _too_large(error: ConcordError) -> bool:
    # Without a reason it is gRPC's own limit, on this side or on the way.
    return error.reason in _TOO_LARGE or (error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and not error.reason)
