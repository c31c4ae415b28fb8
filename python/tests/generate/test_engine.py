# SPDX-License-Identifier: Apache-2.0
"""The engine with a network that is known: who shares runs, who leaves, what readers and watchers see."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from concord_proto.inference.v1 import inference_service_pb2
from concord_server import fault
from concord_server.fault import Fault, Reason
from concord_server.generate import Ending, Engine, Generation, Token
from concord_server.model import Call

STOP = inference_service_pb2.FINISH_REASON_STOP
LENGTH = inference_service_pb2.FINISH_REASON_LENGTH
STOP_SEQUENCE = inference_service_pb2.FINISH_REASON_STOP_SEQUENCE


def begin(engine: Engine, fakes: SimpleNamespace, *prompt: int, call: Call | None = None, **more: Any) -> Generation:
    return engine.begin(fakes.asked(engine.tokenizer, *prompt, **more), call or Call(), time.perf_counter())


def ids(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens]


def test_one_text(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder()
    engine = fakes.engine(decoder)
    tokens, ending = begin(engine, fakes, 10, 11, 12).wait()
    assert ids(tokens) == [13, 14, 15, 16, 17]
    assert "".join(token.text for token in tokens) == "13 14 15 16 17 "
    assert (ending.fault, ending.reason, ending.prompt_tokens, ending.tokens) == (None, LENGTH, 3, 5)
    assert (ending.rows, ending.seed) == (1, 0)
    assert ending.first_seconds > 0
    assert ending.rate > 0
    assert ending.compute_seconds > 0
    # The last token is never run.
    assert [len(row.tokens) for run in decoder.runs for row in run] == [3, 1, 1, 1, 1]
    assert engine.tokenizer.open == 0


def test_an_end_token_is_not_delivered(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder()
    decoder.ends_at = {13: fakes.END}
    tokens, ending = begin(fakes.engine(decoder), fakes, 10).wait()
    assert (ids(tokens), ending.reason, ending.tokens) == ([11, 12], STOP, 2)
    decoder.ends_at = {13: fakes.END, 11: fakes.END}
    tokens, ending = begin(fakes.engine(decoder), fakes, 10).wait()
    assert (tokens, ending.reason, ending.tokens, ending.first_seconds, ending.rate) == ([], STOP, 0, 0, 0)


def test_stop_texts(fakes: SimpleNamespace) -> None:
    engine = fakes.engine(fakes.FakeDecoder())
    tokens, ending = begin(engine, fakes, 10, stop=["13 1"]).wait()
    assert tokens == [Token(11, "11 "), Token(12, "12 "), Token(13, ""), Token(14, "")]
    assert (ending.reason, ending.tokens) == (STOP_SEQUENCE, 4)
    # What is held back at the end comes with its own tokens.
    tokens, ending = begin(engine, fakes, 10, stop=["14 15 16"]).wait()
    assert "".join(token.text for token in tokens) == "11 12 13 14 15 "
    assert (ids(tokens), ending.reason) == ([11, 12, 13, 14, 15], LENGTH)


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_every_text_is_the_same_whoever_runs_beside_it(fakes: SimpleNamespace, slots: int) -> None:
    decoder = fakes.FakeDecoder(slots)
    decoder.ends_at = {40: fakes.END}
    engine = fakes.engine(decoder, chunk_tokens=3)
    chance = random.Random(slots)
    prompts = [[chance.randrange(1, 38) for _ in range(chance.randrange(1, 12))] for _ in range(60)]
    limits = [chance.randrange(1, 20) for _ in prompts]
    running = [begin(engine, fakes, *prompt, limit=limit) for prompt, limit in zip(prompts, limits, strict=True)]
    for prompt, limit, generation in zip(prompts, limits, running, strict=True):
        tokens, ending = generation.wait()
        expected = list(range(prompt[-1] + 1, min(prompt[-1] + 1 + limit, 40)))
        assert ids(tokens) == expected
        assert ending.reason == (LENGTH if len(expected) == limit else STOP)
    assert min(slots, 4) <= max(len(run) for run in decoder.runs) <= slots
    # Only the first slots ever run.
    for run in decoder.runs:
        if len(run) > 1:
            assert len(run) <= max(row.slot for row in run) + 1
    assert engine.tokenizer.open == 0


def test_who_waits_comes_in_order_and_no_more_wait_than_may(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder(2)
    decoder.gate = threading.Semaphore(0)
    engine = fakes.engine(decoder, max_waiting=3)
    running = [begin(engine, fakes, 10 * i, limit=1) for i in range(1, 6)]
    with pytest.raises(Fault) as caught:
        begin(engine, fakes, 60)
    engine.tokenizer.open -= 1  # that of the one that was refused is freed with it
    full = caught.value
    assert full.reason is Reason.QUEUE_FULL
    assert full.message == 'the queue of model "m" version 1 is full: expected at most 3 generations to wait'
    assert 0.01 <= full.retry_seconds <= 5
    with pytest.raises(Fault, match="is full"):
        engine.check_room()
    decoder.gate = None
    for generation in running:
        generation.wait()
    assert [run[0].tokens for run in decoder.runs] == [[10], [20], [30], [40], [50]]
    engine.check_room()


def test_the_last_slot_moves_into_a_hole(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder(3)
    engine = fakes.engine(decoder)
    decoder.gate = threading.Semaphore(0)
    short, middle, long = (begin(engine, fakes, at, limit=limit) for at, limit in ((10, 6), (20, 9), (30, 9)))
    decoder.gate = None
    assert [len(each.wait()[0]) for each in (short, middle, long)] == [6, 9, 9]
    assert decoder.moves
    for source, target, tokens in decoder.moves:
        assert target < source
        assert tokens > 0


def test_a_long_prompt_comes_in_chunks_and_the_others_go_on(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder(2, context=400)
    engine = fakes.engine(decoder, chunk_tokens=50)
    decoder.gate = threading.Semaphore(0)
    running = begin(engine, fakes, 1, limit=30)
    fakes.wait_until(lambda: decoder.began.acquire(blocking=False))
    long = begin(engine, fakes, *([1] * 300), limit=1)
    decoder.gate = None
    assert len(running.wait()[0]) == 30
    assert len(long.wait()[0]) == 1
    pieces = [len(run[0].tokens) for run in decoder.runs if len(run[0].tokens) > 1]
    assert sum(pieces) in (299, 300)  # the last may be one token, and then looks like a step
    assert max(pieces) <= 50
    # Beside one that decodes no two pieces follow each other.
    kinds = [len(run[0].tokens) > 1 for run in decoder.runs]
    last = max(
        i for i, run in enumerate(decoder.runs) if any(row.position < 31 and len(row.tokens) == 1 for row in run)
    )
    assert not any(a and b for a, b in itertools.pairwise(kinds[:last]))


def test_a_run_that_fails_ends_only_the_one_to_blame(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder(4)
    engine = fakes.engine(decoder)
    decoder.gate = threading.Semaphore(0)
    good = [begin(engine, fakes, 10, limit=8), begin(engine, fakes, 20, limit=8)]
    bad = begin(engine, fakes, fakes.BAD - 4, limit=8)
    decoder.gate = None
    tokens, ending = bad.wait()
    assert ids(tokens) == [96, 97, 98, 99]
    assert ending.fault is not None
    assert ending.fault.reason is Reason.MODEL_EXECUTION_FAILED
    expected = 'model "m" version 1 failed on this input: Non-zero status code: 99, see <...> at <...>'
    assert ending.fault.message == expected
    assert [ids(each.wait()[0]) for each in good] == [list(range(11, 19)), list(range(21, 29))]
    prompt = begin(engine, fakes, fakes.BAD)
    assert prompt.wait()[1].fault is not None
    assert engine.tokenizer.open == 0


def test_a_defect_ends_all_and_the_next_ones_are_served(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder()
    engine = fakes.engine(decoder)
    decoder.ends_at = {50: 1000}  # that is no token of the vocabulary
    broken = begin(engine, fakes, 49, limit=5)
    assert broken.wait()[1].fault.reason is Reason.INTERNAL  # type: ignore[union-attr]
    assert ids(begin(engine, fakes, 1).wait()[0]) == [2, 3, 4, 5, 6]
    assert engine.tokenizer.open == 0


async def test_a_prompt_that_is_read_ends_at_once_when_its_caller_goes(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder(1)
    decoder.gate = threading.Semaphore(0)
    engine, watched = fakes.engine(decoder), fakes.Watched()
    engine.serve(asyncio.get_running_loop(), watched)
    generation = begin(engine, fakes, 1, 2, 3)
    assert await asyncio.to_thread(decoder.began.acquire, timeout=fakes.LIMIT)
    other = begin(engine, fakes, 5, limit=2)
    engine.leave(generation, fault.cancelled())
    tokens, ending = await generation.next()
    assert (tokens, ending and ending.fault and ending.fault.reason) == ([], Reason.CANCELLED)
    assert ending is not None
    assert ending.fault is not None
    assert (ending.fault.model_id, ending.fault.model_version) == ("m", "1")
    decoder.gate = None
    tokens, _ = await other.all()
    assert ids(tokens) == [6, 7]
    assert decoder.terminated == 1
    assert (watched.waits, watched.runs, watched.generated) == (0, 0, 2)


async def test_deadlines(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder(1)
    decoder.gate = threading.Semaphore(0)
    engine, watched = fakes.engine(decoder), fakes.Watched()
    engine.serve(asyncio.get_running_loop(), watched)
    running = begin(engine, fakes, 1, call=Call(time.monotonic() + 1.5))
    waiting = begin(engine, fakes, 1, call=Call(time.monotonic() + 1))
    for generation in (running, waiting):
        _, ending = await generation.all()
        assert ending.fault is not None
        assert ending.fault.reason is Reason.DEADLINE_EXCEEDED
    await until(lambda: not engine.busy and (watched.waits, watched.runs) == (0, 0))
    assert decoder.terminated == 1
    with pytest.raises(Fault, match="the deadline passed"):
        engine.begin(fakes.asked(engine.tokenizer, 1), Call(time.monotonic() - 1), time.perf_counter())
    engine.tokenizer.open -= 1
    # The server's own limit has a message of its own.
    call = Call()
    call.within(0.001)
    decoder.gate = threading.Semaphore(0)
    _, ending = await begin(engine, fakes, 1, call=call).all()
    assert str(ending.fault) == "the server's longest time for a request passed: 1 ms"


async def until(condition: Any) -> None:
    """Polls on the event loop until the condition holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is looked at tells nobody
            await asyncio.sleep(0.001)


