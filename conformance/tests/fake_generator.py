# SPDX-License-Identifier: Apache-2.0
"""A server of texts, as small as the cases of stream let it be: the suite's own reference, a token at a time, in slots.

It knows `identity`, `token-lm` and `tiny-chat`. `--fault` names the one thing that it does wrong; a test holds the
runner to noticing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import grpc
import numpy as np
import prometheus_client as prometheus
from concord_proto.inference.v1 import inference_service_pb2 as service
from fake_engine import Refused, serve_http
from fake_server import PREDICT, STREAM, answer
from generator_reference import DEFAULT_TOKENS, Reference, Settings, sample, seed_of, stop_at

FAULTS = (
    "says no end",
    "delivers the end",
    "keeps all back",
    "splits characters",
    "loses slots",
    "forgets who left",
    "never refuses",
    "waits for readers",
    "fails well",
    "fails neighbours",
    "counts from one",
    "draws seeds",
    "tells no seed",
    "one too many",
    "delivers the stop",
    "drops held text",
    "cuts prompts",
    "predicts otherwise",
)
NAMES = ("token-lm", "tiny-chat")


class Metrics:
    """Generations by state."""

    def __init__(self) -> None:
        self.registry = prometheus.CollectorRegistry()
        labels = ["model", "version", "state"]
        self.generations = prometheus.Gauge("inference_generations", "texts", labels, registry=self.registry)
        self.open = prometheus.Gauge("inference_open_streams", "calls", registry=self.registry)


class Slots:
    """The places of one model."""

    def __init__(self, engine: Engine, model_id: str) -> None:
        settings = engine.config.get("model_settings", {}).get(model_id, {})
        self._engine, self._model_id = engine, model_id
        self._free = asyncio.Semaphore(settings.get("generation_slots", 8))
        self._most = settings.get("max_queue_rows", 1024)
        self._counts = {"running": 0, "waiting": 0}

    def move(self, state: str, by: int) -> None:
        """Counts."""
        self._counts[state] += by
        self._engine.metrics.generations.labels(self._model_id, "1", state).set(self._counts[state])

    async def take(self) -> None:
        """Waits for a slot, or refuses."""
        if self._free.locked() and self._counts["waiting"] >= self._most and self._engine.fault != "never refuses":
            message = (
                f'the queue of model "{self._model_id}" version 1 is full: '
                f"expected at most {self._most} generations to wait"
            )
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", message, retry=True)
        self.move("waiting", 1)
        try:
            await self._free.acquire()
        except asyncio.CancelledError:
            if self._engine.fault != "forgets who left":
                self.move("waiting", -1)
            raise
        self.move("waiting", -1)
        self.move("running", 1)

    def give(self) -> None:
        """Frees the slot."""
        self.move("running", -1)
        self._free.release()


class Engine:
    """The server."""

    def __init__(self, models: Path, config: dict[str, Any], fault: str) -> None:
        self.config, self.fault = config, fault
        self.metrics = Metrics()
        self.serving = True
        self._models = {name: Reference(models / name / "1") for name in NAMES if (models / name).is_dir()}
        self._slots = {name: Slots(self, name) for name in self._models}
        self._made = 0
        self._failing = 0

    async def text(self, request: service.PredictRequest) -> AsyncIterator[service.PredictToken]:
        """A text's messages, the final one too."""
        reference, slots = self._models[request.model_id], self._slots[request.model_id]
        prompt = reference.encode(self._prompt(reference, request))
        if len(prompt) >= reference.context:
            if self.fault != "cuts prompts":
                most = f"expected at most {reference.context - 1} tokens"
                message = f'feature "prompt": {most}, the chat template\'s included, got {len(prompt)}'
                raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "PROMPT_TOO_LONG", message, field='features["prompt"]')
            prompt = prompt[: reference.context - 1]
        settings = self._settings(request)
        await slots.take()
        try:
            async for token in self._tokens(reference, prompt, settings):
                token.model_version = "1"
                yield token
        except asyncio.CancelledError:
            if self.fault == "loses slots":
                slots.move("running", 1)
                slots._free = asyncio.Semaphore(0)
            raise
        finally:
            slots.give()

    def _prompt(self, reference: Reference, request: service.PredictRequest) -> str:
        features = {name: value.string_value for name, value in request.features.items()}
        if request.features["raw"].bool_value:
            return features.get("prompt", "")
        said = [(m["role"], m["content"]) for m in json.loads(features.get("messages") or "[]")]
        said = said or [("user", features.get("prompt", ""))]
        return reference.chat(*([("system", features["system"])] if features.get("system") else []), *said)

    def _settings(self, request: service.PredictRequest) -> Settings:
        config = request.config
        seed = config.seed
        if not config.HasField("seed"):
            derived = request.request_id and self.fault != "draws seeds"
            seed = seed_of(request.request_id) if derived else secrets.randbits(64)
        return Settings(
            config.max_tokens or DEFAULT_TOKENS,
            config.temperature,
            config.top_k,
            config.top_p,
            seed if config.temperature else 0,
            tuple(config.stop),
        )

    async def _tokens(
        self, reference: Reference, prompt: list[int], settings: Settings
    ) -> AsyncIterator[service.PredictToken]:
        logits, cache = await self._run(reference, prompt, 0, reference.empty())
        made: list[int] = []
        pieces: list[str] = []
        open_from, sent, finish = 0, 0, ""
        while not finish:
            index = len(made) + (self.fault == "counts from one")
            token = int(np.argmax(logits)) if not settings.temperature else _sampled(logits, settings, index)
            if token in reference.ends and (self.fault != "delivers the end" or made[-1:] == [token]):
                finish = "STOP"
                break
            made.append(token)
            pieces.append(reference.pieces(made[open_from:])[-1])
            open_from = len(made) if pieces[-1] else open_from
            most = min(settings.max_tokens, reference.context - len(prompt)) + (self.fault == "one too many")
            if settings.stop and stop_at("".join(pieces), settings.stop) is not None:
                finish = "STOP_SEQUENCE"
            elif len(made) >= most:
                finish = "LENGTH"
            for message in self._settled(pieces, made, settings, sent, whole=bool(finish)):
                yield message
                sent += 1
            if not finish:
                logits, cache = await self._run(reference, [token], len(prompt) + len(made) - 1, cache)
        if self.fault != "drops held text":
            for message in self._settled(pieces, made, settings, sent, whole=True):
                yield message
                sent += 1
        if self.fault == "says no end":
            return
        final = service.PredictToken(is_final=True, token_index=sent, seed=settings.seed)
        final.seed = 0 if self.fault == "tells no seed" else settings.seed
        final.finish_reason = service.FinishReason.Value(f"FINISH_REASON_{finish}")
        final.usage.prompt_tokens, final.usage.completion_tokens = len(prompt), sent
        final.timing.batch_rows = 1
        yield final

    def _settled(
        self, pieces: list[str], made: list[int], settings: Settings, sent: int, *, whole: bool
    ) -> list[service.PredictToken]:
        """The messages that can go out, of those that have not."""
        if not settings.stop:
            return [self._message(pieces[index], made[index], index) for index in range(sent, len(made))]
        text = "".join(pieces)
        end = stop_at(text, settings.stop)
        if end is None or self.fault == "delivers the stop":
            end = len(text)
            if not whole:
                end -= max((_held(text, stop) for stop in settings.stop), default=0)
        messages = []
        at = sum(map(len, pieces[:sent]))
        for index in range(sent, len(made)):
            if at + len(pieces[index]) > end and not whole:
                break
            word = pieces[index][: max(0, end - at)]
            at += len(pieces[index])
            messages.append(self._message(word, made[index], index))
        return messages

    def _message(self, word: str, token_id: int, index: int) -> service.PredictToken:
        if self.fault == "splits characters" and not word:
            word = "\ufffd"
        return service.PredictToken(token=word, token_id=token_id, token_index=index)

    async def _run(self, reference: Reference, tokens: list[int], position: int, cache: Any) -> tuple[Any, Any]:
        before = self._failing
        try:
            found = await asyncio.to_thread(reference.run, tokens, position, cache)
        except Exception:
            self._failing += 1
            raise _failed() from None
        if self.fault == "fails neighbours" and self._failing != before:
            raise _failed()
        return found

    # --- calls

    async def stream(self, data: bytes, context: Any) -> None:
        """StreamPredict. What has been made waits for its reader, not the other way round."""
        request = service.PredictRequest.FromString(data)
        self._made += 1
        request_id = request.request_id or f"made-{self._made}"
        made: asyncio.Queue[service.PredictToken | Refused | None] = asyncio.Queue(
            1 if self.fault == "waits for readers" else 0
        )

        async def produce() -> None:
            try:
                async for token in self.text(request):
                    await made.put(token)
                await made.put(None)
            except Refused as refused:
                await made.put(refused)

        self.metrics.open.inc()
        producer = asyncio.create_task(produce())
        held = []
        try:
            while (token := await made.get()) is not None:
                if isinstance(token, Refused):
                    if self.fault == "fails well" and token.reason == "MODEL_EXECUTION_FAILED":
                        break
                    await _abort(context, token)
                token.request_id = request_id
                if self.fault == "keeps all back":
                    held.append(token.SerializeToString())
                else:
                    await context.write(token.SerializeToString())
            for message in held:
                await context.write(message)
        finally:
            producer.cancel()
            await asyncio.gather(producer, return_exceptions=True)
            self.metrics.open.dec()

    async def predict(self, data: bytes, context: Any) -> bytes:
        """Predict."""
        request = service.PredictRequest.FromString(data)
        self._made += 1
        request_id = request.request_id or f"made-{self._made}"
        if request.model_id not in self._models:
            if not request.model_id:
                message = "model_id: expected [A-Za-z0-9][A-Za-z0-9._-]{0,127}, got nothing"
                await _abort(context, Refused(grpc.StatusCode.INVALID_ARGUMENT, "MODEL_ID_INVALID", message))
            return answer(request, request_id).SerializeToString()
        response = service.PredictResponse(request_id=request_id, model_version="1", latency_ms=0.01)
        ids = response.outputs["token_ids"].int64_array.values
        words = []
        try:
            async for token in self.text(request):
                if token.is_final:
                    response.finish_reason, response.seed = token.finish_reason, token.seed
                    response.usage.CopyFrom(token.usage)
                    response.timing.CopyFrom(token.timing)
                else:
                    ids.append(token.token_id)
                    words.append(token.token)
        except Refused as refused:
            await _abort(context, refused)
        response.outputs["text"].string_value = "".join(words) + ("." if self.fault == "predicts otherwise" else "")
        return response.SerializeToString()


