# SPDX-License-Identifier: Apache-2.0
"""How a generation picks its tokens from logits, to the bit. docs/sampling.md has the rules."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from concord_proto.inference.v1 import inference_service_pb2

from concord_server.fault import Fault, Reason
from concord_server.generate.decoder import Logits

__all__ = ["Picker", "Sampling", "philox"]

_MASK_32 = (1 << 32) - 1

_WEIGHT_BITS = 32  # the likeliest token weighs 2^32
_LOG2_E = float.fromhex("0x1.71547652b82fep+0")
# 2^f from -0.5 to 0.5 is 1 + c1*f + ... + c5*f^5, times 1 +- 9.2e-8.
_C1 = float.fromhex("0x1.62e429203a9dcp-1")
_C2 = float.fromhex("0x1.ebf9bb8a9f551p-3")
_C3 = float.fromhex("0x1.c6b752dcae731p-5")
_C4 = float.fromhex("0x1.3cea87425bd84p-7")
_C5 = float.fromhex("0x1.5bba148b6a29bp-10")

_NEAR = 7.0
"""How many octaves less likely than the likeliest token those are that are sorted at first."""
_SLACK = 2.0**-14
"""How far numpy's float32 sum of exponentials may be from the exact one, relatively. It is a few 2^-20 off."""
_LEAST_HEAT = 1e-30
"""Below that temperature, its inverse may be no float32."""
_BLOCK = 4096
"""How many are weighed at once: what that takes stays in the processor's nearest caches."""

_Weights = npt.NDArray[np.int64]


class Sampling(NamedTuple):
    """How one generation picks its tokens."""

    temperature: float
    """0 is greedy."""
    top_k: int
    """0 is all."""
    top_p: float
    """0 and 1 are all."""
    seed: int
    """0 where nothing is sampled."""

    @property
    def greedy(self) -> bool:
        """Whether nothing is sampled."""
        return self.temperature == 0

    @classmethod
    def of(cls, config: inference_service_pb2.InferenceConfig, request_id: str) -> Sampling:
        """What a request asks for. The id is the one that it gave, empty where it gave none.

        The config has passed check_config.
        """
        if config.temperature == 0:
            seed = 0
        elif config.HasField("seed"):
            seed = config.seed
        elif request_id:
            seed = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "little")
        else:
            seed = secrets.randbits(64)
        return cls(config.temperature, config.top_k, config.top_p, seed)


