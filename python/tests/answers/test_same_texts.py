# SPDX-License-Identifier: Apache-2.0
"""Both servers give the same tokens: greedy and with two seeds, alone and with eight streams that join at random times.

Run after `make build` with the models exported: CONCORD_TEXT_MODELS names them, tiny-chat unless it is set, and
`CONCORD_TEXT_MODELS=tiny-chat,smollm2` is the whole. With -s it prints a line for each model.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime loads

import grpc
import numpy as np
import pytest
from concord_proto.inference.v1 import inference_service_pb2, inference_service_pb2_grpc
from concord_server import ort
from concord_server.generate import Package, Row, Sizes
from concord_server.generate.prompt import Prompt
from concord_server.generate.sampling import Picker, Sampling
from concord_server.model import Call

ROOT = Path(__file__).resolve().parents[3]
SERVERS = {
    "go": [os.environ.get("CONCORD_GO_SERVER", str(ROOT / "bin/inference-server"))],
    "python": [sys.executable, "-m", "concord_server"],
}
MODELS = os.environ.get("CONCORD_TEXT_MODELS", "tiny-chat").split(",")

MARGIN = 1e-3
"""Where the two likeliest tokens are nearer than that, other sums in another order may turn them round."""
TOKENS = 64
STREAMS = 8

PROMPTS = (
    "What is the capital of France?",
    "Name three colors.",
    "Count to ten.",
    "Who are you?",
    "Speak Japanese.",
    "Tell me a story.",
    "What is 2+2?",
    "Write a haiku about the sea.",
    "Who wrote Hamlet?",
    "Define gravity.",
    "List two fruits.",
    "What is water?",
    "Explain how a bicycle stays upright.",
    "Translate 'good morning' into French.",
    "Why is the sky blue?",
    "Give me a recipe for bread.",
    "What comes after Tuesday?",
    "How far is the moon?",
    "Say hello to my friend Ana.",
    "What is a monkey? 🐒",
)


class How(NamedTuple):
    """How tokens are picked."""

    name: str
    temperature: float = 0
    seed: int = 0
    top_p: float = 0
    top_k: int = 0


HOWS = (How("greedy"), How("seed 1", 0.8, 1, 0.95), How("seed 2", 1.2, 2, 0, 50))


@contextmanager
def serving(command: list[str], log: Path) -> Iterator[str]:
    """The gRPC address of a server on the repository's models, ended by its own process id."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "--models", str(ROOT / "models"), "--listen", "127.0.0.1:0", "--http", "off"],
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    assert process.stdout is not None
    try:
        ready = process.stdout.readline()
        assert ready, log.read_text()[-2000:]
        yield json.loads(ready)["grpc"]
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        yield {name: stack.enter_context(serving(command, folder / f"{name}.log")) for name, command in SERVERS.items()}


def asking(model_id: str, prompt: str, how: How) -> inference_service_pb2.PredictRequest:
    request = inference_service_pb2.PredictRequest(model_id=model_id)
    request.features["prompt"].string_value = prompt
    request.config.max_tokens = TOKENS
    request.config.temperature, request.config.seed = how.temperature, how.seed
    request.config.top_p, request.config.top_k = how.top_p, how.top_k
    return request


Texts = dict[tuple[str, str], tuple[str, tuple[int, ...], int]]
"""By prompt and way: the whole text, its tokens, and why it ended."""


