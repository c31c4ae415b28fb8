# SPDX-License-Identifier: Apache-2.0
"""Text generators over a real connection, with a network that is known."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from concord_proto.inference.v1 import inference_service_pb2, model_catalog_service_pb2, model_inference_pb2, model_pb2
from concord_proto.modelpackage.v1 import golden_pb2
from concord_server import telemetry
from concord_server.admission import AdmissionError
from concord_server.batch import Engine, Settings
from concord_server.generate import Package, Sizes
from concord_server.model import SessionError
from concord_server.repository import Repository, State
from concord_server.server import Health, Server
from concord_server.server.server import SERVICE_NAMES
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

SERVICE = "/inference.v1.InferenceService"
LIMIT = 20.0

PredictRequest = inference_service_pb2.PredictRequest
PredictResponse = inference_service_pb2.PredictResponse
PredictToken = inference_service_pb2.PredictToken

STOP = inference_service_pb2.FINISH_REASON_STOP
LENGTH = inference_service_pb2.FINISH_REASON_LENGTH


def ask(text: str, *, model_id: str = "chat", request_id: str = "", max_tokens: int = 3, **config: Any) -> Any:
    """A request whose prompt goes to the tokenizer as it is."""
    request = PredictRequest(model_id=model_id, request_id=request_id)
    request.features["prompt"].string_value = text
    request.features["raw"].bool_value = True
    request.config.MergeFrom(inference_service_pb2.InferenceConfig(max_tokens=max_tokens, **config))
    return request


@dataclass
class Generators:
    """A repository.load.Generators of fakes; it keeps them."""

    fakes: SimpleNamespace
    slots: int = 2
    context: int = 64
    chunk: int = 512
    refused: str = ""
    failed: str = ""
    packages: list[Package] = field(default_factory=list)
    made: list[tuple[Any, Any]] = field(default_factory=list)

    def sizes(self, _model_id: str) -> Sizes:
        return Sizes(self.slots)

    def chunk_tokens(self, _model_id: str) -> int:
        return self.chunk

    def admit(self, package: Package, sizes: Sizes) -> None:
        assert sizes.slots == self.slots
        self.packages.append(package)
        if self.refused:
            raise AdmissionError(self.refused)

    def open(self, _package: Package, sizes: Sizes) -> tuple[Any, Any]:
        if self.failed:
            raise SessionError(self.failed)
        self.made.append((self.fakes.FakeTokenizer(), self.fakes.FakeDecoder(sizes.slots, self.context)))
        return self.made[-1]

    @property
    def decoder(self) -> Any:
        return self.made[-1][1]

    @property
    def tokenizer(self) -> Any:
        return self.made[-1][0]


@dataclass
class Running:
    """A server in this process, and a channel to it."""

    server: Server
    repository: Repository
    engine: Engine
    counts: telemetry.Counts
    generators: Generators
    channel: grpc.aio.Channel
    target: str

    def stream(self, request: Message, **options: Any) -> Any:
        return self.channel.unary_stream(
            f"{SERVICE}/StreamPredict",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=PredictToken.FromString,
        )(request, timeout=options.pop("timeout", LIMIT), **options)

    async def tokens(self, request: Message, **options: Any) -> list[Any]:
        return [message async for message in self.stream(request, **options)]

    async def until_it_fails(self, request: Message, **options: Any) -> tuple[list[int], grpc.aio.AioRpcError]:
        """The tokens that came first, and how it failed."""
        got: list[int] = []
        try:
            async for message in self.stream(request, **options):
                got.append(message.token_id)
        except grpc.aio.AioRpcError as error:
            return got, error
        raise AssertionError("it did not fail")

    async def call(self, method: str, request: Message, answer: Any, **options: Any) -> Any:
        call = self.channel.unary_unary(method)(request.SerializeToString(), timeout=LIMIT, **options)
        return answer.FromString(await call)

    async def predict(self, request: Message) -> Any:
        return await self.call(f"{SERVICE}/Predict", request, PredictResponse)

    @property
    def numbers(self) -> dict[str, Any]:
        """The metrics of chat's version 1 that are plain numbers, and how often its histograms observed."""
        rows = [row for row in self.counts.copy() if row[1][:2] == ("chat", "1")]
        named = {(name, *labels[2:]): value for name, labels, value in rows if name != "stage_duration_seconds"}
        return {
            "tokens": named.get(("tokens",), 0),
            "first": sum(named.get(("time_to_first_token_seconds",), ((), ()))[1]),
            "running": named.get(("generations", "running"), 0),
            "waiting": named.get(("generations", "waiting"), 0),
        }


