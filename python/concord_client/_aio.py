# SPDX-License-Identifier: Apache-2.0
# The timeout is the call's deadline: the server is told of it, as asyncio.timeout would not do.
# ruff: noqa: ASYNC109
"""The asyncio client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from concord_client._answers import Answer, Health, Model
from concord_client._base import BaseClient, Default, batch_rows
from concord_client._conversation import InferenceConfig, Row, Steps, methods
from concord_client._errors import ConcordError, cancelled_here, error_from_call
from concord_client._stream import AsyncTokenStream, Prompt, stream_request
from concord_client._values import Features

T = TypeVar("T")


class AsyncClient(BaseClient):
    """An asyncio client: one connection, which any number of tasks of one event loop may share.

        async with AsyncClient("127.0.0.1:50051") as client:
            answer = await client.predict("breast-cancer", {"mean radius": 17.99, ...})
            print(answer.label, answer.predictions)

    Cancelling a task cancels its call, on the server too. May be made before the loop runs. Its options are those of
    BaseClient's __init__.
    """

    _channel: grpc.aio.Channel | None = None

    async def predict(
        self,
        model_id: str,
        features: Features,
        *,
        version: str = "",
        request_id: str = "",
        config: InferenceConfig | None = None,
        timeout: float | Default | None = Default.TIMEOUT,
    ) -> Answer:
        """Asks a model for one prediction.

        Args:
            model_id: which model.
            features: a value for each feature, by name. Those with a default may be left out.
            version: a version's number or label; "" is the highest version that is ready.
            request_id: names this request in the answer, logs and traces; "" lets the server make one.
            config: settings of text generation.
            timeout: seconds, instead of the client's; None is without end.

        Raises:
            ConcordError: as its class says; see concord_client's errors.
        """
        return await self._run(
            self._conversation.predict(model_id, Row(features, request_id, version, config)), timeout
        )

    async def predict_batch(
        self,
        model_id: str,
        rows: Iterable[Features],
        *,
        version: str = "",
        request_ids: Sequence[str] | None = None,
        config: InferenceConfig | None = None,
        timeout: float | Default | None = Default.TIMEOUT,
    ) -> list[Answer | ConcordError]:
        """Asks a model for one prediction a row, in one message.

        Returns for each row, in order, its answer or the error that it alone met. The server limits the rows of a batch
        (10000 unless configured) and its bytes.

        Args:
            model_id: which model.
            rows: as predict's features, at least one.
            version: as for predict.
            request_ids: one for each row.
            config: as for predict.
            timeout: as for predict.

        Raises:
            ConcordError: the batch as a whole failed.
        """
        steps = self._conversation.predict_batch(model_id, batch_rows(rows, request_ids, version, config))
        return await self._run(steps, timeout)

    def stream(
        self,
        model_id: str,
        prompt: Prompt,
        *,
        system: str = "",
        raw: bool = False,
        max_tokens: int = 0,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 0.0,
        seed: int | None = None,
        stop: Iterable[str] = (),
        version: str = "",
        request_id: str = "",
        timeout: float | Default | None = Default.TIMEOUT,
    ) -> AsyncTokenStream:
        """Asks a text generator, and gives its tokens one by one as they come.

            async for token in client.stream("smollm2", "What is the capital of France?"):
                print(token, end="", flush=True)

        Leaving the loop ends the text on the server too; so does cancel(). Afterwards `finish` says why it ended, with
        counts, times and the seed, and `text` is all of it.

        Args:
            model_id: which model.
            prompt: what the user says, or a conversation: messages with "role" and "content".
            system: a system message to begin with.
            raw: the prompt is the very text that is continued, without the model's chat template.
            max_tokens: most tokens; 0 is the server's default.
            temperature: 0 is greedy, always the likeliest token; 1 takes the model's own probabilities.
            top_k: only so many of the likeliest tokens; 0 is no limit.
            top_p: only the likeliest tokens that together have this probability; 0 is no limit.
            seed: the same seed gives the same tokens; None derives it from request_id, or draws one.
            stop: texts before which the text ends.
            version: as for predict.
            request_id: as for predict.
            timeout: seconds for the whole text, instead of the client's; None is without end.

        Raises:
            ConcordError: while the tokens are gone over; those before it have come.
        """
        request = stream_request(
            model_id,
            prompt,
            system=system,
            raw=raw,
            max_tokens=max_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=stop,
            version=version,
            request_id=request_id,
        )
        deadline = self._deadline(timeout)

        def start() -> Any:
            method = self._connected()["StreamPredict"]
            return method(request, timeout=deadline.left(), metadata=self._settings.metadata())

        return AsyncTokenStream(start, lambda: self._closed)

    async def models(self, *, timeout: float | Default | None = Default.TIMEOUT) -> list[Model]:
        """All models of the server, by id, those that failed to load too."""
        return await self._run(self._conversation.models(), timeout)

    async def model(self, model_id: str, *, timeout: float | Default | None = Default.TIMEOUT) -> Model:
        """One model: its versions, and all that is needed to build a request. NotFoundError where there is none."""
        return await self._run(self._conversation.model(model_id), timeout)

    async def check(self, service: str = "", *, timeout: float | Default | None = Default.TIMEOUT) -> Health:
        """The health of the server (""), of a service by its full name, or of a model ("models/<id>").

        Other names raise NotFoundError.
        """
        return await self._run(self._conversation.check(service), timeout)

    async def close(self) -> None:
        """Closes the connection. Calls under way end with CallCancelledError, later ones with RuntimeError."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, steps: Steps[T], timeout: float | Default | None) -> T:
        deadline = self._deadline(timeout)
        channel_methods = self._connected()
        try:
            call = next(steps)
            while True:
                try:
                    method = channel_methods[call.method]
                    answer = await method(call.request, timeout=deadline.left(), metadata=self._settings.metadata())
                except grpc.RpcError as error:
                    call = steps.throw(error_from_call(error))
                except (asyncio.CancelledError, grpc.aio.UsageError):
                    task = asyncio.current_task()
                    if not self._closed or (task is not None and task.cancelling()):
                        raise
                    # grpc ends the calls of a closed channel as if their tasks had been cancelled, which they were not.
                    call = steps.throw(cancelled_here())
                else:
                    call = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _connected(self) -> dict[str, Any]:
        # Not in __init__: grpc ties a channel to the loop that runs when it is made.
        if self._channel is None:
            settings = self._settings
            if settings.credentials is None:
                self._channel = grpc.aio.insecure_channel(settings.target, settings.options, settings.compression)
            else:
                self._channel = grpc.aio.secure_channel(
                    settings.target, settings.credentials, settings.options, settings.compression
                )
            self._methods = methods(self._channel)
        return self._methods
