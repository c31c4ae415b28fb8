# SPDX-License-Identifier: Apache-2.0
"""Settings of text generation, which every request may carry."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from concord_proto.inference.v1 import inference_service_pb2

from concord_server import fault
from concord_server.fault import Reason, Violation

__all__ = ["check_config", "shortest"]

_MAX_INT32 = (1 << 31) - 1
_MAX_TEMPERATURE = 100
_MAX_STOPS = 16


def check_config(config: inference_service_pb2.InferenceConfig) -> None:
    """Raises Fault where a setting of text generation is out of range. It holds for models of every kind."""
    found: list[Violation] = []

    def bad(field: str, text: str) -> None:
        found.append(Violation(Reason.CONFIG_INVALID, f"config.{field}", f"config.{field}: {text}"))

    # Written so that NaN is out of range.
    if not 0 <= config.temperature <= _MAX_TEMPERATURE:
        bad("temperature", f"expected 0 to {_MAX_TEMPERATURE}, got {shortest(config.temperature)}")
    if config.max_tokens < 0:
        bad("max_tokens", f"expected 0 to {_MAX_INT32}, got {config.max_tokens}")
    if not 0 <= config.top_p <= 1:
        bad("top_p", f"expected 0 to 1, got {shortest(config.top_p)}")
    if len(config.stop) > _MAX_STOPS:
        bad("stop", f"expected at most {_MAX_STOPS} texts, got {len(config.stop)}")
    else:
        for i, stop in enumerate(config.stop):
            if not stop:
                bad(f"stop[{i}]", "expected a text, got nothing")
    if config.top_k < 0:
        bad("top_k", f"expected 0 to {_MAX_INT32}, got {config.top_k}")
    if found:
        raise fault.from_violations(found)


def shortest(value: float, precision: type[np.floating[Any]] = np.float32) -> str:
    """The shortest decimal that reads back as the same number of that precision, as Go's 'g' writes it."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    number = precision(value)
    digits = np.format_float_scientific(number, trim="-", exp_digits=2)
    exponent = int(digits[digits.index("e") + 1 :])
    if -4 <= exponent < 6:
        return np.format_float_positional(number, trim="-")
    return digits
