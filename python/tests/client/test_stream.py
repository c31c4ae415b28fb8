# SPDX-License-Identifier: Apache-2.0
"""Tokens as callers take them: three lines, cancelled at any moment, errors in the middle."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from concord_client import AsyncClient, Client, InternalError, NotFoundError, ResourceExhaustedError, Token
from concord_proto.inference.v1 import inference_service_pb2, timing_pb2

if TYPE_CHECKING:
    from tests.client.conftest import FakeServer

PredictToken = inference_service_pb2.PredictToken
LIMIT = 20.0
WORDS = ("The", " capital", "", " is", " Paris.")


def final(count: int) -> PredictToken:
    return PredictToken(
        is_final=True,
        token_index=count,
        request_id="r",
        model_version="3",
        finish_reason=inference_service_pb2.FINISH_REASON_STOP,
        usage=inference_service_pb2.Usage(prompt_tokens=9, completion_tokens=count),
        timing=timing_pb2.Timing(batch_rows=2, time_to_first_token_ms=1.5, tokens_per_second=80),
        seed=7,
    )


def said(*words: str) -> Iterator[PredictToken]:
    for index, word in enumerate(words):
        yield PredictToken(token=word, token_id=index + 10, token_index=index, request_id="r", model_version="3")


def answering(server: FakeServer) -> None:
    def stream(request: Any, context: Any) -> Iterator[PredictToken]:
        yield from said(*WORDS)
        yield final(len(WORDS))

    server.stream = stream


def endless(server: FakeServer) -> threading.Event:
    """Makes the server speak until its caller is gone, which the event tells."""
    gone = threading.Event()

    def stream(request: Any, context: grpc.ServicerContext) -> Iterator[PredictToken]:
        context.add_callback(gone.set)
        yield from said("again")
        gone.wait(LIMIT)

    server.stream = stream
    return gone


def test_three_lines(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    answering(server)
    with Client(server.address) as client:
        for token in client.stream("chat", "What is the capital?"):
            print(token, end="", flush=True)
    assert capsys.readouterr().out == "The capital is Paris."
    (request,) = server.requests("StreamPredict")
    assert dict(request.features) == {"prompt": inference_service_pb2.FeatureValue(string_value="What is the capital?")}
    # The catalog is not asked: every generator has the same features.
    assert not server.requests("GetModel")


def test_three_lines_of_asyncio(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    answering(server)

    async def run() -> None:
        async with AsyncClient(server.address) as client:
            async for token in client.stream("chat", "What is the capital?"):
                print(token, end="", flush=True)

    asyncio.run(run())
    assert capsys.readouterr().out == "The capital is Paris."


def test_how_it_ended(server: FakeServer) -> None:
    answering(server)
    with Client(server.address) as client:
        stream = client.stream("chat", "x")
        assert stream.finish is None
        tokens = list(stream)
        assert [(token.text, token.token_id, token.index) for token in tokens] == [
            (word, index + 10, index) for index, word in enumerate(WORDS)
        ]
        assert isinstance(tokens[0], Token)
        assert stream.text == "The capital is Paris."
        finish = stream.finish
    assert finish is not None
    assert (finish.reason, finish.usage.prompt_tokens, finish.usage.completion_tokens) == ("STOP", 9, 5)
    assert (finish.seed, finish.model_version, finish.request_id) == (7, "3", "r")
    assert (finish.timing.time_to_first_token_ms, finish.timing.tokens_per_second) == (1.5, 80)
    assert list(stream) == []


def test_what_is_asked(server: FakeServer) -> None:
    answering(server)
    with Client(server.address, token="secret") as client:
        list(
            client.stream(
                "chat",
                [{"role": "user", "content": "größe"}, {"role": "assistant", "content": "ja"}],
                system="short",
                max_tokens=5,
                temperature=0.5,
                top_k=3,
                top_p=0.25,
                seed=0,
                stop=["a", "b"],
                version="stable",
                request_id="mine",
            )
        )
        list(client.stream("chat", "very", raw=True))
    first, second = server.requests("StreamPredict")
    assert (first.model_id, first.model_version, first.request_id) == ("chat", "stable", "mine")
    assert first.features["messages"].string_value == (
        '[{"role": "user", "content": "gr\\u00f6\\u00dfe"}, {"role": "assistant", "content": "ja"}]'
    )
    assert first.features["system"].string_value == "short"
    assert "prompt" not in first.features
    config = first.config
    assert (config.max_tokens, config.temperature, config.top_k, config.top_p) == (5, 0.5, 3, 0.25)
    assert config.HasField("seed")
    assert list(config.stop) == ["a", "b"]
    assert not second.config.HasField("seed")
    assert second.features["raw"].bool_value is True
    assert server.seen[0].metadata["authorization"] == "Bearer secret"
    assert server.seen[0].time_left is not None
    with Client(server.address) as client, pytest.raises(TypeError, match="stop"):
        client.stream("chat", "x", stop="ab")


def test_an_error_in_the_middle(server: FakeServer) -> None:
    def stream(request: Any, context: Any) -> Iterator[PredictToken]:
        yield from said("one", " two")
        raise server.failure(grpc.StatusCode.INTERNAL, "MODEL_EXECUTION_FAILED", "the model failed")

    server.stream = stream
    with Client(server.address) as client:
        tokens = client.stream("chat", "x")
        with pytest.raises(InternalError) as caught:
            list(tokens)
        assert tokens.text == "one two"
        assert caught.value.reason == "MODEL_EXECUTION_FAILED"

    async def run() -> str:
        async with AsyncClient(server.address) as client:
            tokens = client.stream("chat", "x")
            with pytest.raises(InternalError):
                async for _ in tokens:
                    pass
            return tokens.text

    assert asyncio.run(run()) == "one two"


def test_errors_before_the_first_token(server: FakeServer) -> None:
    def stream(request: Any, context: Any) -> Iterator[PredictToken]:
        if request.model_id == "full":
            raise server.failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "full")
        raise server.failure(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", "none")
        yield

    server.stream = stream
    with Client(server.address) as client:
        with pytest.raises(NotFoundError):
            next(client.stream("nobody", "x"))
        with pytest.raises(ResourceExhaustedError):
            next(client.stream("full", "x"))


def test_a_stream_without_an_end(server: FakeServer) -> None:
    server.stream = lambda request, context: said("one")
    with Client(server.address) as client:
        tokens = client.stream("chat", "x")
        with pytest.raises(InternalError, match="without a final message"):
            list(tokens)


def test_cancelled_by_another_thread(server: FakeServer) -> None:
    gone = endless(server)
    with Client(server.address) as client:
        stream = client.stream("chat", "x")
        assert next(stream).text == "again"
        threading.Thread(target=stream.cancel).start()
        assert list(stream) == []
        assert stream.finish is None
        assert gone.wait(LIMIT)


def test_leaving_the_loop_ends_it_on_the_server(server: FakeServer) -> None:
    gone = endless(server)
    with Client(server.address) as client:
        for token in client.stream("chat", "x"):
            assert token.text == "again"
            break
        del token
        gc.collect()
        assert gone.wait(LIMIT)


def test_leaving_the_with_block_ends_it_on_the_server(server: FakeServer) -> None:
    gone = endless(server)
    with Client(server.address) as client:
        with client.stream("chat", "x") as stream:
            next(stream)
        assert gone.wait(LIMIT)
        assert list(stream) == []


def test_asyncio_ends_it_on_the_server(server: FakeServer) -> None:
    async def by_break(client: AsyncClient) -> None:
        async for _ in client.stream("chat", "x"):
            break

    async def by_with(client: AsyncClient) -> None:
        async with client.stream("chat", "x") as stream:
            await anext(stream)
        assert [token async for token in stream] == []

    async def by_cancel(client: AsyncClient) -> None:
        stream = client.stream("chat", "x")
        await anext(stream)
        asyncio.get_running_loop().call_soon(stream.cancel)
        assert [token async for token in stream] == []

    async def by_task(client: AsyncClient) -> None:
        stream = client.stream("chat", "x")
        await anext(stream)
        task = asyncio.ensure_future(anext(stream))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def run(way: Any) -> None:
        gone = endless(server)
        async with AsyncClient(server.address) as client:
            await way(client)
            gc.collect()
            assert await asyncio.to_thread(gone.wait, LIMIT)

    for way in (by_break, by_with, by_cancel, by_task):
        asyncio.run(run(way))


def test_predict_gives_the_text(server: FakeServer) -> None:
    response = inference_service_pb2.PredictResponse(
        model_version="1",
        finish_reason=inference_service_pb2.FINISH_REASON_LENGTH,
        usage=inference_service_pb2.Usage(prompt_tokens=3, completion_tokens=2),
    )
    response.outputs["text"].string_value = "Pa"
    response.outputs["token_ids"].int64_array.values.extend([83, 100])
    server.predict = lambda request, context: response
    with Client(server.address) as client:
        answer = client.predict("chat", {"prompt": "x"})
    assert (answer.text, answer.finish_reason) == ("Pa", "LENGTH")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2
    assert answer.outputs["token_ids"] == [83, 100]
