# SPDX-License-Identifier: Apache-2.0
"""What the client counted, held against what the server counted.

A call whose ending came from the server (an answer, or a status with the contract's details) was counted there under
the same code. A call that the client ended by itself - its deadline, a cancel, a connection closed under it - was
counted there under some code or never seen. So for each method and code the server's count lies between the calls
that are certain and those plus the uncertain ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

__all__ = ["Tally", "method_of"]

_SERVED = {
    "inference.v1.InferenceService": ("Predict", "StreamPredict", "BatchPredict", "Check"),
    "inference.v1.ModelInference": ("Predict", "BatchPredict"),
    "inference.v1.ModelCatalogService": ("ListModels", "GetModel"),
    "grpc.health.v1.Health": ("Check", "Watch"),
}

Method = tuple[str, str]


def method_of(path: str) -> Method:
    """Service and method as the metrics name them: both `unknown` for what is not served."""
    service, _, method = path.removeprefix("/").rpartition("/")
    return (service, method) if method in _SERVED.get(service, ()) else ("unknown", "unknown")


class Tally:
    """Calls by method and code."""

    def __init__(self) -> None:
        self.certain: Counter[tuple[str, str, str]] = Counter()
        self.uncertain: Counter[Method] = Counter()
        self.calls = 0

    def ended(self, path: str, code: str, *, certain: bool, passing: bool = False) -> None:
        """Counts one call; `certain` where the server said how it ended.

        Of a model whose versions come and go (`passing`) the series leave with the versions: its answers are left out
        here and there, and what was no answer may or may not be there still.
        """
        method = method_of(path)
        self.calls += 1
        if passing:
            self.uncertain[method] += code != "OK"
        elif certain:
            self.certain[*method, code] += 1
        else:
            self.uncertain[method] += 1

    def disagreements(self, server: Mapping[tuple[str, str, str], float]) -> list[str]:
        """Where the server's counts, by service, method and code, cannot be those of the same calls."""
        wrong = []
        for key in sorted({*self.certain, *server}):
            service, method, code = key
            low = self.certain[key]
            high = low + self.uncertain[service, method]
            got = server.get(key, 0)
            if not low <= got <= high:
                span = str(low) if low == high else f"{low} to {high}"
                wrong.append(f"{service}/{method} {code}: expected {span} calls in the metrics, got {got:g}")
        methods = {(service, method) for service, method, _ in {*self.certain, *server}}
        for service, method in sorted(methods):
            low = sum(count for key, count in self.certain.items() if key[:2] == (service, method))
            high = low + self.uncertain[service, method]
            got = sum(count for key, count in server.items() if key[:2] == (service, method))
            if not low <= got <= high:
                wrong.append(f"{service}/{method}: expected {low} to {high} calls in the metrics, got {got:g}")
        return wrong
