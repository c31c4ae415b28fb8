# SPDX-License-Identifier: Apache-2.0
"""Which versions of `stamp` may answer a call, and what each of them answers.

Truth is hand arithmetic: version N answers x + N and a vector of Ns, so that an answer put together from two
versions, or given by one under another's number, is seen.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from concord_proto.inference.v1 import inference_service_pb2 as service
from google.protobuf.message import DecodeError

from concord_soak.scratch import STAMP, STAMP_WIDTH
from concord_soak.truth import answer_problem

__all__ = ["Span", "Stamps", "stamp_request", "stamp_response"]


@dataclass
class Span:
    """A time within which a version may answer; open while `until` is None."""

    since: float
    until: float | None = None

    def meets(self, began: float, ended: float) -> bool:
        """Whether a call of that time may see it."""
        return self.since <= ended and (self.until is None or began <= self.until)


class Stamps:
    """What the reload actor has done, for those who check answers."""

    def __init__(self) -> None:
        self._spans: dict[str, dict[int, list[Span]]] = {}

    def may(self, name: str, version: int) -> None:
        """From now on `name` ("" or a label) may be answered by this version."""
        self._spans.setdefault(name, {}).setdefault(version, []).append(Span(time.perf_counter()))

    def may_not(self, name: str, version: int) -> None:
        """Calls that begin from now on may not be answered by it."""
        for span in self._spans.get(name, {}).get(version, []):
            if span.until is None:
                span.until = time.perf_counter()

    def current(self, name: str) -> list[int]:
        """Versions that may answer now."""
        return [
            version for version, spans in self._spans.get(name, {}).items() if any(span.until is None for span in spans)
        ]

    def problem(self, name: str, x: float, request_id: str, data: bytes, began: float, ended: float) -> str:
        """What is wrong with an answer to a call of that time; empty where nothing is."""
        try:
            version = int(service.PredictResponse.FromString(data).model_version)
        except (DecodeError, ValueError):
            return f"{STAMP}: expected a PredictResponse with a version, got {data[:100].hex()}"
        spans = self._spans.get(name, {}).get(version, [])
        if not any(span.meets(began, ended) for span in spans):
            return f"{STAMP}: version {version} answered {name!r} when it could not; {self.current(name)} could"
        expected = stamp_response(version, x)
        return answer_problem(service.PredictResponse, request_id, expected, data, f"{STAMP} version {version}")


def stamp_request(x: float, version: str, request_id: str) -> bytes:
    """A request for `stamp`."""
    return service.PredictRequest(
        model_id=STAMP,
        model_version=version,
        request_id=request_id,
        features={"x": service.FeatureValue(float_value=x)},
    ).SerializeToString()


def stamp_response(version: int, x: float) -> bytes:
    """What a version answers, without id and times; x + version must be exact in a float32."""
    response = service.PredictResponse(model_version=str(version), predictions={"y": x + version})
    response.outputs["stamps"].float_array.values.extend([float(version)] * STAMP_WIDTH)
    return response.SerializeToString(deterministic=True)
