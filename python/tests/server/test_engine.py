# SPDX-License-Identifier: Apache-2.0
"""Queues and executors around the policy, with sessions that play ONNX Runtime and run until they are told to end."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from concord_proto.inference.v1 import model_pb2
from concord_server import batch
from concord_server.batch import Engine, Policy, Result, Settings
from concord_server.fault import Fault, Reason
from concord_server.model import Call, Measured, Model
from concord_server.tensor import DType, Tensor

ADAPTIVE = Settings(policy=Policy.ADAPTIVE)
DIRECT = Settings(policy=Policy.DIRECT)

Make = Callable[..., Engine]


class Watched:
    """A batch.Watcher that remembers."""

    def __init__(self) -> None:
        self.rows = 0
        self.most = 0
        self.waits: list[float] = []
        self.runs: list[tuple[int, int]] = []

    def queued(self, rows: int) -> None:
        self.rows += rows
        self.most = max(self.most, self.rows)

    def began(self, wait_seconds: float) -> None:
        self.waits.append(wait_seconds)

    def ran(self, requests: int, rows: int, compute_seconds: float) -> None:
        assert compute_seconds >= 0
        self.runs.append((requests, rows))


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    engines: list[Engine] = []

    def made(settings: Settings = ADAPTIVE, **more: Any) -> Engine:
        engines.append(Engine(lambda _model_id: settings, **more))
        return engines[-1]

    yield made
    for engine in engines:
        engine.close()


def model(kit: SimpleNamespace, session: Any, batchable: bool = True, **more: Any) -> Model:
    return Model("m", "1", kit.tabular, session, features="", batchable=batchable, **more)


def gate(kit: SimpleNamespace) -> Any:
    """Doubles, but the first run and all behind it wait for `open`."""
    inner = kit.doubling()
    made = kit.Gate(inner.inputs, inner.outputs)
    made.work = inner.work
    return made


def start(engine: Engine, made: Model, part: Any, call: Call | None = None) -> asyncio.Task[Result]:
    return asyncio.ensure_future(engine.answer(made, [part], [0], call or Call()))


async def begun(kit: SimpleNamespace, held: Any) -> None:
    assert await asyncio.to_thread(held.begun.wait, kit.LIMIT)


async def settle() -> None:
    """Lets all that is ready on the event loop happen."""
    for _ in range(20):
        await asyncio.sleep(0)


def quick(steady: bool) -> Measured:
    return Measured(((1, 5e-6),), ((1, 5e-6),), row_bytes=8, steady=steady)


def policy_of(engine: Engine, made: Model) -> Policy:
    return Policy(engine.execution(made).policy)


def rows(session: Any) -> list[int]:
    return [len(given[0].array) for given in session.runs]


async def reason(task: asyncio.Future[Any]) -> Reason:
    with pytest.raises(Fault) as caught:
        await task
    return caught.value.reason


async def test_who_waits_runs_together(kit: SimpleNamespace, make: Make) -> None:
    held, watched = gate(kit), Watched()
    engine, made = make(watch=lambda _id, _version: watched), model(kit, held)
    first = start(engine, made, kit.floats(1, 1))
    await begun(kit, held)
    others = [start(engine, made, kit.floats(i, i)) for i in range(2, 7)]
    await settle()
    assert watched.rows == 5
    held.open.set()
    results = await asyncio.gather(first, *others)
    assert [result.outputs[0].array.tolist() for result in results] == [[[2 * i, 2 * i]] for i in range(1, 7)]
    assert [result.rows for result in results] == [1, 5, 5, 5, 5, 5]
    assert rows(held) == [1, 5]
    assert all(result.queue_seconds > 0 for result in results)
    assert (watched.rows, watched.runs, len(watched.waits)) == (0, [(1, 1), (5, 5)], 6)
    assert not engine.busy


async def test_what_has_arrived_runs_along_with_the_first(kit: SimpleNamespace, make: Make) -> None:
    session = kit.doubling()
    engine, made = make(), model(kit, session)
    await asyncio.gather(*(start(engine, made, kit.floats(i, i)) for i in range(9)))
    assert rows(session) == [9]


async def test_nobody_joins_a_direct_model(kit: SimpleNamespace, make: Make) -> None:
    session = kit.doubling()
    engine, made = make(DIRECT), model(kit, session)
    results = await asyncio.gather(*(start(engine, made, kit.floats(i, i)) for i in range(9)))
    assert [result.rows for result in results] == [1] * 9
    assert rows(session) == [1] * 9


async def test_different_shapes_and_wanted_outputs_never_meet(kit: SimpleNamespace, make: Make) -> None:
    held = gate(kit)
    held.outputs = [*held.outputs, *held.outputs]
    held.work = lambda given: [Tensor(DType.FLOAT, given[0].array * np.float32(n)) for n in (2, 3)]
    engine, made = make(), model(kit, held)
    first = start(engine, made, kit.floats(0))
    await begun(kit, held)
    asked = [((1,), [0]), ((1, 1), [0]), ((2,), [0]), ((3,), [1]), ((2, 2), [0]), ((4,), [0, 1])]
    tasks = [asyncio.ensure_future(engine.answer(made, [kit.floats(*x)], wanted, Call())) for x, wanted in asked]
    await settle()
    held.open.set()
    results = await asyncio.gather(first, *tasks)
    assert [[tensor.array.tolist() for tensor in result.outputs] for result in results[1:]] == [
        [[[2.0]]], [[[2.0, 2.0]]], [[[4.0]]], [[[9.0]]], [[[4.0, 4.0]]], [[[8.0]], [[12.0]]],
    ]  # fmt: skip
    assert rows(held) == [1, 2, 2, 1, 1]


async def test_tensors_of_several_rows_share_an_execution(kit: SimpleNamespace, make: Make) -> None:
    held = gate(kit)
    engine, made = make(), model(kit, held)
    first = start(engine, made, kit.floats(0, 0))
    await begun(kit, held)
    tasks = [start(engine, made, kit.floats(*range(2 * n), rows=n)) for n in (2, 3)]
    empty = start(engine, made, Tensor(DType.FLOAT, np.zeros((0, 2), np.float32)))
    await settle()
    held.open.set()
    two, three, none = await asyncio.gather(*tasks, empty)
    await first
    assert [result.outputs[0].array.shape for result in (two, three, none)] == [(2, 2), (3, 2), (0, 2)]
    assert three.outputs[0].array.tolist() == [[0, 2], [4, 6], [8, 10]]
    assert (two.rows, three.rows, none.rows) == (5, 5, 1)


async def test_the_bad_row_fails_alone(kit: SimpleNamespace, make: Make) -> None:
    session = kit.doubling()
    engine, made = make(), model(kit, session)
    good, bad, other = (start(engine, made, kit.floats(i, i)) for i in (1, -1, 3))
    assert await reason(bad) is Reason.MODEL_EXECUTION_FAILED
    assert (await good).outputs[0].array.tolist() == [[2, 2]]
    assert (await other).outputs[0].array.tolist() == [[6, 6]]


async def test_a_cancel_hurts_nobody_else(kit: SimpleNamespace, make: Make) -> None:
    held = gate(kit)
    engine, made = make(), model(kit, held)
    one, two = start(engine, made, kit.floats(1, 1)), start(engine, made, kit.floats(2, 2))
    await begun(kit, held)
    behind, left = start(engine, made, kit.floats(3, 3)), start(engine, made, kit.floats(4, 4))
    await settle()
    for task in (one, behind):
        task.cancel()
    await settle()
    assert not held.terminated.is_set()
    held.open.set()
    assert (await two).outputs[0].array.tolist() == [[4, 4]]
    assert (await left).outputs[0].array.tolist() == [[8, 8]]
    assert [given[0].array.tolist() for given in held.runs] == [[[1, 1], [2, 2]], [[4, 4]]]


async def test_a_run_that_nobody_wants_is_ended(kit: SimpleNamespace, make: Make) -> None:
    held = gate(kit)
    engine, made = make(), model(kit, held)
    tasks = [start(engine, made, kit.floats(i, i)) for i in range(2)]
    await begun(kit, held)
    for task in tasks:
        task.cancel()
    assert await asyncio.to_thread(held.terminated.wait, kit.LIMIT)
    await asyncio.to_thread(kit.wait_until, lambda: not engine.busy)
    # The place is free, and whoever comes gets his answer.
    assert (await start(engine, made, kit.floats(1, 1))).outputs[0].array.tolist() == [[2, 2]]
    assert len(held.runs) == 1


async def test_a_deadline_is_told_at_once_while_the_batch_goes_on(kit: SimpleNamespace, make: Make) -> None:
    held = gate(kit)
    engine, made = make(), model(kit, held)
    hasty = start(engine, made, kit.floats(1, 1), Call(time.monotonic() + 0.05))
    patient = start(engine, made, kit.floats(2, 2))
    await begun(kit, held)
    assert await reason(hasty) is Reason.DEADLINE_EXCEEDED
    assert not patient.done()
    assert not held.terminated.is_set()
    held.open.set()
    assert (await patient).outputs[0].array.tolist() == [[4, 4]]


async def test_the_servers_own_limit_is_told_as_such(kit: SimpleNamespace, make: Make) -> None:
    held, call = gate(kit), Call(time.monotonic() + 60)
    call.within(0.02)
    task = start(make(), model(kit, held), kit.floats(1, 1), call)
    with pytest.raises(Fault, match="the server's longest time for a request passed: 20 ms") as caught:
        await task
    assert caught.value.reason is Reason.DEADLINE_EXCEEDED
    held.open.set()


async def test_none_of_10000_that_expired_or_left_runs(kit: SimpleNamespace, make: Make) -> None:
    held = gate(kit)
    engine, made = make(Settings(policy=Policy.ADAPTIVE, max_queue_rows=20_000)), model(kit, held)
    first = start(engine, made, kit.floats(0, 0))
    await begun(kit, held)
    now = time.monotonic()
    expired = [start(engine, made, kit.floats(-2, -2), Call(now + 0.2 + i * 1e-5)) for i in range(5_000)]
    left = [start(engine, made, kit.floats(-3, -3)) for _ in range(5_000)]
    last = start(engine, made, kit.floats(5, 5))
    await settle()
    for task in left:
        task.cancel()
    assert {await reason(task) for task in expired} == {Reason.DEADLINE_EXCEEDED}
    held.open.set()
    await asyncio.gather(first, last)
    assert [given[0].array.tolist() for given in held.runs] == [[[0, 0]], [[5, 5]]]


async def test_what_expires_between_queue_and_thread_does_not_run(kit: SimpleNamespace) -> None:
    session = kit.doubling()
    job = batch.queue.Job(model(kit, session), [[kit.floats(1, 1)]], [0], Call(time.monotonic() - 1), True)
    execution = batch.queue._Execution([job], 0)
    [[failure]] = execution.run()
    assert isinstance(failure, Fault)
    assert failure.reason is Reason.DEADLINE_EXCEEDED
    assert session.runs == []


async def test_a_full_queue_says_so_at_once(kit: SimpleNamespace, make: Make) -> None:
    held = gate(kit)
    engine, made = make(Settings(policy=Policy.ADAPTIVE, max_queue_rows=3)), model(kit, held)
    first = start(engine, made, kit.floats(0, 0))
    await begun(kit, held)
    waiting = [start(engine, made, kit.floats(i, i)) for i in range(1, 4)]
    await settle()
    with pytest.raises(Fault) as caught:
        engine.check_room(made)
    assert caught.value.reason is Reason.QUEUE_FULL
    text = 'the queue of model "m" version 1 is full: expected at most 3 rows to wait'
    assert (caught.value.message, caught.value.retry_seconds) == (text, 0.01)
    assert await reason(start(engine, made, kit.floats(9, 9))) is Reason.QUEUE_FULL
    # Who leaves makes room.
    waiting[0].cancel()
    await settle()
    fourth = start(engine, made, kit.floats(4, 4))
    await settle()
    held.open.set()
    await asyncio.gather(first, *waiting[1:], fourth)
    assert rows(held) == [1, 3]


async def test_a_queue_of_one_holds_one_besides_who_runs(kit: SimpleNamespace, make: Make) -> None:
    held = gate(kit)
    engine, made = make(Settings(policy=Policy.ADAPTIVE, max_queue_rows=1)), model(kit, held)
    tasks = [start(engine, made, kit.floats(i, i)) for i in range(3)]
    await settle()
    assert [task.done() for task in tasks] == [False, False, True]
    assert await reason(tasks[2]) is Reason.QUEUE_FULL
    held.open.set()
    await asyncio.gather(*tasks[:2])


async def test_more_rows_than_ever_fit_wait_alone(kit: SimpleNamespace, make: Make) -> None:
    engine = make(Settings(policy=Policy.ADAPTIVE, max_queue_rows=3))
    result = await start(engine, model(kit, kit.doubling()), kit.floats(*range(20), rows=10))
    assert result.rows == 10


async def test_a_large_call_leaves_room_for_others(kit: SimpleNamespace, make: Make) -> None:
    held, watched = gate(kit), Watched()
    settings = Settings(policy=Policy.ADAPTIVE, max_batch_rows=4, max_queue_rows=16)
    engine, made = make(settings, watch=lambda _id, _version: watched), model(kit, held)
    large = asyncio.ensure_future(engine.answer_all(made, [[kit.floats(i, i)] for i in range(100)], [0], Call()))
    await begun(kit, held)
    small = start(engine, made, kit.floats(-5, -5))
    await settle()
    held.open.set()
    assert (await small).outputs[0].array.tolist() == [[-10, -10]]
    results = await large
    assert [result.outputs[0].array[0, 0] for result in results if isinstance(result, Result)] == [
        2 * i for i in range(100)
    ]
    assert watched.most <= 5
    assert max(rows(held)) <= 4


async def test_rows_of_one_call_run_together_under_every_policy(kit: SimpleNamespace, make: Make) -> None:
    session = kit.doubling()
    results = await make(DIRECT).answer_all(model(kit, session), [[kit.floats(i, i)] for i in range(70)], [0], Call())
    assert [result.rows for result in results if isinstance(result, Result)] == [64] * 64 + [6] * 6
    session = kit.doubling()
    await make(DIRECT).answer_all(model(kit, session, False), [[kit.floats(i, i)] for i in range(3)], [0], Call())
    assert rows(session) == [1, 1, 1]


async def test_limits_change_while_requests_wait(kit: SimpleNamespace, make: Make) -> None:
    held = gate(kit)
    engine, made = make(Settings(policy=Policy.ADAPTIVE, max_queue_rows=2)), model(kit, held)
    first = start(engine, made, kit.floats(0, 0))
    await begun(kit, held)
    waiting = [start(engine, made, kit.floats(i, i)) for i in range(2)]
    await settle()
    assert await reason(start(engine, made, kit.floats(9, 9))) is Reason.QUEUE_FULL
    engine.apply(lambda _model_id: Settings(policy=Policy.DIRECT, executors=2, max_queue_rows=8))
    waiting += [start(engine, made, kit.floats(i, i)) for i in range(2, 5)]
    await settle()
    held.open.set()
    await asyncio.gather(first, *waiting)
    assert rows(held) == [1] * 6
    assert engine.execution(made).executors == 2


async def test_a_delay_waits_for_more(kit: SimpleNamespace, make: Make) -> None:
    session = kit.doubling()
    engine = make(Settings(policy=Policy.ADAPTIVE, max_batch_rows=3, max_delay_seconds=60))
    made = model(kit, session)
    first = start(engine, made, kit.floats(1, 1))
    await settle()
    assert not first.done()
    await asyncio.gather(first, *(start(engine, made, kit.floats(i, i)) for i in range(2)))
    assert rows(session) == [3]
    # Nobody waits beyond his deadline for others.
    hasty = start(engine, made, kit.floats(1, 1), Call(time.monotonic() + kit.LIMIT))
    assert (await hasty).rows == 1


async def test_quick_models_run_on_the_event_loop_and_large_requests_do_not(kit: SimpleNamespace, make: Make) -> None:
    session = kit.doubling()
    threads: list[threading.Thread] = []
    double = session.work

    def work(given: Sequence[Tensor]) -> list[Tensor]:
        threads.append(threading.current_thread())
        return list(double(given))

    session.work = work
    made = model(kit, session)
    made.learnt(quick(True))
    engine = make(Settings())
    assert engine.execution(made).policy == model_pb2.BATCHING_POLICY_INLINE
    await start(engine, made, kit.floats(1, 1))
    await start(engine, made, kit.floats(*range(2000), rows=1000))
    here = threading.current_thread()
    assert [thread is here for thread in threads] == [True, False]
    # A model whose time does not follow from the lengths of its inputs is none of these.
    made.learnt(quick(False))
    assert engine.execution(made).policy == model_pb2.BATCHING_POLICY_DIRECT


async def test_a_model_that_turns_out_slow_leaves_the_event_loop(kit: SimpleNamespace, make: Make) -> None:
    session = kit.doubling()
    double = session.work
    threads: list[threading.Thread] = []

    def work(given: Sequence[Tensor]) -> list[Tensor]:
        threads.append(threading.current_thread())
        end = time.thread_time() + 0.006
        while time.thread_time() < end:
            pass
        return list(double(given))

    session.work = work
    made = model(kit, session)
    made.learnt(quick(True))
    engine = make(Settings())
    for _ in range(4):
        await start(engine, made, kit.floats(1, 1))
    assert [thread is threading.current_thread() for thread in threads] == [True, True, True, False]


async def test_a_queue_keeps_no_model(kit: SimpleNamespace, make: Make) -> None:
    session = kit.doubling()
    engine, made = make(), model(kit, session)
    await start(engine, made, kit.floats(1, 1))
    gone = weakref.ref(made)
    gc.disable()
    try:
        del made
        await asyncio.to_thread(kit.wait_until, lambda: gone() is None)
    finally:
        gc.enable()


async def test_outputs_have_a_limit_for_each_request(kit: SimpleNamespace, make: Make) -> None:
    engine, made = make(max_output_bytes=8), model(kit, kit.doubling())
    large, small = start(engine, made, kit.floats(1, 1, 2, 2, rows=2)), start(engine, made, kit.floats(1, 1))
    with pytest.raises(Fault, match="the answer of 16 bytes is larger than the limit of 8 bytes") as caught:
        await large
    assert caught.value.reason is Reason.OUTPUT_TOO_LARGE
    assert (await small).outputs[0].array.tolist() == [[2, 2]]


SLOW, GAINS = ((1, 1e-3),), ((1, 1e-3), (8, 2e-3), (32, 6e-3))
MEASURED, MANIFEST, CONFIGURATION = 1, 2, 3


@pytest.mark.parametrize(
    ("times", "manifest", "settings", "policy", "source"),
    [
        ((), 0, Settings(), Policy.DIRECT, MEASURED),
        (SLOW, 0, Settings(), Policy.DIRECT, MEASURED),
        (GAINS, 0, Settings(), Policy.ADAPTIVE, MEASURED),
        (((1, 1e-3), (8, 7e-3), (32, 27e-3)), 0, Settings(), Policy.DIRECT, MEASURED),
        (((1, 9e-5), (8, 1e-4)), 0, Settings(), Policy.INLINE, MEASURED),
        (GAINS, 0, DIRECT, Policy.DIRECT, CONFIGURATION),
        (GAINS, Policy.DIRECT, ADAPTIVE, Policy.DIRECT, MANIFEST),
        (GAINS, Policy.DIRECT, Settings(Policy.ADAPTIVE, True), Policy.ADAPTIVE, CONFIGURATION),
        (GAINS, Policy.DIRECT, Settings(Policy.UNSPECIFIED, True), Policy.DIRECT, MANIFEST),
    ],
)
async def test_who_chooses_the_policy(
    kit: SimpleNamespace, make: Make, times: Any, manifest: int, settings: Settings, policy: Policy, source: int
) -> None:
    made = model(kit, kit.doubling(), policy=model_pb2.BatchingPolicy.Name(manifest) and manifest)
    made.learnt(Measured(times, times, 8, steady=True))
    shown = make(settings, processors=6).execution(made)
    assert (Policy(shown.policy), int(shown.source)) == (policy, source)
    adaptive = policy is Policy.ADAPTIVE
    assert (shown.executors, shown.max_batch_rows, shown.device) == (1 if adaptive else 6, 64 if adaptive else 1, "cpu")
    assert [(one.rows, one.microseconds) for one in shown.measurements] == [(n, t * 1e6) for n, t in times]


async def test_what_is_not_batchable_is_never_joined(kit: SimpleNamespace, make: Make) -> None:
    forced = make(Settings(Policy.ADAPTIVE, own_policy=True))
    made = model(kit, kit.doubling(), batchable=False)
    assert policy_of(forced, made) is Policy.DIRECT
    bare = model(kit, kit.doubling(), batchable=False, has_manifest=False)
    assert policy_of(make(ADAPTIVE), bare) is Policy.DIRECT
    # Only its owner can know, where there is no manifest.
    assert policy_of(forced, bare) is Policy.ADAPTIVE
    proved = model(kit, kit.doubling())
    proved.learnt(Measured(GAINS, GAINS, 8, unbatchable_reason="it differs"))
    shown = forced.execution(proved)
    assert Policy(shown.policy) is Policy.DIRECT
    assert (shown.max_batch_rows, shown.unbatchable_reason) == (1, "it differs")


async def test_rows_are_those_of_manifest_and_configuration(kit: SimpleNamespace, make: Make) -> None:
    made = model(kit, kit.doubling(), max_rows=8)
    for settings, wanted in (
        (Settings(Policy.ADAPTIVE), 8),
        (Settings(Policy.ADAPTIVE, max_batch_rows=4), 4),
        (Settings(Policy.ADAPTIVE, max_batch_rows=16, own_max_batch_rows=True), 16),
    ):
        assert make(settings).execution(made).max_batch_rows == wanted


def measured(kit: SimpleNamespace, session: Any, given: Sequence[Any] = (), **more: Any) -> Measured:
    inputs = given or [kit.floats(i, i) for i in (1, 2, 3)]
    return batch.measure(model(kit, session, **more), [([x], [0]) for x in inputs], steady=True)


def test_batchable_models_are_measured_by_rows(kit: SimpleNamespace) -> None:
    found = measured(kit, kit.doubling())
    assert [rows for rows, _ in found.times] == [1, 8, 32]
    assert (found.row_bytes, found.steady, found.unbatchable_reason) == (8, True, "")
    assert [rows for rows, _ in measured(kit, kit.doubling(), batchable=False).times] == [1]
    assert [rows for rows, _ in measured(kit, kit.doubling(), max_rows=8).times] == [1, 8]
    assert measured(kit, kit.doubling(), [kit.floats(-1, -1)]).times == ()
    assert batch.measure(model(kit, kit.doubling()), [], steady=True).times == ()


@pytest.mark.parametrize(
    ("work", "why"),
    [
        (
            lambda x: x - x.mean(axis=0),
            '32 rows of the golden cases together: output "y" differs from the row\'s alone',
        ),
        (lambda x: x[:1], '32 rows of the golden cases together: output "y" does not have a row for each'),
        (lambda x: x if len(x) == 1 else x + np.float32(1e-6), "32 rows of the golden cases together: output"),
    ],
)
def test_rows_that_see_each_other_are_found(kit: SimpleNamespace, work: Any, why: str) -> None:
    session = kit.doubling()
    session.work = lambda given: [Tensor(DType.FLOAT, np.asarray(work(given[0].array), np.float32))]
    found = measured(kit, session)
    assert found.unbatchable_reason.startswith(why)
    assert [rows for rows, _ in found.times] == [1]
    made = model(kit, session)
    made.learnt(found)
    assert not made.batchable


def test_a_joint_run_that_fails_is_told(kit: SimpleNamespace) -> None:
    session = kit.doubling()
    double = session.work

    def work(given: Sequence[Tensor]) -> list[Tensor]:
        if len(given[0].array) > 1:
            raise Fault(Reason.MODEL_EXECUTION_FAILED, "too many rows")
        return list(double(given))

    session.work = work
    assert measured(kit, session).unbatchable_reason == "32 rows of the golden cases together: too many rows"


def test_measuring_ends_in_time(kit: SimpleNamespace) -> None:
    session = kit.doubling()
    double, now = session.work, [0.0]

    def work(given: Sequence[Tensor]) -> list[Tensor]:
        now[0] += 0.06 * len(given[0].array)
        return list(double(given))

    session.work = work
    rows = [([kit.floats(i, i)], [0]) for i in range(4)]
    found = batch.measure(model(kit, session), rows, steady=True, clock=lambda: now[0])
    assert [rows for rows, _ in found.times] == [1]
    assert now[0] <= 3 * 0.25


def test_a_run_without_end_is_ended(kit: SimpleNamespace) -> None:
    inner = kit.doubling()
    held = kit.Gate(inner.inputs, inner.outputs)
    found = batch.measure(model(kit, held), [([kit.floats(1, 1)], [0])], steady=True, budget_seconds=0.01)
    assert held.terminated.is_set()
    assert found.times == ()


def test_operators_whose_work_follows_from_values_are_known(kit: SimpleNamespace) -> None:
    assert batch.steady(kit.identity())
    from onnx import TensorProto, helper

    node = helper.make_node("Expand", ["x", "n"], ["y"])
    expand = kit.graph([node], [("x", TensorProto.FLOAT, [1]), ("n", TensorProto.INT64, [1])], [("y", 1, [None])])
    assert not batch.steady(expand)


def test_neutral_rows(kit: SimpleNamespace) -> None:
    from concord_server.tensor import Spec

    specs = [Spec("a", DType.FLOAT, (-1, 2)), Spec("b", DType.STRING, (-1,)), Spec("c", DType.INT64, ())]
    row = batch.neutral_row(specs)
    assert row is not None
    assert [tensor.array.tolist() for tensor in row] == [[[1.0, 1.0]], [b""], 1]
    assert batch.neutral_row([Spec("a", DType.FLOAT, (1 << 40,))]) is None
