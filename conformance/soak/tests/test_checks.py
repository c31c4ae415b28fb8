# SPDX-License-Identifier: Apache-2.0
"""The checks by themselves: counts, memory, metrics' text, versions, load."""

from __future__ import annotations

import ast
import asyncio
import math
import time
from pathlib import Path

import concord_soak
import pytest
from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_soak.actors import all_actors
from concord_soak.connection import Outcome
from concord_soak.gauges import Sample, parse_metrics, slope_per_minute
from concord_soak.load import closed_loop, open_loop
from concord_soak.output import quantile
from concord_soak.scratch import Scratch
from concord_soak.soak import Bounds, leaks
from concord_soak.stage import FIXTURES
from concord_soak.stamps import Stamps, stamp_response
from concord_soak.tally import Tally, method_of
from concord_soak.truth import PREDICT, Package, answer_problem
from concord_soak.world import actor

KEY = ("inference.v1.InferenceService", "Predict", "OK")


def test_no_room_of_a_server_is_imported() -> None:
    for path in Path(concord_soak.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("concord_server")], path


def test_every_actor_is_found_once() -> None:
    names = [one.name for one in all_actors()]
    assert {"predictions", "tensors", "batches", "reloads", "cancels", "deadlines", "bursts", "strangers"} <= set(names)
    with pytest.raises(ValueError, match="there already"):

        @actor()
        async def predictions(turn: object) -> None: ...


def test_counts_that_agree() -> None:
    tally = Tally()
    for _ in range(3):
        tally.ended(PREDICT, "OK", certain=True)
    tally.ended(PREDICT, "CANCELLED", certain=False)
    assert tally.disagreements({KEY: 3}) == []
    assert tally.disagreements({KEY: 4}) == []
    assert tally.disagreements({KEY: 3, (*KEY[:2], "CANCELLED"): 1}) == []


@pytest.mark.parametrize(
    "server", [{KEY: 2.0}, {KEY: 5.0}, {}, {KEY: 4.0, (*KEY[:2], "CANCELLED"): 1.0}, {KEY: 3.0, ("a", "b", "OK"): 1.0}]
)
def test_counts_that_disagree(server: dict[tuple[str, str, str], float]) -> None:
    tally = Tally()
    for _ in range(3):
        tally.ended(PREDICT, "OK", certain=True)
    tally.ended(PREDICT, "CANCELLED", certain=False)
    assert tally.disagreements(server)


def test_what_is_not_served_is_unknown() -> None:
    assert method_of("/inference.v1.InferenceService/Predict") == ("inference.v1.InferenceService", "Predict")
    assert method_of("/inference.v1.InferenceService/Guess") == ("unknown", "unknown")
    assert method_of("nonsense") == ("unknown", "unknown")


def test_metrics_are_read() -> None:
    scrape = parse_metrics(
        "# HELP x y\n# TYPE x counter\n"
        'x{a="1",b="q\\"u\\\\o}te"} 3\nx{a="2",b=""} 4.5e1 1700000000000\nplain 7\nend{} +Inf\n'
    )
    assert scrape.sum("x") == 48
    assert scrape.sum("x", a="1", b='q"u\\o}te') == 3
    assert scrape.sum("plain") == 7
    assert scrape.sum("absent") == 0
    assert scrape.sum("end") == math.inf
    with pytest.raises(ValueError, match="Prometheus"):
        parse_metrics("<html>")


def test_the_slope_is_that_of_a_line() -> None:
    assert slope_per_minute([(second, 1000 + 5 * second) for second in range(60)]) == pytest.approx(300)
    assert slope_per_minute([(1, 5), (1, 9)]) == 0
    assert slope_per_minute([]) == 0


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (Sample(100, 10, 10, 10, 0), ""),
        (Sample(100, 10, 15, 10, 0), "descriptors"),
        (Sample(100, 27, 10, 10, 0), "threads"),
        (Sample(100, 10, 10, 27, 0), "goroutines"),
        (Sample(100, 10, 10, 10, 1), "open streams"),
        (Sample(100, 10, 10, 10, 0, 1), "child processes"),
        (Sample(1 << 30, 10, 10, 10, 0), "memory"),
    ],
)
def test_what_is_held_too_much(after: Sample, found: str) -> None:
    problems = leaks(Sample(100, 10, 10, 10, 0), after, Bounds())
    assert bool(problems) == bool(found)
    assert all(found in problem for problem in problems)


def stamped(version: int, x: float = 5, number: int | None = None) -> bytes:
    response = service.PredictResponse.FromString(stamp_response(version, x))
    response.request_id = "r"
    response.timing.batch_rows = 1
    if number is not None:
        response.model_version = str(number)
    return response.SerializeToString()