async def failure(awaited: Awaitable[Any]) -> tuple[str, str, str, status_pb2.Status]:
    """The code, the reason, the message and the status of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaited
    return unpacked(caught.value)


def unpacked(error: grpc.aio.AioRpcError) -> tuple[str, str, str, status_pb2.Status]:
    metadata = error.trailing_metadata() or ()
    details = [value for key, value in metadata if key == "grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details[0])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return error.code().name, info.reason, status.message, status


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110 - what is looked at tells nobody
            await asyncio.sleep(0.001)


def golden(*cases: tuple[str, Sequence[int], int]) -> bytes:
    made = golden_pb2.GoldenSet()
    for prompt, ids, reason in cases:
        case = made.cases.add()
        case.features.CopyFrom(ask(prompt, model_id=""))
        case.predictions.outputs["text"].string_value = "".join(f"{token} " for token in ids)
        case.predictions.outputs["token_ids"].int64_array.values.extend(ids)
        case.predictions.finish_reason = reason  # type: ignore[assignment]
    return made.SerializeToString()


def write(root: Path, document: dict[str, Any] | None, cases: bytes, version: str = "1", **more: bytes) -> Path:
    """A package of kind generator, or a bare folder."""
    files = {"model.onnx": b"graph", "genai_config.json": b"{}", "tokenizer.json": b"{}", "chat_template.jinja": b"x"}
    files |= {name.replace("__", "."): data for name, data in more.items()}
    directory = root / "chat" / version
    directory.mkdir(parents=True)
    if document is not None:
        files["golden.binpb"] = cases
        listed = [
            {"name": name, "sha256": hashlib.sha256(data).hexdigest(), "sizeBytes": str(len(data))}
            for name, data in files.items()
        ]
        (directory / "manifest.json").write_text(json.dumps({"files": listed, **document}))
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


GENERATOR = {"kind": "MODEL_KIND_GENERATOR", "description": "counts"}
CASES = golden(("10 11", (12, 13, 14), LENGTH))

Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(fakes: SimpleNamespace, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a server on the generator "chat", version 1, whose next token is the last one and one more."""
    running: list[Running] = []

    async def make(
        *,
        document: dict[str, Any] | None = GENERATOR,
        cases: bytes = CASES,
        settings: Settings | None = None,
        require_manifest: bool = False,
        files: dict[str, bytes] | None = None,
        server_options: dict[str, Any] | None = None,
        **more: Any,
    ) -> Running:
        root = tmp_path / f"models{len(running)}"
        write(root, document, cases, **(files or {}))
        generators = Generators(fakes, **more)
        counts = telemetry.Counts()

        def state(model_id: str, version: str, state: State | None) -> None:
            counts.set_state(model_id, version, state and state.name.lower())

        health = Health(SERVICE_NAMES)
        repository = Repository(
            root,
            lambda _graph, _files: pytest.fail("a generator is no session"),
            generators=generators,
            require_manifest=require_manifest,
            changed=health.set_model,
            state=state,
        )
        engine = Engine(lambda _model_id: settings or Settings())
        options: dict[str, Any] = {"max_message_bytes": 1 << 20, "max_batch_requests": 20, "reflection": False}
        server = Server(
            repository, health, engine, watch_generations=counts.watch_generations, **options, **(server_options or {})
        )
        repository.list()
        port = await server.start("127.0.0.1:0", None)
        await asyncio.to_thread(repository.load)
        health.set_serving()
        target = f"127.0.0.1:{port}"
        channel = grpc.aio.insecure_channel(target)
        running.append(Running(server, repository, engine, counts, generators, channel, target))
        return running[-1]

    yield make
    for one in running:
        for _, decoder in one.generators.made:
            decoder.gate = None
        await one.channel.close()
        await one.server.drain(0, 0)
        one.engine.close()


async def test_a_stream(start: Start) -> None:
    running = await start()
    messages = await running.tokens(ask("10 11", request_id="r-é"))
    *tokens, final = messages
    assert [(m.token, m.token_id, m.token_index) for m in tokens] == [("12 ", 12, 0), ("13 ", 13, 1), ("14 ", 14, 2)]
    for message in messages:
        assert (message.request_id, message.model_version) == ("r-é", "1")
    for message in tokens:
        assert not message.is_final
        assert (message.finish_reason, message.HasField("usage"), message.HasField("timing")) == (0, False, False)
    assert (final.is_final, final.token, final.token_index, final.token_id) == (True, "", 3, 0)
    assert (final.finish_reason, final.seed) == (LENGTH, 0)
    assert (final.usage.prompt_tokens, final.usage.completion_tokens) == (2, 3)
    assert final.timing.batch_rows == 1
    assert final.timing.time_to_first_token_ms > 0
    assert final.timing.tokens_per_second > 0
    assert final.timing.compute_ms > 0
    await until(lambda: running.numbers == {"tokens": 3, "first": 1, "running": 0, "waiting": 0})


