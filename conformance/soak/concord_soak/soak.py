# SPDX-License-Identifier: Apache-2.0
"""The run: warm up, a baseline, everything at once, back to the baseline, the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from concord_proto.inference.v1 import inference_service_pb2 as service

from concord_soak.actors import all_actors
from concord_soak.actors.limits import FLOOD, FLOOD_ROWS, slow_request
from concord_soak.gauges import Gauges, Sample, slope_per_minute
from concord_soak.process import Server
from concord_soak.scratch import STAMP
from concord_soak.stage import FIXTURES, MODELS, Stage, prepare
from concord_soak.texts import TEXT_MODELS, text_cases
from concord_soak.truth import PREDICT, Case, Package, answer_problem, any_cases
from concord_soak.world import Actor, Turn, World

__all__ = ["LEAST_SLOPE_SECONDS", "MOST_SLOPE_BYTES", "Bounds", "Report", "leaks", "run_soak"]

# Fixtures whose features are bound to inputs by a manifest, so that ONNX Runtime is asked here.
_FEATURES = ("identity", "types", "arrays", "columns", "narrow", "defaults", "classifier", "small-batch")
_ANY = ("float", "double", "float16", "bfloat16", "int8", "int32", "int64", "uint16", "uint64", "string", "bool")
_BEHAVIOUR = ("slow", "fail", "big", "version", "broken-sha256")
_FITTED = ("breast-cancer", "mixed", "wine", "diabetes", "digits", "sms-spam")
_CASES_EACH = 30

_SETTLE_SECONDS = 60.0
_SAMPLE_SECONDS = 1.0
_HELD = 8
# Shorter runs say nothing about a slope: caches fill and the allocator's pages come and go.
LEAST_SLOPE_SECONDS = 300.0
# A leak of 100 bytes in each of 500 calls a second is 3 MB a minute; an allocator that settles stays below.
MOST_SLOPE_BYTES = 3_000_000.0


@dataclass(frozen=True)
class Bounds:
    """How much more than at the baseline a process may hold after a run.

    Pools of threads, and of goroutines that wait for the next call, grow to what the load once needed and stay; what is
    lost with each call or connection is hundreds in the shortest run. Memory: the allocator keeps pages of the largest
    moment, which a warm-up of seconds need not have met.
    """

    descriptors: int = 4
    threads: int = 16
    tasks: int = 16
    rss_bytes: int = 128 << 20


@dataclass
class Report:
    """What a run found. It passed where `problems` is empty."""

    server: str
    seed: int
    seconds: float = 0.0
    calls: int = 0
    turns: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    rss_slope_bytes_per_minute: float = 0.0
    rss_highest_bytes: int = 0
    server_cpu_seconds: float = 0.0
    metrics_compared: bool = False
    problems: list[str] = field(default_factory=list)


async def run_soak(
    command: Sequence[str],
    *,
    name: str,
    seconds: float,
    seed: int,
    only: Sequence[str] = (),
    keep: Path | None = None,
    bounds: Bounds | None = None,
) -> Report:
    """Runs all actors (or `only` these) against a server that `command` starts.

    Raises ServerError where it does not start.
    """
    report = Report(name, seed)
    settings = {FLOOD: {"max_queue_rows": FLOOD_ROWS, "executors": 1, "batching": "direct"}}
    fixtures = [*_FEATURES, *_BEHAVIOUR, *TEXT_MODELS, *(f"any-{dtype}" for dtype in _ANY)]
    with prepare(
        command,
        fixtures=fixtures,
        flags={"max_message_bytes": 4 << 20},
        model_settings=settings,
        keep=keep,
    ) as stage:
        fitted = stage.scratch.copy(MODELS, _FITTED)
        stage.scratch.copy_as(FIXTURES / "slow", FLOOD)
        stage.scratch.bring_in(stage.scratch.make_stamp(1))
        stage.scratch.label({"stable": 1})
        feature_cases, tensor_cases = await asyncio.to_thread(_cases, stage, [*_FEATURES, *fitted], seed)
        with await asyncio.to_thread(stage.start) as server:
            texts = text_cases(random.Random(f"{seed}/texts"))  # noqa: S311
            world = World(server.grpc, stage.authority, stage.scratch, feature_cases, tensor_cases, texts)
            for label in ("", "1", "stable"):
                world.stamps.may(label, 1)
            actors = [actor for actor in all_actors() if not only or actor.name in only]
            try:
                await _run(world, server, actors, seconds, seed, report, bounds or Bounds())
            except (OSError, TimeoutError) as error:
                # What it held can no longer be read, or it no longer answers.
                how = "cannot be reached" if server.alive() else "ended by itself"
                report.problems.append(f"the server {how}: {type(error).__name__}: {error}")
            report.problems[:0] = world.findings.texts
            if world.findings.total > len(world.findings.texts):
                report.problems.append(
                    f"and {world.findings.total - len(world.findings.texts)} findings more, or the same again"
                )
            report.calls, report.seen = world.tally.calls, dict(sorted(world.seen.items()))
    return report


def _cases(stage: Stage, model_ids: Sequence[str], seed: int) -> tuple[list[Case], list[Case]]:
    rng = random.Random(f"{seed}/cases")  # noqa: S311
    features: list[Case] = []
    tensors = any_cases(rng, _CASES_EACH)
    for model_id in model_ids:
        package = Package(stage.scratch.package(model_id, 1))
        features += package.feature_cases(_CASES_EACH, rng)
        tensors += package.tensor_cases(_CASES_EACH // 3, rng)
    return features, tensors


async def _run(
    world: World,
    server: Server,
    actors: Sequence[Actor],
    seconds: float,
    seed: int,
    report: Report,
    bounds: Bounds,
) -> None:
    gauges = Gauges(server.pid, server.http)
    world.open_shared()
    await world.shared[0].ready()
    await _play(world, server, actors, max(1.0, min(20.0, seconds / 4)), f"{seed}/warm", report, None)
    await world.close_shared()
    baseline = await _settled(gauges)
    report.baseline = asdict(baseline)

    samples: list[tuple[float, float]] = []
    world.open_shared()
    began, cpu = time.monotonic(), server.cpu_seconds()
    await _play(world, server, actors, seconds, f"{seed}/run", report, (gauges, samples))
    report.seconds, report.server_cpu_seconds = time.monotonic() - began, server.cpu_seconds() - cpu
    await world.close_shared()
    await _leaks(gauges, baseline, bounds, report)
    report.rss_highest_bytes = int(max((value for _, value in samples), default=0))
    # The first third fills caches.
    report.rss_slope_bytes_per_minute = slope_per_minute(samples[len(samples) // 3 :])
    if seconds >= LEAST_SLOPE_SECONDS and report.rss_slope_bytes_per_minute > MOST_SLOPE_BYTES:
        grows, most = report.rss_slope_bytes_per_minute / 1e6, MOST_SLOPE_BYTES / 1e6
        report.problems.append(f"memory grows by {grows:.1f} MB a minute, expected at most {most:g}")
    for actor in actors:
        report.problems += [f"{actor.name}: never saw {note!r}" for note in actor.needs if not world.seen[note]]
    await _metrics(gauges, world, report)
    await _end(world, server, gauges, report)


async def _play(
    world: World,
    server: Server,
    actors: Sequence[Actor],
    seconds: float,
    seed: str,
    report: Report,
    sampling: tuple[Gauges, list[tuple[float, float]]] | None,
) -> None:
    """All actors at once for that long, then until each has ended its turn."""
    world.over = False
    tasks = [
        asyncio.create_task(_loop(world, actor, random.Random(f"{seed}/{actor.name}/{copy}"), report))  # noqa: S311
        for actor in actors
        for copy in range(actor.copies)
    ]
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            if not server.alive():
                world.findings.add("server", "ended by itself")
                break
            if sampling is not None:
                gauges, samples = sampling
                samples.append((time.monotonic(), float((await gauges.sample()).rss_bytes)))
            await asyncio.sleep(min(_SAMPLE_SECONDS, max(0.0, end - time.monotonic())))
    finally:
        world.over = True
        await asyncio.gather(*tasks)


async def _loop(world: World, actor: Actor, rng: random.Random, report: Report) -> None:
    turn = Turn(world, actor.name, rng)
    while not world.over:
        try:
            await actor.turn(turn)
        except Exception as error:
            # A defect of the actor, or an answer that it could not even read.
            turn.wrong(f"{type(error).__name__}: {error}")
        report.turns[actor.name] = report.turns.get(actor.name, 0) + 1
        pause = rng.expovariate(1 / actor.pause) if actor.pause else 0.0
        end = time.monotonic() + min(pause, 10 * actor.pause)
        while not world.over and (left := end - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, 0.25))
        await asyncio.sleep(0)


async def _settled(gauges: Gauges) -> Sample:
    """What it holds once nothing is under way and the count of descriptors has stood still."""
    end = time.monotonic() + _SETTLE_SECONDS / 2
    last = await gauges.sample()
    still = 0
    while time.monotonic() < end and still < 4:
        await asyncio.sleep(0.5)
        sample = await gauges.sample()
        same = (sample.descriptors, sample.threads, sample.children) == (last.descriptors, last.threads, last.children)
        still = still + 1 if same and not sample.open_streams else 0
        last = sample
    return last


async def _leaks(gauges: Gauges, baseline: Sample, bounds: Bounds, report: Report) -> None:
    """Waits until the process holds no more than at the baseline; what it still holds at the end has leaked."""
    end = time.monotonic() + _SETTLE_SECONDS
    while True:
        sample = await gauges.sample()
        too_much = leaks(baseline, sample, bounds)
        if not too_much or time.monotonic() > end:
            break
        await asyncio.sleep(0.5)
    report.after = asdict(sample)
    report.problems += too_much


def leaks(baseline: Sample, after: Sample, bounds: Bounds) -> list[str]:
    """What a process holds more of than it may."""
    problems = []
    for what, before, now, more in (
        ("descriptors", baseline.descriptors, after.descriptors, bounds.descriptors),
        ("threads", baseline.threads, after.threads, bounds.threads),
        ("goroutines or tasks", baseline.tasks, after.tasks, bounds.tasks),
        ("open streams", 0, after.open_streams, 0),
        ("child processes", baseline.children, after.children, 0),
        ("bytes of memory", baseline.rss_bytes, after.rss_bytes, bounds.rss_bytes),
    ):
        if before is not None and now is not None and now > before + more:
            problems.append(f"after the run: expected at most {before} + {more} {what}, got {now}")
    return problems


async def _metrics(gauges: Gauges, world: World, report: Report) -> None:
    scrape = await gauges.scrape()
    if scrape is None or "inference_requests_total" not in scrape.series:
        report.problems.append("metrics: no inference_requests_total")
        return
    report.metrics_compared = True
    report.problems += [f"metrics: {wrong}" for wrong in world.tally.disagreements(scrape.calls(STAMP))]
    waiting = scrape.sum("inference_queue_rows")
    if waiting:
        report.problems.append(f"metrics: inference_queue_rows: expected 0 where nothing waits, got {waiting:g}")


async def _end(world: World, server: Server, gauges: Gauges, report: Report) -> None:
    """Ends the server while it works: what it has taken is answered, and it says goodbye."""
    connection = world.open()
    ids = [f"held-{index}" for index in range(_HELD)]
    calls = [
        asyncio.ensure_future(connection.unary(PREDICT, slow_request("slow", 200_000, one).SerializeToString()))
        for one in ids
    ]
    # An answer on the same connection after them: the server has them all.
    check = await connection.unary("/grpc.health.v1.Health/Check", b"")
    if check.code != "OK":
        report.problems.append(f"before SIGTERM: expected health to answer, got {check}")
    # It has them; whoever is not yet in a handler may still be told to go elsewhere.
    await gauges.under_way(_HELD, 5)
    server.terminate()
    one = service.PredictResponse(model_version="1", predictions={"y": 1.0}).SerializeToString(deterministic=True)
    for request_id, outcome in zip(ids, await asyncio.gather(*calls), strict=True):
        if outcome.code != "OK":
            report.problems.append(f"a call under way at SIGTERM: expected its answer, got {outcome}")
        elif problem := answer_problem(service.PredictResponse, request_id, one, outcome.data, "slow"):
            report.problems.append(f"a call under way at SIGTERM: {problem}")
    await connection.close()
    report.problems += await asyncio.to_thread(server.end_problems)
