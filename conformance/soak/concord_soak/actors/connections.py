# SPDX-License-Identifier: Apache-2.0
"""Connections that come and go, politely and not."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

from concord_soak.actors.limits import slow_request
from concord_soak.truth import PREDICT
from concord_soak.world import Turn, actor

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


@actor(copies=1, pause=0.3)
async def visits(turn: Turn) -> None:
    """A connection for a few calls."""
    connection = turn.world.open()
    try:
        for _ in range(turn.rng.randint(1, 5)):
            await turn.ask(turn.rng.choice(turn.world.feature_cases), connection)
    finally:
        await connection.close()


@actor(copies=1, pause=0.3)
async def walkouts(turn: Turn) -> None:
    """A connection that is closed under its calls."""
    connection = turn.world.open()
    calls = [
        asyncio.ensure_future(
            connection.unary(PREDICT, slow_request("slow", 20_000, turn.request_id()).SerializeToString())
        )
        for _ in range(turn.rng.randint(1, 4))
    ]
    try:
        await asyncio.sleep(turn.rng.choice([0.0, 0.001, 0.02]))
    finally:
        await connection.close()
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        # A call that the closed connection has not even begun raises an error of its own: nothing of the server's.
        if not isinstance(outcome, BaseException) and outcome.code not in ("OK", "CANCELLED", "UNAVAILABLE"):
            turn.wrong(f"a call on a closed connection: expected CANCELLED, got {outcome}")
    turn.saw("connections closed under calls")


@actor(copies=2, pause=0.2)
async def strangers(turn: Turn) -> None:
    """Whoever speaks no gRPC, or stops in the middle: nothing, noise, a broken handshake, half a request."""
    host, _, port = turn.world.address.rpartition(":")
    kind = turn.rng.choice(["nothing", "noise", "handshake", "preface", "frames"])
    context: ssl.SSLContext | None = None
    if turn.world.authority is not None and kind in ("handshake", "preface", "frames"):
        context = ssl.create_default_context(cadata=turn.world.authority.decode("ascii"))
        context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    except (OSError, TimeoutError) as error:
        turn.wrong(f"a new connection: expected to be let in, got {type(error).__name__}")
        return
    with contextlib.suppress(OSError, TimeoutError):
        if kind == "noise":
            writer.write(turn.rng.randbytes(turn.rng.randint(1, 500)))
        elif kind == "preface":
            writer.write(_PREFACE + (_SETTINGS if turn.rng.random() < 0.5 else b""))
        elif kind == "frames":
            # A frame header of a random type and stream, and less than it promises.
            header = turn.rng.randint(1, 1 << 14).to_bytes(3, "big") + turn.rng.randbytes(6)
            writer.write(_PREFACE + _SETTINGS + header + turn.rng.randbytes(turn.rng.randint(0, 64)))
        async with asyncio.timeout(0.5):
            await writer.drain()
            if turn.rng.random() < 0.5:
                await reader.read(200)
    writer.transport.abort()
    turn.saw("strangers")