async def test_a_whole_text(start: Start) -> None:
    running = await start()
    answer = await running.predict(ask("10", request_id="r", max_tokens=4))
    assert answer.outputs["text"].string_value == "11 12 13 14 "
    assert list(answer.outputs["token_ids"].int64_array.values) == [11, 12, 13, 14]
    assert (answer.request_id, answer.model_version, answer.finish_reason, answer.seed) == ("r", "1", LENGTH, 0)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 4)
    assert answer.latency_ms >= answer.timing.compute_ms > 0
    assert set(answer.outputs) == {"text", "token_ids"}
    assert not answer.predictions
    running.generators.decoder.ends_at = {11: 0}
    answer = await running.predict(ask("10"))
    assert answer.outputs["text"].string_value == ""
    assert answer.outputs["token_ids"].WhichOneof("value") == "int64_array"
    assert (answer.finish_reason, answer.usage.completion_tokens) == (STOP, 0)
    assert answer.timing.time_to_first_token_ms == 0


async def test_seeds(start: Start) -> None:
    running = await start()

    async def seed(request: Any) -> int:
        (*_, final) = await running.tokens(request)
        answer = await running.predict(request)
        if request.request_id or request.config.HasField("seed"):
            assert final.seed == answer.seed
        return int(answer.seed)

    assert await seed(ask("10", max_tokens=1, temperature=1, seed=(1 << 64) - 1)) == (1 << 64) - 1
    assert await seed(ask("10", max_tokens=1, temperature=1, seed=0, request_id="r")) == 0
    assert await seed(ask("10", seed=5)) == 0  # greedy
    by_id = int.from_bytes(hashlib.sha256(b"r").digest()[:8], "little")
    assert await seed(ask("10", max_tokens=1, temperature=1, request_id="r")) == by_id
    assert await seed(ask("10", max_tokens=1, temperature=1)) != await seed(ask("10", max_tokens=1, temperature=1))


async def test_a_batch_runs_side_by_side(start: Start) -> None:
    running = await start(slots=3)
    requests = [ask(str(10 * i), request_id=f"r{i}", max_tokens=9) for i in range(1, 7)]
    requests[2] = ask("99", request_id="bad")
    requests[3].config.top_p = 7
    batch = inference_service_pb2.BatchPredictRequest(requests=requests)
    answer = await running.call(f"{SERVICE}/BatchPredict", batch, inference_service_pb2.BatchPredictResponse)
    results = [result.WhichOneof("result") for result in answer.results]
    assert results == ["response", "response", "error", "error", "response", "response"]
    for i in (1, 2, 5, 6):
        response = answer.results[i - 1].response
        assert response.request_id == f"r{i}"
        assert list(response.outputs["token_ids"].int64_array.values) == list(range(10 * i + 1, 10 * i + 10))
    assert answer.results[2].error.message == (
        'model "chat" version 1 failed on this input: Non-zero status code: 99, see <...> at <...>'
    )
    assert max(len(run) for run in running.generators.decoder.runs) > 1


async def test_what_is_no_generator_s(start: Start) -> None:
    running = await start()
    tensors = model_inference_pb2.PredictionRequest(model_id="chat")
    call = running.call("/inference.v1.ModelInference/Predict", tensors, model_inference_pb2.PredictionResponse)
    assert (await failure(call))[:3] == (
        "FAILED_PRECONDITION",
        "METHOD_NOT_SUPPORTED",
        'model "chat" is generator: it takes no tensors',
    )


async def test_a_run_that_fails_midway(start: Start) -> None:
    running = await start()
    got, error = await running.until_it_fails(ask("96", max_tokens=9))
    code, reason, text, _ = unpacked(error)
    assert got == [97, 98, 99]
    assert (code, reason) == ("INTERNAL", "MODEL_EXECUTION_FAILED")
    assert text == 'model "chat" version 1 failed on this input: Non-zero status code: 99, see <...> at <...>'
    assert len(await running.tokens(ask("10"))) == 4