def test_versions_answer_only_while_they_may() -> None:
    stamps = Stamps()
    stamps.may("", 1)
    early = time.perf_counter()
    assert stamps.problem("", 5, "r", stamped(1), early, early) == ""
    stamps.may("", 2)
    stamps.may_not("", 1)
    late = time.perf_counter()
    assert stamps.problem("", 5, "r", stamped(1), early, late) == ""
    assert stamps.problem("", 5, "r", stamped(2), late, late) == ""
    assert "could not" in stamps.problem("", 5, "r", stamped(1), late, late)
    assert "could not" in stamps.problem("", 5, "r", stamped(2), early, early)
    assert "could not" in stamps.problem("stable", 5, "r", stamped(2), late, late)
    assert stamps.current("") == [2]


def test_a_torn_answer_is_seen() -> None:
    stamps = Stamps()
    stamps.may("", 1)
    stamps.may("", 2)
    now = time.perf_counter()
    assert "expected" in stamps.problem("", 5, "r", stamped(1, number=2), now, now)
    torn = service.PredictResponse.FromString(stamped(1))
    torn.outputs["stamps"].float_array.values[63] = 2.0
    assert "expected" in stamps.problem("", 5, "r", torn.SerializeToString(), now, now)
    assert "expected" in stamps.problem("", 6, "r", stamped(1, 5), now, now)
    assert stamps.problem("", 5, "r", b"\xff", now, now)


def test_answers_are_compared_bit_for_bit() -> None:
    def answer(value: float, **more: object) -> bytes:
        response = service.PredictResponse(model_version="1", predictions={"y": value}, request_id="r", **more)  # type: ignore[arg-type]
        if "timing" not in more:
            response.timing.batch_rows = 1
        return response.SerializeToString()

    expected = service.PredictResponse(model_version="1", predictions={"y": 0.0}).SerializeToString(deterministic=True)

    def problem(data: bytes) -> str:
        return answer_problem(service.PredictResponse, "r", expected, data, "case")

    assert problem(answer(0.0, latency_ms=3)) == ""
    assert problem(answer(-0.0))
    assert problem(answer(0.0, seed=1))
    assert problem(answer(0.0, latency_ms=-1))
    assert problem(answer(0.0, latency_ms=math.nan))
    assert problem(answer(0.0, timing={"batch_rows": 0}))
    assert problem(b"\xff\xff")


@pytest.mark.parametrize("model_id", ["identity", "types", "arrays", "columns", "narrow", "defaults", "classifier"])
def test_the_truth_gives_the_golden_answers(model_id: str) -> None:
    package = Package(FIXTURES / model_id / "1")
    for case in package.golden.cases:
        got = package.predict(case.features)
        for name, value in case.predictions.predictions.items():
            assert got.predictions[name] == pytest.approx(value, abs=1e-5)
        for name, output in case.predictions.outputs.items():
            assert got.outputs[name].WhichOneof("value") == output.WhichOneof("value")
            if output.WhichOneof("value") != "float_array":
                assert got.outputs[name] == output


def test_a_stamp_is_what_it_says(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    scratch.bring_in(scratch.make_stamp(3))
    package = Package(scratch.package("stamp", 3))
    request = service.PredictRequest(features={"x": service.FeatureValue(float_value=4)})
    assert package.predict(request).SerializeToString(deterministic=True) == stamp_response(3, 4)
    scratch.take_out(3)
    assert not scratch.package("stamp", 3).exists()


def test_quantiles() -> None:
    values = [float(value) for value in range(1, 101)]
    assert quantile(values, 0.5) == 50
    assert quantile(values, 0.99) == 99
    assert quantile(values, 1) == 100
    assert quantile([7.0], 0.99) == 7
    assert math.isnan(quantile([], 0.5))


async def answered(number: int) -> Outcome:
    began = time.perf_counter()
    await asyncio.sleep(0.001)
    return Outcome("OK", began, time.perf_counter())


async def test_an_open_loop_sends_what_is_due_whatever_comes_back() -> None:
    load = await open_loop(500, 0.5, answered)
    assert load.sent == 250
    assert len(load.outcomes) <= 250
    assert load.seconds >= 0.49


async def test_a_closed_loop_has_one_call_each() -> None:
    under_way = highest = 0

    async def call(number: int) -> Outcome:
        nonlocal under_way, highest
        under_way += 1
        highest = max(highest, under_way)
        outcome = await answered(number)
        under_way -= 1
        return outcome

    load = await closed_loop(3, 0.1, call)
    assert highest <= 3
    assert load.answered_per_second > 0
