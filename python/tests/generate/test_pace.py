# SPDX-License-Identifier: Apache-2.0
"""Long prompts beside steps, on machines of all kinds."""

from __future__ import annotations

import pytest
from concord_server.generate.pace import LEAST_CHUNK, Pace

STEP = 0.010


@pytest.mark.parametrize(
    ("base", "token"), [(0.009, 0.0001), (0.002, 0.001), (0.015, 0.0005), (0.0, 0.002), (0.005, 0.00001)]
)
def test_gaps_stay_below_four_steps(base: float, token: float) -> None:
    """What a chunk costs at least, and for each token, where a step is known."""
    pace = Pace()
    pace.prefilled(512, base + 512 * token, beside=False)  # the prompts of those who decode now
    for _ in range(10):
        pace.stepped(STEP)
    chunks, left = 0, 1400
    while left:
        count = pace.chunk(left, 512, beside=True)
        seconds = base + count * token
        assert seconds + STEP < 4 * STEP
        pace.prefilled(count, seconds, beside=True)
        pace.stepped(STEP)
        left -= count
        chunks += 1
    assert chunks <= 1400 // LEAST_CHUNK + 1


def test_the_bounds_of_a_chunk() -> None:
    pace = Pace()
    assert pace.chunk(1400, 512, beside=False) == 512
    assert pace.chunk(3, 512, beside=True) == 3
    assert pace.chunk(100, 4, beside=True) == 4  # the setting is less than the fewest
    assert pace.chunk(100, 512, beside=True) == LEAST_CHUNK  # nothing is known