async def test_a_caller_who_goes_frees_the_slot(start: Start) -> None:
    running = await start(slots=1, context=90)
    decoder = running.generators.decoder
    decoder.gate = threading.Semaphore(2)
    call = running.stream(ask("10", max_tokens=50))
    assert (await call.read()).token_id == 11
    for _ in range(3):  # the third run waits at the gate: only a run that is under way is terminated
        await until(lambda: decoder.began.acquire(blocking=False))
    call.cancel()
    await until(lambda: decoder.terminated)
    decoder.gate = None
    assert len(await running.tokens(ask("10"))) == 4
    await until(lambda: running.numbers["running"] == 0)
    # While its prompt is read, too; and one that waits.
    decoder.gate = threading.Semaphore(0)
    while decoder.began.acquire(blocking=False):
        pass
    reading = running.stream(ask("1 2 3 4"))
    await until(lambda: decoder.began.acquire(blocking=False))
    waiting = running.stream(ask("1 2"))
    await until(lambda: running.numbers["waiting"] == 1)
    waiting.cancel()
    await until(lambda: running.numbers["waiting"] == 0)
    reading.cancel()
    await until(lambda: running.numbers["running"] == 0)
    assert decoder.terminated == 2
    assert running.generators.tokenizer.open == 0


async def test_deadlines(start: Start) -> None:
    running = await start(slots=1)
    decoder = running.generators.decoder
    decoder.gate = threading.Semaphore(3)
    got, error = await running.until_it_fails(ask("10", max_tokens=50), timeout=3)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert got == [11, 12, 13]
    await until(lambda: running.numbers["running"] == 0)


async def test_the_server_s_own_limit(start: Start) -> None:
    running = await start(slots=1, server_options={"max_request_seconds": 0.1})
    running.generators.decoder.gate = threading.Semaphore(2)
    for call in (running.tokens(ask("10", max_tokens=50)), running.predict(ask("10", max_tokens=50))):
        assert (await failure(call))[:3] == (
            "DEADLINE_EXCEEDED",
            "DEADLINE_EXCEEDED",
            "the server's longest time for a request passed: 100 ms",
        )
    await until(lambda: running.numbers["running"] == 0)


async def test_a_full_queue(start: Start) -> None:
    running = await start(slots=1, settings=Settings(max_queue_rows=1))
    decoder = running.generators.decoder
    decoder.gate = threading.Semaphore(0)
    held = [asyncio.ensure_future(running.tokens(ask("10"))) for _ in range(2)]
    await until(lambda: (running.numbers["running"], running.numbers["waiting"]) == (1, 1))
    for call in (running.tokens(ask("10")), running.predict(ask("10"))):
        code, reason, text, status = await failure(call)
        assert (code, reason) == ("RESOURCE_EXHAUSTED", "QUEUE_FULL")
        assert text == 'the queue of model "chat" version 1 is full: expected at most 1 generations to wait'
        assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    decoder.gate = None
    for one in held:
        assert len(await one) == 4


async def test_a_caller_who_reads_nothing(start: Start) -> None:
    running = await start(slots=2, context=90, server_options={"max_request_seconds": 3.0})
    # So much of it that no window takes it, however large.
    request = ask("1", request_id="x" * 500_000, max_tokens=80)
    slow = running.stream(request)
    await until(lambda: running.numbers["running"] == 0 and running.numbers["tokens"] >= 80)
    assert len(await running.tokens(ask("10"))) == 4
    # Its call ends with the server's limit, though nobody reads that either.
    await until(lambda: running.counts.open_calls == 0)
    await until(lambda: not running.server._under_way.now())
    slow.cancel()


async def test_what_the_catalog_shows(start: Start) -> None:
    running = await start(settings=Settings(max_queue_rows=7), chunk=33)
    request = model_catalog_service_pb2.GetModelRequest(model_id="chat")
    answer = await running.call(
        "/inference.v1.ModelCatalogService/GetModel", request, model_catalog_service_pb2.GetModelResponse
    )
    (version,) = answer.model.versions
    assert (version.kind, version.verified, version.batchable) == (model_pb2.MODEL_KIND_GENERATOR, True, True)
    assert [feature.name for feature in version.features] == ["prompt", "messages", "raw", "system"]
    assert all(feature.description and feature.HasField("default_value") for feature in version.features)
    assert [output.name for output in version.outputs] == ["text", "token_ids"]
    assert not version.input_tensors
    assert not version.output_tensors
    assert version.execution == model_pb2.Execution(
        executors=1,
        max_batch_rows=2,
        max_queue_rows=7,
        device="cpu",
        generation_slots=2,
        context_length=64,
        kv_cache_bytes=4096,
        prefill_chunk_tokens=33,
    )