class Company:
    """Streams that go on side by side: the next one joins when the others have come some tokens further."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._chance = random.Random(most)
        self._changed = asyncio.Condition()
        self._tokens = self._running = 0

    async def join(self) -> None:
        """Waits for a random moment at which there is room; where nobody runs, it is now."""
        async with self._changed:
            after = self._tokens + self._chance.randrange(2 * TOKENS // self._most)
            await self._changed.wait_for(
                lambda: not self._running or (self._running < self._most and self._tokens >= after)
            )
            self._running += 1

    async def came(self, *, over: bool = False) -> None:
        """A message of one of them has come."""
        async with self._changed:
            self._tokens += 1
            self._running -= over
            self._changed.notify_all()


async def texts_of(target: str, model_id: str, streams: int) -> Texts:
    """Every prompt in every way, so many at once."""
    texts: Texts = {}
    company = Company(streams)
    async with grpc.aio.insecure_channel(target) as channel:
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)

        async def one(prompt: str, how: How) -> None:
            text = ""
            ids: list[int] = []
            async for message in stub.StreamPredict(asking(model_id, prompt, how), timeout=100):
                if message.is_final:
                    assert message.seed == how.seed
                    assert message.usage.completion_tokens == len(ids)
                    texts[prompt, how.name] = (text, tuple(ids), message.finish_reason)
                else:
                    text += message.token
                    ids.append(message.token_id)
                await company.came(over=message.is_final)

        async with asyncio.TaskGroup() as group:
            for how in HOWS:
                for prompt in PROMPTS:
                    await company.join()
                    group.create_task(one(prompt, how))
    return texts


class Bare:
    """The model itself, without a server."""

    def __init__(self, folder: Path) -> None:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        graph = files.pop("model.onnx")
        external = {name: files.pop(name) for name in list(files) if name.endswith(".data")}
        self.tokenizer, self.decoder = ort.Generators()(Package(graph, external, files), Sizes(1))

    def prompt(self, text: str) -> list[int]:
        messages = json.dumps([{"role": "user", "content": text}])
        return Prompt(messages=messages).tokens(self.tokenizer, self.decoder.context)

    def margins(self, prompt: Sequence[int], ids: Sequence[int]) -> Iterator[float]:
        """How far the two likeliest tokens are apart, at each token of a text."""
        call, at = Call(), len(prompt)
        logits = self.decoder.run([Row(0, 0, prompt)], call)[0]
        for token in ids:
            second, first = np.partition(logits, -2)[-2:]
            yield float(first - second)
            logits = self.decoder.run([Row(0, at, (token,))], call)[0]
            at += 1

    def is_near(self, prompt: Sequence[int], ids: Sequence[int], how: How) -> bool:
        """Whether the token that follows may be another one where every logit is off by half of the margin."""
        logits = self.decoder.run([Row(0, 0, [*prompt, *ids])], Call())[0].copy()
        picker = Picker(Sampling(how.temperature, how.top_k, how.top_p, how.seed))
        noise = np.random.default_rng(0)
        picks = {picker.next(logits, len(ids))}
        for _ in range(50):
            off = noise.uniform(-MARGIN / 2, MARGIN / 2, logits.shape).astype(np.float32)
            picks.add(picker.next(logits + off, len(ids)))
        return len(picks) > 1


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model_id", MODELS)
async def test_same_texts(model_id: str, targets: dict[str, str]) -> None:
    got = {
        (server, streams): await texts_of(target, model_id, streams)
        for server, target in targets.items()
        for streams in (1, STREAMS)
    }
    bare = await asyncio.to_thread(Bare, ROOT / "models" / model_id / "1")
    prompts = {text: bare.prompt(text) for text in PROMPTS}
    first, *others = got
    tokens = close = 0
    for (prompt, way), (_, ids, _) in got[first].items():
        tokens += len(ids)
        if way == "greedy":
            close += sum(margin < MARGIN for margin in bare.margins(prompts[prompt], ids))
    excused = []
    for other in others:
        for key, (text, ids, reason) in got[first].items():
            if got[other][key] == (text, ids, reason):
                continue
            theirs = got[other][key][1]
            same = next(
                (i for i, (a, b) in enumerate(zip(ids, theirs, strict=False)) if a != b), min(len(ids), len(theirs))
            )
            how = next(how for how in HOWS if how.name == key[1])
            assert bare.is_near(prompts[key[0]], ids[:same], how), (
                f"{other} differs from {first} at {key}, token {same}"
            )
            excused.append((other, key, same))
    print(
        f"\n{model_id}: {len(PROMPTS)} prompts x {len(HOWS)} ways, {tokens} tokens, Go = Python, alone and with"
        f" {STREAMS} streams; {close} greedy tokens with a margin under {MARGIN:g};"
        f" {len(excused)} texts differ where that was so: {excused}"
    )
