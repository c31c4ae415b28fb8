# SPDX-License-Identifier: Apache-2.0
"""What the configuration makes of a generator's sizes."""

from __future__ import annotations

from typing import Any

from concord_server.config import Generation
from concord_server.generate import Package, Sizes
from concord_server.generators import Generators


def test_settings_are_those_of_the_time_of_the_load() -> None:
    settings = {"chat": Generation(slots=2, max_kv_bytes=5 << 20, prefill_chunk_tokens=7, threads=3)}
    judged: list[Any] = []
    generators = Generators(
        lambda model_id: settings.get(model_id, Generation()),
        lambda package, sizes: judged.append((package, sizes)),
        lambda package, sizes: (package, sizes),  # type: ignore[arg-type, return-value]
        processors=4,
    )
    assert generators.sizes("chat") == Sizes(2, 5 << 20, 3)
    assert generators.chunk_tokens("chat") == 7
    # Where nothing is said an operator has all processors of this process's share.
    assert generators.sizes("other") == Sizes(8, 1 << 30, 4)
    assert generators.chunk_tokens("other") == 512
    settings["chat"] = Generation(slots=1)
    assert generators.sizes("chat").slots == 1
    package = Package(b"graph", {}, {})
    generators.admit(package, Sizes(1))
    assert judged == [(package, Sizes(1))]
    assert generators.open(package, Sizes(1)) == (package, Sizes(1))
