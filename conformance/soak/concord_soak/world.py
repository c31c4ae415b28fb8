# SPDX-License-Identifier: Apache-2.0
"""What every actor has at hand: connections, cases with their answers, the repository, a place for what is wrong."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from concord_soak.connection import Connection, Outcome
from concord_soak.findings import Findings
from concord_soak.scratch import Scratch
from concord_soak.stamps import Stamps
from concord_soak.tally import Tally
from concord_soak.texts import TextCase
from concord_soak.truth import Case

__all__ = ["Actor", "Turn", "World", "actor", "registered"]

_CONNECTIONS = 4


@dataclass(frozen=True)
class Actor:
    """Does one thing over and over: a turn, a pause of `pause` seconds on average; `copies` of it at the same time.

    `needs` are notes (World.seen) without which a run has not done what it is for, and fails.
    """

    name: str
    turn: Callable[[Turn], Awaitable[None]]
    copies: int
    pause: float
    needs: Sequence[str]


_ACTORS: dict[str, Actor] = {}


def actor(
    *, copies: int = 1, pause: float = 0.01, needs: Sequence[str] = ()
) -> Callable[[Callable[[Turn], Awaitable[None]]], Callable[[Turn], Awaitable[None]]]:
    """Registers a function that does one turn; its name is the actor's."""

    def register(turn: Callable[[Turn], Awaitable[None]]) -> Callable[[Turn], Awaitable[None]]:
        name = turn.__name__
        if name in _ACTORS:
            raise ValueError(f"actor {name} is there already")
        _ACTORS[name] = Actor(name, turn, copies, pause, tuple(needs))
        return turn

    return register


def registered() -> list[Actor]:
    """All actors, by name."""
    return [_ACTORS[name] for name in sorted(_ACTORS)]


@dataclass
class World:
    """One server under test and all that is known about it."""

    address: str
    authority: bytes | None
    scratch: Scratch
    feature_cases: list[Case]
    tensor_cases: list[Case]
    text_cases: list[TextCase]
    tally: Tally = field(default_factory=Tally)
    findings: Findings = field(default_factory=Findings)
    stamps: Stamps = field(default_factory=Stamps)
    seen: Counter[str] = field(default_factory=Counter)
    next_stamp: int = 2
    over: bool = False
    shared: list[Connection] = field(default_factory=list)

    def open(self) -> Connection:
        """A connection of one's own; who opens it closes it."""
        return Connection(self.address, self.authority, self.tally)

    def open_shared(self) -> None:
        """Opens the connections that the actors share."""
        self.shared = [self.open() for _ in range(_CONNECTIONS)]

    async def close_shared(self) -> None:
        """Ends them."""
        for connection in self.shared:
            await connection.close()
        self.shared = []


class Turn:
    """One actor's hands: the world, its own randomness, and its name on what it finds."""

    def __init__(self, world: World, name: str, rng: random.Random) -> None:
        self.world, self.name, self.rng = world, name, rng
        self._asked = 0

    def connection(self) -> Connection:
        """One of the shared connections."""
        return self.rng.choice(self.world.shared)

    def request_id(self) -> str:
        """A new one; up to 127 bytes."""
        self._asked += 1
        return f"{self.name}-{self._asked}-{self.rng.getrandbits(32):08x}"

    def wrong(self, text: str) -> None:
        """Something is wrong with the server."""
        self.world.findings.add(self.name, text)

    def saw(self, note: str) -> None:
        """Something happened that the run is there for."""
        self.world.seen[note] += 1

    def expect(self, outcome: Outcome, code: str, reason: str, what: str) -> bool:
        """Holds an error against its code and reason; tells whether it is right."""
        if outcome.code == code and outcome.reason == reason:
            return True
        self.wrong(f"{what}: expected {code} {reason}, got {outcome}")
        return False

    async def ask(self, case: Case, connection: Connection | None = None) -> None:
        """Makes the call of a case and holds the answer against the truth. Nothing but the answer is right."""
        request_id = self.request_id()
        outcome = await (connection or self.connection()).unary(case.path, case.with_id(request_id))
        if outcome.code != "OK":
            self.wrong(f"{case.name}: expected an answer, got {outcome}")
        elif problem := case.problem(request_id, outcome.data):
            self.wrong(problem)
        else:
            self.saw("answers checked")
