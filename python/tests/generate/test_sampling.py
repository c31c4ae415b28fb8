# SPDX-License-Identifier: Apache-2.0
"""The vectors of conformance/sampling, and what must hold for all logits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from concord_proto.inference.v1 import inference_service_pb2
from concord_server.fault import Fault, Reason
from concord_server.generate.sampling import Picker, Sampling, _weights, philox
from hypothesis import given, settings
from hypothesis import strategies as st

VECTORS = Path(__file__).parents[3] / "conformance" / "sampling"

Logits = npt.NDArray[np.float32]


def read(name: str) -> Any:
    return json.loads((VECTORS / name).read_text("utf-8"))


def single(text: str) -> np.float32:
    return np.frombuffer(bytes.fromhex(text), ">f4")[0].astype(np.float32)


def logits_of(source: dict[str, Any]) -> Logits:
    if "bits" in source:
        return np.array([single(text) for text in source["bits"]], np.float32)
    bell = source["bell"]
    words = np.zeros((4, bell["vocabulary"]), np.uint64)  # of philox, all tokens at once
    words[0] = np.arange(bell["vocabulary"])
    low, high = np.uint64(2**32 - 1), np.uint64(32)
    for turn in range(10):
        first, second = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        key = (bell["seed"] + turn * 0x9E3779B9) % 2**32, turn * 0xBB67AE85 % 2**32
        words = np.stack(
            [
                second >> high ^ words[1] ^ np.uint64(key[0]),
                second & low,
                first >> high ^ words[3] ^ np.uint64(key[1]),
                first & low,
            ]
        )
    totals = (words >> np.uint64(16)).sum(0).astype(np.int64) - 131072
    made = (np.clip(totals, -bell["spread"], bell["spread"]) / 2.0 ** bell["shift"]).astype(np.float32)
    for token, text in source["replaced"].items():
        made[int(token)] = single(text)
    return made


def test_picks() -> None:
    made: dict[str, Logits] = {}
    cases = read("picks.json")
    assert len(cases) > 100
    for case in cases:
        key = json.dumps(case["logits"])
        logits = made.get(key)
        if logits is None:
            logits = made[key] = logits_of(case["logits"])
            logits.flags.writeable = False
        sampling = Sampling(
            float(single(case["temperature"])), case["top_k"], float(single(case["top_p"])), int(case["seed"])
        )
        picker = Picker(sampling)
        if not case["stay"]:
            with pytest.raises(Fault, match="the model's logits are no distribution") as raised:
                picker.next(logits, 0)
            assert raised.value.reason is Reason.MODEL_EXECUTION_FAILED
            continue
        picks = [[index, picker.next(logits, index)] for index, _ in case["picks"]]
        assert picks == case["picks"], case["name"]


def test_weights() -> None:
    cases = read("weights.json")
    assert len(cases) > 700
    for case in cases:
        logit, most, temperature = (single(case[name]) for name in ("logit", "most", "temperature"))
        scale = float.fromhex("0x1.71547652b82fep+0") / float(temperature)
        for together in (1, 9):  # alone, and in a vector of the processor's
            logits = np.full(together, logit, np.float32)
            assert _weights(logits, float(most), scale).tolist() == [int(case["weight"])] * together, case


def test_seeds() -> None:
    config = inference_service_pb2.InferenceConfig
    for case in read("seeds.json"):
        given_id = case["request_id"]
        assert Sampling.of(config(temperature=1), given_id).seed == int(case["seed"])
        assert Sampling.of(config(temperature=1, seed=0), given_id).seed == 0
        assert Sampling.of(config(temperature=1, seed=2**64 - 1), given_id).seed == 2**64 - 1
        assert Sampling.of(config(seed=7), given_id).seed == 0, "greedy"
    drawn = {Sampling.of(config(temperature=0.5), "").seed for _ in range(64)}
    assert len(drawn) == 64


def test_philox_is_random123s() -> None:
    ones = 2**32 - 1
    assert philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox((ones,) * 4, (ones,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    counter, key = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    assert philox(counter, key) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


# --- against the plain program that made the vectors -----------------------------------------------------------------


def plain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sampling_vectors", VECTORS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


PLAIN = plain()

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Close together, far apart, equal, never picked.
LOGITS = st.lists(st.one_of(st.sampled_from([0.0, -0.0, 1.0]), st.floats(-30, 30, width=32), FLOATS), min_size=1)
TEMPERATURES = st.one_of(
    st.floats(0.0625, 3, width=32), st.floats(0, 100, width=32, exclude_min=True), st.just(float(np.float32(1e-45)))
)
SHARES = st.one_of(st.just(0.0), st.floats(0, 1, width=32))


@settings(max_examples=300, deadline=None)
@given(LOGITS, TEMPERATURES, st.integers(0, 12), SHARES, st.integers(0, 2**64 - 1), st.integers(0, 2**31))
def test_any(values: list[float], temperature: float, top_k: int, top_p: float, seed: int, index: int) -> None:
    logits = np.array(values, np.float32)
    case = PLAIN.Case("", values, {}, temperature, top_k, top_p, seed, [index]).data()
    PLAIN.weight.cache_clear()
    picked = Picker(Sampling(temperature, top_k, top_p, seed)).next(logits, index)
    assert [[index, picked]] == case["picks"]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(9000, 20000), st.floats(0.3, 6), st.floats(0.375, 100, width=32),
    st.sampled_from([0, 0, 5, 300, 8000]), st.sampled_from([0.0, 0.5, 0.95, 0.9999]), st.booleans(),
)  # fmt: skip
def test_many(
    source: int, size: int, spread: float, temperature: float, top_k: int, top_p: float, rounded: bool
) -> None:
    """The ways that only large vocabularies take give what sorting and summing everything gives."""
    logits = (np.random.default_rng(source).standard_normal(size) * spread).astype(np.float32)
    if rounded:
        logits = np.round(logits)  # ties
    order = np.lexsort((np.arange(size), -logits))
    if top_k:
        order = order[:top_k]
    most = float(logits[order[0]])
    weights = _weights_of(logits[order], most, temperature)
    if top_p:
        sums = np.cumsum(weights)
        least = max(1, int(top_p_bits(top_p)) * int(sums[-1]) >> 64)
        stay = int(np.searchsorted(sums, least)) + 1
        order, weights = order[:stay], weights[:stay]
    sums = np.cumsum(weights)
    picker = Picker(Sampling(temperature, top_k, top_p, source))
    for index in range(12):
        r = PLAIN.random(source, index) * int(sums[-1]) >> 64
        assert picker.next(logits, index) == order[int(np.searchsorted(sums, r, "right"))]


def top_p_bits(top_p: float) -> int:
    return int(top_p * 2.0**64)


def _weights_of(values: Logits, most: float, temperature: float) -> npt.NDArray[np.int64]:
    """All weights in Python's floats, one after the other."""
    scale = float.fromhex("0x1.71547652b82fep+0") / temperature
    coefficients = [float(c) for c in PLAIN.COEFFICIENTS]
    found = []
    for value in values.tolist():
        y = (value - most) * scale
        if y < -32:
            found.append(0)
            continue
        n = round(y)
        f = y - n
        p = coefficients[0]
        for c in coefficients[1:]:
            p = p * f + c  # two operations of the interpreter: nothing is fused
        found.append(int(p * 2.0**32) >> -n)
    return np.array(found, np.int64)


def test_frequencies_are_the_probabilities() -> None:
    """The picks of many seeds are as frequent as the softmax says."""
    logits = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -3.0], np.float32)
    temperature = 0.75
    exact = np.exp(logits.astype(np.float64) / temperature)
    exact /= exact.sum()
    draws = 20000
    counts = np.zeros(len(logits))
    for seed in range(draws // 10):
        picker = Picker(Sampling(temperature, 0, 0, seed))
        for index in range(10):
            counts[picker.next(logits, index)] += 1
    chi_square = float(((counts - draws * exact) ** 2 / (draws * exact)).sum())
    assert chi_square < 25  # 5 degrees of freedom: above that once in ten thousand; the seeds are fixed
