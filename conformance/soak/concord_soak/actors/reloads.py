# SPDX-License-Identifier: Apache-2.0
"""Versions that come and go, labels that move, while others ask for them."""

from __future__ import annotations

import asyncio
import time

from concord_proto.inference.v1 import model_catalog_service_pb2 as catalog
from concord_proto.inference.v1 import model_pb2

from concord_soak.scratch import STAMP
from concord_soak.stamps import stamp_request
from concord_soak.truth import PREDICT
from concord_soak.world import Turn, actor

_GET = "/inference.v1.ModelCatalogService/GetModel"
# How long a version or label may take to be there: a bound for servers that hang, far from what any machine needs.
_BOUND_SECONDS = 120.0
_LOOK_SECONDS = 0.1


@actor(pause=1.0, needs=["reloads"])
async def reloads(turn: Turn) -> None:
    """A new version in, the label to it, the old one out; now and then a broken one that must change nothing.

    Half of the time each waits until the one before has come true; else all are there at once, as by a deployment that
    swaps one state of the repository for another.
    """
    world, at_once = turn.world, turn.rng.random() < 0.5
    (old,) = world.stamps.current("")
    if turn.rng.random() < 0.25:
        await _broken(turn)
    new = world.next_stamp
    world.next_stamp += 1
    made = await asyncio.to_thread(world.scratch.make_stamp, new)
    world.stamps.may("", new)
    world.stamps.may(str(new), new)
    world.scratch.bring_in(made)
    if at_once:
        world.stamps.may("stable", new)
        world.scratch.label({"stable": new})
        world.scratch.take_out(old)
    if not await _until(turn, f"version {new} ready", lambda model: _state(model, new) == model_pb2.MODEL_STATE_READY):
        return
    # The highest ready version is the default: from here on the old one answers no request that names none.
    world.stamps.may_not("", old)
    if not at_once:
        world.stamps.may("stable", new)
        world.scratch.label({"stable": new})
    if not await _until(turn, f"label at {new}", lambda model: model.labels.get("stable") == str(new)):
        return
    world.stamps.may_not("stable", old)
    if not at_once:
        world.scratch.take_out(old)
    if not await _until(turn, f"version {old} gone", lambda model: _state(model, old) is None):
        return
    world.stamps.may_not(str(old), old)
    turn.saw("reloads")
    if at_once:
        turn.saw("reloads all at once")


async def _broken(turn: Turn) -> None:
    number = turn.world.next_stamp
    turn.world.next_stamp += 1
    made = await asyncio.to_thread(turn.world.scratch.make_stamp, number, broken=True)
    turn.world.scratch.bring_in(made)
    if await _until(turn, f"version {number} refused", lambda m: _state(m, number) == model_pb2.MODEL_STATE_FAILED):
        outcome = await turn.connection().unary(PREDICT, stamp_request(1, str(number), turn.request_id()), passing=True)
        turn.expect(outcome, "FAILED_PRECONDITION", "MODEL_FAILED", "a version whose bytes are not the manifest's")
        turn.saw("broken versions refused")
    turn.world.scratch.take_out(number)


def _state(model: model_pb2.Model, version: int) -> int | None:
    return next((one.state for one in model.versions if one.version == str(version)), None)


async def _until(turn: Turn, what: str, holds: object) -> bool:
    assert callable(holds)  # noqa: S101
    request = catalog.GetModelRequest(model_id=STAMP).SerializeToString()
    end = time.monotonic() + _BOUND_SECONDS
    while time.monotonic() < end:
        outcome = await turn.connection().unary(_GET, request)
        if outcome.code != "OK":
            turn.wrong(f"GetModel of {STAMP}: expected the model, got {outcome}")
            return False
        if holds(catalog.GetModelResponse.FromString(outcome.data).model):
            return True
        await asyncio.sleep(_LOOK_SECONDS)
    turn.wrong(f"{what}: not within {_BOUND_SECONDS:g} s")
    return False


@actor(copies=3, pause=0.02)
async def stamped(turn: Turn) -> None:
    """Asks for whatever version serves, by nothing or by label: there always is one, and it is never a mixture."""
    name = turn.rng.choice(["", "stable"])
    x, request_id = float(turn.rng.randint(-1000, 1000)), turn.request_id()
    outcome = await turn.connection().unary(PREDICT, stamp_request(x, name, request_id), passing=True)
    if outcome.code != "OK":
        turn.wrong(f"{STAMP} {name!r}: expected an answer, got {outcome}")
    elif problem := turn.world.stamps.problem(name, x, request_id, outcome.data, outcome.began, outcome.ended):
        turn.wrong(problem)
    else:
        turn.saw("answers checked")


@actor(pause=0.05)
async def stamped_by_number(turn: Turn) -> None:
    """Asks for the newest numbers: an answer of that version, or a clear word that it is not there yet or no more."""
    number = turn.world.next_stamp - turn.rng.randint(0, 2)
    x, request_id = float(turn.rng.randint(-1000, 1000)), turn.request_id()
    outcome = await turn.connection().unary(PREDICT, stamp_request(x, str(number), request_id), passing=True)
    if outcome.code == "OK":
        name = str(number)
        if problem := turn.world.stamps.problem(name, x, request_id, outcome.data, outcome.began, outcome.ended):
            turn.wrong(problem)
        return
    allowed = {
        ("NOT_FOUND", "VERSION_NOT_FOUND", False),
        ("UNAVAILABLE", "MODEL_LOADING", True),
        ("FAILED_PRECONDITION", "MODEL_FAILED", False),
    }
    if (outcome.code, outcome.reason, outcome.retry) not in allowed:
        turn.wrong(
            f"{STAMP} version {number}: {outcome} (retry {outcome.retry}) is no answer to a version that comes or goes"
        )
