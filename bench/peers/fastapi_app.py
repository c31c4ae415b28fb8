# SPDX-License-Identifier: Apache-2.0
"""FastAPI as its tutorial has it: a pydantic model in, one out. /predict is `def`, /predict_async is `async def`."""

import time

import model
from fastapi import FastAPI
from pydantic import BaseModel

session = model.load()


class Request(BaseModel):
    model_id: str
    request_id: str
    features: dict[str, list[float]] if len(model.NAMES) == 1 else dict[str, float]


class Response(BaseModel):
    request_id: str
    predictions: dict[str, float]
    outputs: dict[str, str]
    latency_ms: float
    model_version: str


app = FastAPI()


def answer(request: Request) -> Response:
    began = time.perf_counter()
    results = session.run(model.OUTPUTS, {model.INPUT: model.row_of(request.features)[None]})
    return Response(
        request_id=request.request_id,
        predictions=model.predictions_of(results[0][0]),
        outputs={"label": results[1][0]} if model.LABEL else {},
        latency_ms=(time.perf_counter() - began) * 1e3,
        model_version="1",
    )


@app.post("/predict")
def predict(request: Request) -> Response:
    return answer(request)


@app.post("/predict_async")
async def predict_async(request: Request) -> Response:
    return answer(request)
