# SPDX-License-Identifier: Apache-2.0
"""Clients of a Concord server: one blocking, one for asyncio.

    from concord_client import Client

    with Client("127.0.0.1:50051") as client:
        answer = client.predict("breast-cancer", {"mean radius": 17.99, ...})
        print(answer.label, answer.predictions)
        for token in client.stream("smollm2", "What is the capital of France?"):
            print(token, end="", flush=True)

A failed call is a ConcordError: `help(concord_client._errors)` draws the tree.
"""

from __future__ import annotations

from concord_client._aio import AsyncClient
from concord_client._answers import Answer, Feature, Health, Model, ModelVersion, Output, Prediction, Timing, Usage
from concord_client._channel import MAX_MESSAGE_BYTES
from concord_client._client import Client
from concord_client._conversation import InferenceConfig
from concord_client._errors import (
    CallCancelledError,
    ConcordError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    Violation,
)
from concord_client._stream import AsyncTokenStream, Finish, Prompt, Token, TokenStream
from concord_client._values import Features, FeatureValue, Value

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Answer",
    "AsyncClient",
    "AsyncTokenStream",
    "CallCancelledError",
    "Client",
    "ConcordError",
    "DeadlineExceededError",
    "FailedPreconditionError",
    "Feature",
    "FeatureValue",
    "Features",
    "Finish",
    "Health",
    "InferenceConfig",
    "InternalError",
    "InvalidArgumentError",
    "Model",
    "ModelVersion",
    "NotFoundError",
    "Output",
    "PermissionDeniedError",
    "Prediction",
    "Prompt",
    "ResourceExhaustedError",
    "Timing",
    "Token",
    "TokenStream",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "Usage",
    "Value",
    "Violation",
]