async def test_a_reader_that_reads_nothing_holds_nobody_up(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder(2, context=90)
    engine, watched = fakes.engine(decoder), fakes.Watched()
    engine.serve(asyncio.get_running_loop(), watched)
    slow = begin(engine, fakes, 1, limit=60)
    quick = begin(engine, fakes, 1, limit=60)
    got: list[Token] = []
    ending: Ending | None = None
    while ending is None:
        tokens, ending = await quick.next()
        got += tokens
    assert ids(got) == list(range(2, 62))
    await until(lambda: watched.runs == 0)
    assert slow.over
    assert ids((await slow.next())[0]) == list(range(2, 62))
    assert watched.generated == 120
    assert len(watched.firsts) == len(watched.queued) == len(watched.computed) == 2


async def test_a_step_wakes_the_event_loop_once(fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    decoder = fakes.FakeDecoder(8)
    decoder.gate = threading.Semaphore(0)
    engine = fakes.engine(decoder)
    engine.serve(loop, fakes.Watched())
    calls = 0
    real = loop.call_soon_threadsafe

    def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += threading.current_thread() is not threading.main_thread()
        return real(*arguments, **more)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    running = [begin(engine, fakes, 10, limit=20) for _ in range(8)]
    decoder.gate = None
    for generation in running:
        assert len((await generation.all())[0]) == 20
    assert calls <= len(decoder.runs) + 8  # and where they got their slots
    assert sum(len(run) for run in decoder.runs) == 8 * 20


async def test_200_cancels_at_random_moments(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder(4, context=90)
    engine, watched = fakes.engine(decoder, chunk_tokens=4), fakes.Watched()
    engine.serve(asyncio.get_running_loop(), watched)
    chance = random.Random(7)
    decoder.gate = gate = threading.Semaphore(0)
    left = 0

    async def one(prompt: list[int], limit: int, after: int) -> None:
        """Reads so many tokens, then leaves; or reads to the end."""
        nonlocal left
        generation = begin(engine, fakes, *prompt, limit=limit)
        got: list[Token] = []
        ending: Ending | None = None
        while ending is None:
            if len(got) >= after:
                left += 1
                before = generation.cached
                engine.leave(generation, fault.cancelled())
                await until(lambda: generation not in engine._slots and generation not in engine._waiting)
                # It has had a part in the run that was under way, and in no other.
                assert generation.cached - before <= (4 if before < generation.length else 1)
                return
            tokens, ending = await generation.next()
            got += tokens
        assert ids(got) == list(range(prompt[-1] + 1, prompt[-1] + 1 + limit))

    async def steps() -> None:
        while True:  # a run is let through when the readers have had their turns
            if decoder.began.acquire(blocking=False):
                for _ in range(3):
                    await asyncio.sleep(0)
                gate.release()
            await asyncio.sleep(0)

    stepping = asyncio.ensure_future(steps())
    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(240):
                prompt = [chance.randrange(1, 30) for _ in range(chance.randrange(1, 20))]
                limit = chance.randrange(5, 40)
                after = chance.randrange(limit) if chance.random() < 0.9 else 1000
                group.create_task(one(prompt, limit, after))
                if chance.random() < 0.3:
                    await asyncio.sleep(0)
    finally:
        stepping.cancel()
    assert left >= 200
    await until(lambda: (engine.busy, watched.waits, watched.runs, engine.tokenizer.open) == (False, 0, 0, 0))
    decoder.gate = None
    assert ids((await begin(engine, fakes, 1, limit=3).all())[0]) == [2, 3, 4]


def test_closing_ends_all_and_frees_all(fakes: SimpleNamespace) -> None:
    decoder = fakes.FakeDecoder(1)
    decoder.gate = threading.Semaphore(0)
    engine = fakes.engine(decoder)
    running, waiting = begin(engine, fakes, 1, 2), begin(engine, fakes, 1)
    assert decoder.began.acquire(timeout=fakes.LIMIT)
    engine.close()
    assert engine.join(fakes.LIMIT)
    for generation in (running, waiting):
        ending = generation.wait()[1]
        assert ending.fault is not None
        assert ending.fault.reason is Reason.CANCELLED
    assert decoder.closed
    assert engine.tokenizer.closed
    unused = fakes.engine(fakes.FakeDecoder())
    unused.close()
    assert unused.tokenizer.closed
