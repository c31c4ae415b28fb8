# SPDX-License-Identifier: Apache-2.0
"""Holds the model catalog's answers against what was expected, and against rules that hold for every catalog."""

from __future__ import annotations

from concord_proto.conformance.v1 import suite_pb2
from concord_proto.inference.v1 import model_catalog_service_pb2, model_pb2

from concord_conformance import rules
from concord_conformance.client import Exchange
from concord_conformance.compare import clip, json_problems, plain

__all__ = ["list_models_problems", "model_problems"]


def model_problems(expect: suite_pb2.Expectation, exchange: Exchange) -> list[str]:
    """What does not hold of an answer of GetModel."""
    answer = model_catalog_service_pb2.GetModelResponse.FromString(exchange.responses[0])
    problems = _catalog_model_problems(answer.model)
    if expect.WhichOneof("response") != "model":
        return problems
    wanted, got = model_pb2.Model(), model_pb2.Model()
    wanted.CopyFrom(expect.model)
    got.CopyFrom(answer.model)
    for index, version in enumerate(got.versions):
        # Times and what is chosen from them differ from run to run; rules hold for them.
        version.ClearField("ready_time")
        if index >= len(wanted.versions) or not wanted.versions[index].HasField("execution"):
            version.ClearField("execution")
        if index < len(wanted.versions):
            wanted_error = wanted.versions[index].error
            if version.HasField("error") and not wanted_error.message:
                version.error.ClearField("message")
            if version.HasField("error"):
                version.error.ClearField("details")
    return problems + json_problems("model", plain(wanted), plain(got))


def _catalog_model_problems(model: model_pb2.Model) -> list[str]:
    """What must hold of every model of a catalog."""
    problems = []
    numbers = [version.version for version in model.versions]
    if any(rules.version_problems(number) for number in numbers):
        problems.append(f"model {model.model_id!r}: versions: expected numbers, got {numbers}")
    elif numbers != sorted(set(numbers), key=int):
        problems.append(f"model {model.model_id!r}: versions: expected rising numbers, got {numbers}")
    ready = [version.version for version in model.versions if version.state == model_pb2.MODEL_STATE_READY]
    default = ready[-1] if ready else ""
    if model.default_version != default:
        problems.append(
            f"model {model.model_id!r}: default_version: expected {default!r}, the highest that is ready, "
            f"got {model.default_version!r}"
        )
    for version in model.versions:
        here = f"model {model.model_id!r} version {version.version}"
        failed = version.state == model_pb2.MODEL_STATE_FAILED
        if failed != version.HasField("error"):
            problems.append(f"{here}: error: is set {'where it did not fail' if not failed else 'not'}")
        if failed:
            problems += [
                f"{here}: error: {problem}"
                for problem in rules.status_problems("FAILED_PRECONDITION", version.error.message, version.error)
            ]
            extra = [f.name for f, _ in version.ListFields() if f.name not in ("version", "state", "error")]
            if extra:
                problems.append(f"{here}: expected only version, state and error of a failed one, got {extra}")
        if (version.state == model_pb2.MODEL_STATE_READY) != version.HasField("ready_time"):
            problems.append(f"{here}: ready_time: is set exactly where the version is ready")
        if (version.state == model_pb2.MODEL_STATE_READY) != version.HasField("execution"):
            problems.append(f"{here}: execution: is set exactly where the version is ready")
        elif version.HasField("execution"):
            problems += [f"{here}: execution: {problem}" for problem in _execution_problems(version)]
        for feature in version.features:
            if feature.required == feature.HasField("default_value"):
                problems.append(f"{here}: feature {feature.name!r}: a default is set exactly where it is not required")
    return problems


def _execution_problems(version: model_pb2.ModelVersion) -> list[str]:
    """What must hold of how a version runs."""
    execution, problems = version.execution, []
    sizes = [
        execution.generation_slots,
        execution.context_length,
        execution.kv_cache_bytes,
        execution.prefill_chunk_tokens,
    ]
    if version.kind == model_pb2.MODEL_KIND_GENERATOR:
        # Its generations share steps, not requests executions: there is no policy.
        if min(sizes) < 1 or execution.max_queue_rows < 1 or not execution.device:
            problems.append(f"expected slots, context, memory, chunk, queue and a device, got {clip(plain(execution))}")
        return problems
    if any(sizes):
        problems.append(f"generates no text, yet has slots, context, memory or a chunk: {clip(plain(execution))}")
    if not execution.policy or not execution.source or not execution.device:
        problems.append(f"expected a policy, its source and a device, got {clip(plain(execution))}")
    if execution.executors < 1 or execution.max_batch_rows < 1 or execution.max_queue_rows < 1:
        problems.append(f"expected at least 1 executor, row and row in the queue, got {clip(plain(execution))}")
    if execution.max_batch_rows > 1 and execution.policy != model_pb2.BATCHING_POLICY_ADAPTIVE:
        problems.append(f"max_batch_rows: expected 1 where requests are not joined, got {execution.max_batch_rows}")
    if execution.unbatchable_reason and version.batchable:
        problems.append("unbatchable_reason: is set although the version is batchable")
    rows = [measurement.rows for measurement in execution.measurements]
    if rows != sorted(set(rows)) or any(m.rows < 1 or m.microseconds < 0 for m in execution.measurements):
        problems.append(f"measurements: expected rising rows and times, got {rows}")
    return problems


def list_models_problems(expect: suite_pb2.Expectation, exchange: Exchange) -> list[str]:
    """What does not hold of the pages of ListModels."""
    kind = model_catalog_service_pb2.ListModelsResponse
    pages = [kind.FromString(data) for data in exchange.pages or exchange.responses]
    size = getattr(exchange.request, "page_size", 0) or 100
    problems = []
    for index, page in enumerate(pages):
        if len(page.models) > size:
            problems.append(f"page {index}: expected at most {size} models, got {len(page.models)}")
        for model in page.models:
            problems += _catalog_model_problems(model)
    models = [model for page in pages for model in page.models]
    ids = [model.model_id for model in models]
    if ids != sorted(set(ids), key=lambda text: text.encode()):
        problems.append(f"expected ids in byte order, each once, got {clip(ids)}")
    wanted = expect.models
    problems += [f"{name!r} is missing" for name in wanted.includes if name not in ids]
    problems += [f"{name!r} is not expected" for name in wanted.excludes if name in ids]
    if wanted.first_page_count and len(pages[0].models) != wanted.first_page_count:
        problems.append(f"expected {wanted.first_page_count} models, got {len(pages[0].models)}")
    if wanted.all_pages:
        whole = kind.FromString(exchange.whole)
        if [plain(model) for model in whole.models] != [plain(model) for model in models]:
            problems.append("the pages together do not hold what one large page holds")
        if len(whole.models) <= 1000 and whole.next_page_token:
            problems.append("the whole catalog is on one page, and yet a token for more came")
    return problems