def _failed() -> Refused:
    message = 'model "token-lm" version 1 failed on this input: a table\'s end'
    about = {"model_id": "token-lm", "model_version": "1"}
    return Refused(grpc.StatusCode.INTERNAL, "MODEL_EXECUTION_FAILED", message, about=about)


def _sampled(logits: Any, settings: Settings, index: int) -> int:
    return sample([float(logit) for logit in logits], settings, index, robust=False)


def _held(text: str, stop: str) -> int:
    """How much of a text's end may begin a stop text."""
    return max((n for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)


async def _abort(context: Any, refused: Refused) -> None:
    trailers: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", refused.status.SerializeToString())]
    if refused.reason == "QUEUE_FULL":
        trailers.append(("grpc-retry-pushback-ms", "100"))
    context.set_trailing_metadata(trailers)
    await context.abort(refused.code, refused.status.message)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        if call.method == STREAM:
            return grpc.unary_stream_rpc_method_handler(self._engine.stream)
        if call.method == PREDICT:
            return grpc.unary_unary_rpc_method_handler(self._engine.predict)
        return None


async def serve(models: Path, config: dict[str, Any], fault: str) -> int:
    """Serves until SIGTERM."""
    engine = Engine(models, config, fault)
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((_Handlers(engine),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    web = serve_http(engine)  # type: ignore[arg-type]
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    line = {"grpc": f"127.0.0.1:{port}", "http": f"127.0.0.1:{web.server_port}", "pid": os.getpid()}
    print(json.dumps(line), flush=True)
    await ended.wait()
    await server.stop(0)
    web.shutdown()
    return 0


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--fault", default="none", choices=("none", *FAULTS))
    arguments = parser.parse_args()
    config = json.loads(arguments.config.read_text(encoding="utf-8"))
    return asyncio.run(serve(arguments.models, config, arguments.fault))


if __name__ == "__main__":
    sys.exit(main())
