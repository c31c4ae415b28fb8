# SPDX-License-Identifier: Apache-2.0
"""The blocking client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc

from concord_client._answers import Answer, Health, Model
from concord_client._base import BaseClient, Default, batch_rows
from concord_client._conversation import InferenceConfig, Row, Steps, methods
from concord_client._errors import ConcordError, cancelled_here, error_from_call
from concord_client._stream import Prompt, TokenStream, stream_request
from concord_client._values import Features

T = TypeVar("T")


class Client(BaseClient):
    """A blocking client: one connection, which any number of threads may share.

        with Client("127.0.0.1:50051") as client:
            answer = client.predict("breast-cancer", {"mean radius": 17.99, ...})
            print(answer.label, answer.predictions)

    Make it after a fork, not before. Its options are those of BaseClient's __init__.
    """

    def _open(self) -> None:
        settings = self._settings
        if settings.credentials is None:
            self._channel = grpc.insecure_channel(settings.target, settings.options, settings.compression)
        else:
            self._channel = grpc.secure_channel(
                settings.target, settings.credentials, settings.options, settings.compression
            )
        self._methods = methods(self._channel)

    def predict(
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
        return self._run(self._conversation.predict(model_id, Row(features, request_id, version, config)), timeout)

    def predict_batch(
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
        return self._run(steps, timeout)

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
    ) -> TokenStream:
        """Asks a text generator, and gives its tokens one by one as they come.

            for token in client.stream("smollm2", "What is the capital of France?"):
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
        method = self._methods["StreamPredict"]
        return TokenStream(method(request, timeout=deadline.left(), metadata=self._settings.metadata()))

    def models(self, *, timeout: float | Default | None = Default.TIMEOUT) -> list[Model]:
        """All models of the server, by id, those that failed to load too."""
        return self._run(self._conversation.models(), timeout)

    def model(self, model_id: str, *, timeout: float | Default | None = Default.TIMEOUT) -> Model:
        """One model: its versions, and all that is needed to build a request. NotFoundError where there is none."""
        return self._run(self._conversation.model(model_id), timeout)

    def check(self, service: str = "", *, timeout: float | Default | None = Default.TIMEOUT) -> Health:
        """The health of the server (""), of a service by its full name, or of a model ("models/<id>").

        Other names raise NotFoundError.
        """
        return self._run(self._conversation.check(service), timeout)

    def close(self) -> None:
        """Closes the connection. Calls under way end with CallCancelledError, later ones with RuntimeError."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, steps: Steps[T], timeout: float | Default | None) -> T:
        deadline = self._deadline(timeout)
        try:
            call = next(steps)
            while True:
                try:
                    method = self._methods[call.method]
                    answer = method(call.request, timeout=deadline.left(), metadata=self._settings.metadata())
                except grpc.RpcError as error:
                    call = steps.throw(error_from_call(error))
                except ValueError:
                    if not self._closed:
                        raise
                    call = steps.throw(cancelled_here())  # closed by another thread between two calls
                else:
                    call = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result
