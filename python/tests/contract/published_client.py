# SPDX-License-Identifier: Apache-2.0
"""A client made from published.proto alone, run by test_published.py in a process of its own.

Reads {"address", "models": {model id: rows}} as JSON from its input and writes what it was answered as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
import published_pb2  # type: ignore[import-not-found]  # made at test time from published.proto
import published_pb2_grpc  # type: ignore[import-not-found]

TIMEOUT = 30.0


def request(model_id: str, row: dict[str, Any], request_id: str) -> Any:
    made = published_pb2.PredictRequest(model_id=model_id, request_id=request_id)
    made.config.temperature, made.config.max_tokens, made.config.top_p = 0.5, 16, 0.75
    for name, value in row.items():
        if isinstance(value, str):
            made.features[name].string_value = value
        elif isinstance(value, list):
            made.features[name].float_array.values.extend(value)
        else:
            made.features[name].float_value = value
    return made


def answer(response: Any) -> dict[str, Any]:
    # float.hex: every bit of a number survives.
    return {
        "request_id": response.request_id,
        "predictions": {name: value.hex() for name, value in response.predictions.items()},
        "latency_ms": response.latency_ms,
        "model_version": response.model_version,
    }


def stream(stub: Any, prompt: str, temperature: float) -> list[tuple[str, bool, int]]:
    made = published_pb2.PredictRequest(model_id="tiny-chat", request_id=prompt)
    made.features["prompt"].string_value = prompt
    made.config.temperature, made.config.max_tokens = temperature, 64
    return [
        (message.token, message.is_final, message.token_index) for message in stub.StreamPredict(made, timeout=TIMEOUT)
    ]


def failure(call: Any) -> str:
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def main() -> None:
    asked = json.load(sys.stdin)
    with grpc.insecure_channel(asked["address"]) as channel:
        stub = published_pb2_grpc.InferenceServiceStub(channel)
        health = stub.Check(published_pb2.HealthCheckRequest(service=""), timeout=TIMEOUT)
        told: dict[str, Any] = {
            "health": published_pb2.HealthCheckResponse.ServingStatus.Name(health.status),
            "singles": {},
            "batches": {},
        }
        for model_id, rows in asked["models"].items():
            requests = [request(model_id, row, f"{model_id} {i} ✓") for i, row in enumerate(rows)]
            told["singles"][model_id] = [answer(stub.Predict(one, timeout=TIMEOUT)) for one in requests]
            bad = request(model_id, {"no such feature": 1.0}, "bad")
            batch = published_pb2.BatchPredictRequest(requests=[*requests, bad])
            results = stub.BatchPredict(batch, timeout=TIMEOUT).results
            told["batches"][model_id] = [
                answer(result.response) if result.WhichOneof("result") == "response" else result.error.code
                for result in results
            ]
        told["streams"] = [stream(stub, "What is the capital of France?", temperature) for temperature in (0, 1)]
        some = next(iter(asked["models"]))
        told["failures"] = {
            "unknown model": failure(lambda: stub.Predict(request("no-such-model", {}, ""), timeout=TIMEOUT)),
            "unknown feature": failure(lambda: stub.Predict(request(some, {"x": 1.0}, ""), timeout=TIMEOUT)),
            "stream of a classifier": failure(
                lambda: list(stub.StreamPredict(request(some, asked["models"][some][0], ""), timeout=TIMEOUT))
            ),
        }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
