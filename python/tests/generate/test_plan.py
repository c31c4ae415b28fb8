# SPDX-License-Identifier: Apache-2.0
"""The scripts of conformance/generate/plan, and what must hold for all engines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from concord_server.generate.pace import CHUNK_STEPS, LEAST_CHUNK, Pace
from concord_server.generate.plan import Round, plan
from hypothesis import given
from hypothesis import strategies as st

SCRIPTS = sorted((Path(__file__).parents[3] / "conformance" / "generate" / "plan").glob("*.txt"))


@dataclass(eq=False)
class Seat:
    name: str
    since: float
    length: int
    cached: int = 0


class Planned:
    """An engine that only plans."""

    def __init__(self, slots: int) -> None:
        self.slots: list[Seat | None] = [None] * slots
        self.waiting: list[Seat] = []
        self.came = 0
        self.pace = Pace()
        self.most = 512
        self.last = Round([], [], -1, 0, [])
        self.beside = False
        """Whether somebody took steps beside the last chunk."""

    def come(self, name: str, prompt: int) -> None:
        self.waiting.append(Seat(name, self.came, prompt))
        self.came += 1

    def leave(self, name: str) -> None:
        self.slots = [None if seat is not None and seat.name == name else seat for seat in self.slots]
        self.waiting = [seat for seat in self.waiting if seat.name != name]

    def took(self, chunk: float | None, step: float | None) -> None:
        if chunk is not None:
            self.pace.prefilled(self.last.tokens, chunk / 1000, self.beside)
        if step is not None:
            self.pace.stepped(step / 1000)

    def at(self, slot: int) -> Seat:
        seat = self.slots[slot]
        assert seat is not None
        return seat

    def round(self) -> list[str]:
        made = self.last = plan(self.slots, self.waiting, self.pace, self.most)
        printed = []
        for slot in made.join:
            assert self.slots[slot] is None
            self.slots[slot] = self.waiting.pop(0)
            printed.append(f"join {self.at(slot).name} {slot}")
        for source, target, tokens in made.moves:
            assert self.slots[target] is None
            self.slots[target], self.slots[source] = self.slots[source], None
            assert tokens == self.at(target).cached
            printed.append(f"move {self.at(target).name} {source} {target} {tokens}")
        self.beside = any(seat is not None and seat.cached >= seat.length for seat in self.slots)
        if made.slot >= 0:
            self.at(made.slot).cached += made.tokens
            printed.append(f"chunk {self.at(made.slot).name} {made.tokens}")
        if made.decode:
            printed.append(" ".join(["step", *(self.at(slot).name for slot in made.decode)]))
        for slot in made.decode:
            self.at(slot).cached += 1
        return printed or ["idle"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts(path: Path) -> None:
    engine = Planned(0)
    printed: list[str] = []
    want: list[str] = []
    asked, expecting = 0, False
    for number, line in enumerate([*path.read_text("utf-8").splitlines(), ""], 1):
        if line == "----":
            expecting = True
        elif expecting and line:
            want.append(line)
        elif expecting:
            assert printed == want, f"line {number}"
            printed, want, expecting = [], [], False
        elif line and not line.startswith("#"):
            command, *words = line.split()
            settings = dict(word.split("=") for word in words if "=" in word)
            if command == "slots":
                engine = Planned(int(words[0]))
            elif command == "chunk":
                engine.most = int(words[0])
            elif command == "come":
                engine.come(words[0], int(settings["prompt"]))
            elif command == "leave":
                engine.leave(words[0])
            elif command == "took":
                times = {name: float(text) for name, text in settings.items()}
                engine.took(times.pop("chunk", None), times.pop("step", None))
                assert not times, line
            else:
                assert command == "round", line
                printed += engine.round()
                asked += 1
    assert asked
    assert not printed
    assert not expecting


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.integers(1, 90)),
        st.tuples(st.just("leave"), st.integers(0, 7)),
        st.tuples(st.just("round"), st.integers(0, 255)),
    ),
    max_size=60,
)


@given(st.integers(1, 8), st.integers(1, 50), ACTIONS)
def test_any(slots: int, most: int, actions: list[tuple[str, int]]) -> None:
    engine = Planned(slots)
    engine.most = most
    for action, number in actions:
        if action == "come":
            engine.come(str(engine.came), number)
        elif action == "leave":
            engine.slots[number % slots] = None
        else:
            check(engine)
            engine.took(number / 3 if engine.last.slot >= 0 else None, number)


def check(engine: Planned) -> None:
    waiting = list(engine.waiting)
    before = {seat: seat.cached for seat in (*engine.slots, *waiting) if seat is not None}
    free = engine.slots.count(None)
    engine.round()
    joined = min(free, len(waiting))
    assert engine.waiting == waiting[joined:]
    taken = [seat for seat in engine.slots if seat is not None]
    assert engine.slots[: len(taken)] == taken, "those taken are the first ones"
    unread = [seat for seat in taken if before[seat] < seat.length]
    oldest = min(unread, key=lambda seat: seat.since, default=None)
    for seat in taken:
        if seat is oldest:
            advanced = min(seat.cached, seat.length) - before[seat]
            assert 1 <= advanced <= engine.most
            if engine.beside and engine.pace.token:
                assert advanced <= max(LEAST_CHUNK, CHUNK_STEPS * engine.pace.step / engine.pace.token)
            elif engine.beside:
                assert advanced <= LEAST_CHUNK
        elif before[seat] < seat.length:
            assert seat.cached == before[seat]
        else:
            assert seat.cached == before[seat] + 1
    ready = [slot for slot, seat in enumerate(engine.slots) if seat is not None and seat.cached > seat.length]
    assert engine.last.decode == ready
