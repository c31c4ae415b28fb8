# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's Python package alone, one row at a time. Writes the figures that command load would, as JSON."""

import json
import os
import sys
import time

import model
import numpy as np

seconds = float(sys.argv[1])
session = model.load()
rows = {model.INPUT: np.fromfile(model.FILE.with_suffix(".request.row"), np.float32).reshape(1, -1)}
assert np.allclose(np.ravel(session.run([model.OUTPUT], rows)[0]), model.DESCRIBED["answer"], atol=1e-5)  # noqa: S101
end = time.perf_counter() + 0.3
while time.perf_counter() < end:
    session.run([model.OUTPUT], rows)
latencies, cpu, began = [], time.process_time(), time.perf_counter()
now = began
while now < began + seconds:
    session.run([model.OUTPUT], rows)
    before, now = now, time.perf_counter()
    latencies.append(now - before)
cpu = time.process_time() - cpu
p50, p99, p999 = (float(q) * 1e3 for q in np.quantile(latencies, [0.5, 0.99, 0.999]))
result = {
    "callers": 1,
    "requests": len(latencies),
    "throughput": len(latencies) / (now - began),
    "errors": 0,
    "latency_ms": {"p50": p50, "p99": p99, "p99.9": p999, "curve": []},
    "cpu_seconds_per_1000": cpu / len(latencies) * 1e3,
    "pid": os.getpid(),
}
print(json.dumps(result))