@pytest.mark.parametrize(
    ("cases", "why"),
    [
        (b"", "golden.binpb: expected at least 1 case, got 0"),
        (
            golden(("10 11", (12, 13, 15), LENGTH)),
            'golden case 0: output "text": expected "12 13 15 ", got "12 13 14 "',
        ),
        (golden(("10 11", (12, 13, 14), STOP)), "golden case 0: finish_reason: expected STOP, got LENGTH"),
        (
            golden(("99", (), STOP)),
            'golden case 0: model "chat" version 1 failed on this input: Non-zero status code: 99, see <...> at <...>',
        ),
    ],
    ids=["none", "another text", "another end", "failed"],  # not the bytes: maps have no order in them
)
async def test_golden_texts_must_be_the_very_same(start: Start, cases: bytes, why: str) -> None:
    running = await start(cases=cases)
    code, _, text, _ = await failure(running.predict(ask("10")))
    assert (code, text) == ("FAILED_PRECONDITION", f'model "chat" version 1 failed to load: {why}')
    # What failed is freed.
    gc.collect()
    await until(lambda: running.generators.decoder.closed and running.generators.tokenizer.closed)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"document": {**GENERATOR, "predictions": [{"prediction": {"name": "a"}, "output": "y"}]}},
            "kind generator: expected no features, predictions and outputs in the manifest",
        ),
        ({"refused": "operator Evil is not admitted"}, "operator Evil is not admitted"),
        ({"failed": "no such token at /opt/x"}, "no such token at <...>"),
        ({"document": None, "require_manifest": True}, "manifest.json is missing, and this server requires it"),
    ],
)
async def test_packages_that_are_refused(start: Start, changes: dict[str, Any], why: str) -> None:
    running = await start(**changes)
    text = (await failure(running.tokens(ask("10"))))[2]
    assert text == f'model "chat" version 1 failed to load: {why}'


async def test_a_bare_folder(start: Start) -> None:
    files = {"README__md": b"no", "vocab__json": b"{}", "model__onnx__data": b"weights"}
    running = await start(document=None, files=files)
    (package,) = running.generators.packages
    assert set(package.files) == {"genai_config.json", "tokenizer.json", "chat_template.jinja", "vocab.json"}
    assert (package.graph, dict(package.external)) == (b"graph", {"model.onnx.data": b"weights"})
    assert (await running.tokens(ask("10")))[-1].usage.completion_tokens == 3
    (version,) = running.repository.entry("chat").versions
    assert version.about is not None
    assert not version.about.verified


async def test_a_version_that_is_replaced_finishes_its_texts(start: Start, fakes: SimpleNamespace) -> None:
    running = await start(context=90)
    old = running.generators.decoder
    old.gate = threading.Semaphore(2)
    call = running.stream(ask("10", max_tokens=30))
    assert (await call.read()).token_id == 11
    model = weakref.ref(running.repository.resolve("chat", ""))
    directory = running.repository._directory / "chat/1"
    (directory / "chat_template.jinja").unlink()
    (directory / "manifest.json").unlink()
    (directory / "golden.binpb").unlink()

    def loaded() -> bool:
        for load in running.repository.look():
            load.result(LIMIT)
        return len(running.generators.made) == 2

    await until(loaded)
    assert running.repository.resolve("chat", "") is not model()
    # The new one answers, the old one goes on.
    assert len(await running.tokens(ask("20"))) == 4
    assert not old.closed
    old.gate = None
    rest = [(await call.read()).token_id for _ in range(29)]
    assert [11, *rest] == list(range(11, 41))
    assert (await call.read()).is_final
    await until(lambda: gc.collect() is not None and old.closed)
    assert model() is None
    assert running.numbers["running"] == 0


async def test_draining_waits_for_texts(start: Start) -> None:
    running = await start(context=90)
    decoder = running.generators.decoder
    decoder.gate = threading.Semaphore(1)
    call = running.stream(ask("10", max_tokens=20))
    assert (await call.read()).token_id == 11
    draining = asyncio.ensure_future(running.server.drain(0, LIMIT))
    await asyncio.sleep(0)
    decoder.gate = None
    for _ in range(19):
        await call.read()
    assert (await call.read()).usage.completion_tokens == 20
    await draining
    assert not running.server.generations.busy
