# SPDX-License-Identifier: Apache-2.0
"""What a pick from 49,152 logits like those of a real model costs: `python python/tests/generate/cost_of_sampling.py`.

The Go server's is `go test ./internal/generate -run - -bench Next`.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
from concord_server.generate.sampling import Picker, Sampling

PICKS = 2000


def main() -> None:
    source = np.random.default_rng(1)
    logits = (3.8 * source.standard_normal(49152) - 3.4).astype(np.float32)  # a bell
    likely = source.integers(0, len(logits), 40)  # and a few likely tokens far above it
    logits[likely] = 17 - np.arange(40, dtype=np.float32) / 3
    print("microseconds of the thread's processor time: mean, median, 99th percentile")
    for name, sampling in {
        "greedy": Sampling(0, 0, 0, 0),
        "temperature 0.8": Sampling(0.8, 0, 0, 1),
        "temperature 1": Sampling(1, 0, 0, 1),
        "temperature 0.8, top_p 0.95": Sampling(0.8, 0, 0.95, 1),
        "temperature 0.7, top_k 50": Sampling(0.7, 50, 0, 1),
        "temperature 100": Sampling(100, 0, 0, 1),
        "temperature 100, top_p 0.5": Sampling(100, 0, 0.5, 1),
    }.items():
        picker = Picker(sampling)
        times = []
        for index in range(PICKS):
            begin = time.thread_time_ns()
            picker.next(logits, index)
            times.append((time.thread_time_ns() - begin) / 1000)
        percentile = statistics.quantiles(times, n=100)[98]
        print(f"{name:28} {statistics.mean(times):7.0f} {statistics.median(times):7.0f} {percentile:7.0f}")


if __name__ == "__main__":
    main()
