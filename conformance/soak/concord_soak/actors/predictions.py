# SPDX-License-Identifier: Apache-2.0
"""Single requests: features and tensors."""

from __future__ import annotations

from concord_soak.world import Turn, actor


@actor(copies=6, pause=0.02, needs=["answers checked"])
async def predictions(turn: Turn) -> None:
    """A row of features."""
    await turn.ask(turn.rng.choice(turn.world.feature_cases))


@actor(copies=3, pause=0.03)
async def tensors(turn: Turn) -> None:
    """A few tensors of one of many dtypes and shapes."""
    await turn.ask(turn.rng.choice(turn.world.tensor_cases))
