# SPDX-License-Identifier: Apache-2.0
"""Tokens as they come: what both clients share, and the two ways to go over them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc
from concord_proto.inference.v1 import inference_service_pb2

from concord_client._answers import Timing, Usage, finish_reason, timing, usage
from concord_client._errors import cancelled_here, defect, error_from_call

PredictRequest = inference_service_pb2.PredictRequest
PredictToken = inference_service_pb2.PredictToken

Prompt: TypeAlias = str | Iterable[Mapping[str, str]]
"""What the user says, or a conversation: messages with "role" and "content"."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `str(token)` is its text."""

    text: str
    """Empty while a character of several bytes is incomplete."""
    token_id: int
    index: int
    """From 0."""
    proto: PredictToken = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Finish:
    """How a text ended."""

    reason: str
    """STOP: the model's own end; LENGTH: max_tokens or the model's context; STOP_SEQUENCE: a text of `stop`."""
    usage: Usage
    timing: Timing
    seed: int
    """Of a sampled text: with it the same request gives the same tokens. 0 where nothing was sampled."""
    model_version: str
    request_id: str
    proto: PredictToken = field(repr=False, compare=False)


def stream_request(
    model_id: str,
    prompt: Prompt,
    *,
    system: str,
    raw: bool,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int | None,
    stop: Iterable[str],
    version: str,
    request_id: str,
) -> PredictRequest:
    """The request. What is wrong with it the server says; values that no message holds are a ValueError."""
    if isinstance(stop, str):
        raise TypeError("stop: expected texts, got one text; put it into a list")
    config = inference_service_pb2.InferenceConfig(
        temperature=temperature, max_tokens=max_tokens, top_k=top_k, top_p=top_p, seed=seed, stop=stop
    )
    request = PredictRequest(model_id=model_id, model_version=version, request_id=request_id, config=config)
    if isinstance(prompt, str):
        request.features["prompt"].string_value = prompt
    else:
        request.features["messages"].string_value = json.dumps([dict(message) for message in prompt])
    if system:
        request.features["system"].string_value = system
    if raw:
        request.features["raw"].bool_value = True
    return request


class _Stream:
    """What has come of a text so far."""

    def __init__(self) -> None:
        self.text = ""
        """The text so far."""
        self.finish: Finish | None = None
        """How it ended; None until it has."""
        self._call: Any = None
        self._cancelled = False

    def cancel(self) -> None:
        """Ends the text, on the server too. Whoever goes over the tokens finds no more of them."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    def __del__(self) -> None:
        # Whoever leaves a loop over the tokens does not want the rest.
        if self.finish is None and self._call is not None:
            self._call.cancel()

    def _take(self, message: PredictToken) -> Token | None:
        """A token; None for the final message."""
        if not message.is_final:
            self.text += message.token
            return Token(message.token, message.token_id, message.token_index, message)
        self.finish = Finish(
            finish_reason(message.finish_reason),
            usage(message.usage),
            timing(message.timing),
            message.seed,
            message.model_version,
            message.request_id,
            message,
        )
        return None


class TokenStream(_Stream, Iterator[Token]):
    """The tokens of one text, each as soon as it is there.

    Leaving the loop, the `with` block or cancel() ends the text on the server. Any thread may cancel; one goes over the
    tokens. A ConcordError where it fails: the tokens before it have come.
    """

    def __init__(self, call: Any) -> None:
        super().__init__()
        self._call = call

    def __next__(self) -> Token:
        if self.finish is not None or self._cancelled:
            raise StopIteration
        try:
            token = self._take(next(self._call))
        except StopIteration:
            if self._cancelled:
                raise
            raise defect("the stream ended without a final message") from None
        except grpc.RpcError as error:
            if self._cancelled:
                raise StopIteration from None
            raise error_from_call(error) from None
        except BaseException:
            self._call.cancel()
            raise
        if token is None:
            raise StopIteration
        return token

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.finish is None:
            self.cancel()


class AsyncTokenStream(_Stream, AsyncIterator[Token]):
    """The tokens of one text, each as soon as it is there.

    Leaving the loop, the `async with` block, cancelling the task or cancel() ends the text on the server. A
    ConcordError where it fails: the tokens before it have come.
    """

    def __init__(self, start: Any, closed: Any) -> None:
        super().__init__()
        self._start = start
        self._closed = closed

    async def __anext__(self) -> Token:
        if self.finish is not None or self._cancelled:
            raise StopAsyncIteration
        # Not before: grpc ties a call to the loop that runs.
        if self._call is None:
            self._call = self._start()
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            if self._cancelled:
                raise StopAsyncIteration from None
            raise error_from_call(error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self._call.cancel()
                raise
            if self._cancelled:
                raise StopAsyncIteration from None
            if self._closed():
                raise cancelled_here() from None
            raise
        if message is grpc.aio.EOF:
            raise defect("the stream ended without a final message")
        token = self._take(message)
        if token is None:
            raise StopAsyncIteration
        return token

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.finish is None:
            self.cancel()
