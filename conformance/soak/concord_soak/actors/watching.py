# SPDX-License-Identifier: Apache-2.0
"""Health and the catalog, which answer whatever else goes on."""

from __future__ import annotations

from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_proto.inference.v1 import model_catalog_service_pb2 as catalog
from google.protobuf.message import DecodeError

from concord_soak.world import Turn, actor

_CHECKS = ("/grpc.health.v1.Health/Check", "/inference.v1.InferenceService/Check")
_WATCH = "/grpc.health.v1.Health/Watch"
_LIST = "/inference.v1.ModelCatalogService/ListModels"
_NAMES = ("", "inference.v1.InferenceService", "InferenceService", "models/identity", "models/stamp")
_SERVING = service.HealthCheckResponse(
    status=service.HealthCheckResponse.ServingStatus.SERVING_STATUS_SERVING
).SerializeToString()


@actor(copies=2, pause=0.05)
async def health(turn: Turn) -> None:
    """SERVING, always: also while versions change and queues are full."""
    name = turn.rng.choice(_NAMES)
    request = service.HealthCheckRequest(service=name).SerializeToString()
    outcome = await turn.connection().unary(turn.rng.choice(_CHECKS), request)
    if outcome.code != "OK" or outcome.data != _SERVING:
        turn.wrong(f"health of {name!r}: expected SERVING, got {outcome} {outcome.data.hex()}")


@actor(copies=2, pause=0.2)
async def watches(turn: Turn) -> None:
    """A watch says SERVING once and then nothing, until it is cancelled."""
    name = turn.rng.choice(_NAMES)
    request = service.HealthCheckRequest(service=name).SerializeToString()
    outcome = await turn.connection().stream(_WATCH, request, cancel_after=turn.rng.uniform(0, 2))
    if outcome.code != "CANCELLED" or outcome.messages not in ([], [_SERVING]):
        turn.wrong(f"a watch of {name!r}: expected SERVING once, got {[m.hex() for m in outcome.messages]} {outcome}")


@actor(pause=0.3)
async def listings(turn: Turn) -> None:
    """Every page of the catalog: all models, each once, in order."""
    ids: list[str] = []
    token = ""
    for _ in range(100):
        request = catalog.ListModelsRequest(page_size=turn.rng.choice([0, 1, 7, 1000]), page_token=token)
        outcome = await turn.connection().unary(_LIST, request.SerializeToString())
        if outcome.code != "OK":
            turn.wrong(f"ListModels: expected models, got {outcome}")
            return
        try:
            page = catalog.ListModelsResponse.FromString(outcome.data)
        except DecodeError:
            turn.wrong("ListModels: expected a ListModelsResponse, got bytes that are none")
            return
        ids.extend(model.model_id for model in page.models)
        token = page.next_page_token
        if not token:
            break
    expected = sorted(path.name for path in turn.world.scratch.models.iterdir() if not path.name.startswith("."))
    if ids != expected:
        turn.wrong(f"ListModels: expected {expected}, got {ids}")