class Picker:
    """Picks one generation's tokens. One thread uses it."""

    __slots__ = ("_nucleus", "_sampling", "_scale")

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._scale = 0.0 if sampling.greedy else _LOG2_E / sampling.temperature
        """Octaves for each unit of logit."""
        self._nucleus = int(sampling.top_p * 2.0**64) if 0 < sampling.top_p < 1 else -1
        """top_p in 2^-64ths, -1 where it limits nothing."""

    def next(self, logits: Logits, index: int) -> int:
        """The token that the logits give at that index of the generation.

        It depends on these and on the sampling only. Raises Fault where the logits are no distribution.
        """
        first = int(logits.argmax())  # of a NaN, where there is one
        most = logits.item(first)
        if not math.isfinite(most):
            text = "the model's logits are no distribution: a NaN among them, or none that is greatest and finite"
            raise Fault(Reason.MODEL_EXECUTION_FAILED, text)
        sampling = self._sampling
        if sampling.temperature == 0 or sampling.top_k == 1:
            return first
        number = _random(sampling.seed, index)
        if 0 < sampling.top_k < logits.size:
            start = logits.size - sampling.top_k
            values = np.partition(logits, start)[start:]
            values.sort()
            return self._exactly(logits, values, most, number)
        if sampling.temperature < _LEAST_HEAT:
            return self._exactly(logits, np.sort(logits), most, number)
        # Most picks fall among the likeliest; which one it is, a sum of all that is nearly right mostly tells.
        total = self._total(logits, most)
        slack = total * _SLACK + logits.size
        bounds = int(total - slack), int(total + slack)
        near = logits >= np.float32(most - _NEAR / self._scale)
        if np.count_nonzero(near) <= _BLOCK:
            values = logits[near.nonzero()[0]]
            values.sort()
            token = self._search(logits, values, most, bounds, number)
            if token is not None:
                return token
        values = np.sort(logits)
        token = self._search(logits, values, most, bounds, number)
        return self._exactly(logits, values, most, number) if token is None else token

    def _total(self, logits: Logits, most: float) -> float:
        """About the weight of all tokens."""
        with np.errstate(over="ignore"):
            x = np.subtract(logits, np.float32(most))
            x *= np.float32(1 / self._sampling.temperature)
            return float(np.exp(x, out=x).sum()) * 2.0**_WEIGHT_BITS

    def _exactly(self, logits: Logits, values: Logits, most: float, number: int) -> int:
        """The pick among the tokens of these values, the least first, those of all that stay."""
        total = sum(int(block.sum()) for block in self._blocks(values, most))
        token = self._search(logits, values, most, (total, total), number)
        if token is None:
            raise AssertionError("the number picks one of those that stay")
        return token

    def _search(self, logits: Logits, values: Logits, most: float, totals: tuple[int, int], number: int) -> int | None:
        """The token that the number picks, where that is the same for every total from the first to the second.

        The values are sorted, the least first. None is that it isn't, or that it is not among those of the values.
        """
        if self._nucleus < 0:
            least, greatest = (number * total >> 64 for total in totals)
            # The sum that exceeds r is the first that is at least r + 1.
            least, greatest = least + 1, greatest + 1
        else:
            least, greatest = (max(1, self._nucleus * total >> 64) for total in totals)
        before, done = 0, 0
        blocks: list[_Weights] = []
        for weights in self._blocks(values, most):
            sums = np.cumsum(weights)
            sums += before
            before = int(sums[-1])
            blocks.append(sums)
            if before >= least:
                break
            done += len(sums)
        else:
            return None
        at = _place(sums, least)
        if greatest > least and at != _place(sums, greatest):
            return None
        at += done
        if self._nucleus >= 0:
            picked = (number * int(sums[at - done]) >> 64) + 1
            at = 0
            for sums in blocks:
                if sums[-1] >= picked:
                    at += _place(sums, picked)
                    break
                at += len(sums)
        # Equal logits are in the order of their ids.
        value = values[len(values) - 1 - at]
        greater = len(values) - int(values.searchsorted(value, "right"))
        return int((logits == value).nonzero()[0][at - greater])

    def _blocks(self, values: Logits, most: float) -> Iterator[_Weights]:
        """The weights of values, which are sorted, the least first: of the greatest first, in blocks."""
        end = len(values)
        while end:
            begin = max(end - _BLOCK, 0)
            weights = _weights(values[begin:end][::-1], most, self._scale)
            yield weights
            if not weights[-1]:
                return
            end = begin


def _place(sums: _Weights, value: int) -> int:
    """The first place of the order at which the sum is at least that."""
    return int(sums.searchsorted(value))


def _weights(values: Logits, most: float, scale: float) -> _Weights:
    y = values.astype(np.float64)
    y -= most
    y *= scale
    nothing = None
    if y[-1] < -_WEIGHT_BITS:  # the least of them
        nothing = y < -_WEIGHT_BITS
        y[nothing] = -_WEIGHT_BITS
    n = np.rint(y)
    f = y
    f -= n
    p = f * _C5
    p += _C4
    p *= f
    p += _C3
    p *= f
    p += _C2
    p *= f
    p += _C1
    p *= f
    p += 1
    p *= 2.0**_WEIGHT_BITS
    weights = p.astype(np.int64)
    np.negative(n, out=n)
    weights >>= n.astype(np.int64)
    if nothing is not None:
        weights[nothing] = 0
    return weights


def _random(seed: int, index: int) -> int:
    """The random number of the token with that index."""
    low, high, _, _ = philox((index & _MASK_32, index >> 32, 0, 0), (seed & _MASK_32, seed >> 32))
    return low | high << 32


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10: four random words of 32 bits from a key and a counter."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = second >> 32 ^ b ^ k, second & _MASK_32, first >> 32 ^ d ^ m, first & _MASK_32
        k = k + 0x9E3779B9 & _MASK_32
        m = m + 0xBB67AE85 & _MASK_32
    return a, b, c, d
