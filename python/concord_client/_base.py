# SPDX-License-Identifier: Apache-2.0
"""What the blocking and the asyncio client share: options, deadlines, the conversation."""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Iterable, Sequence

from concord_client._channel import MAX_MESSAGE_BYTES, ChannelSettings, PathLike, Token, channel_settings
from concord_client._conversation import Conversation, InferenceConfig, Row
from concord_client._errors import out_of_time
from concord_client._values import Features


class Default(enum.Enum):
    """Stands for the client's own timeout where None means without end."""

    TIMEOUT = "the client's timeout"


class BaseClient:
    """What both clients are made from."""

    def __init__(
        self,
        target: str,
        *,
        plaintext: bool | None = None,
        ca: PathLike | None = None,
        cert: PathLike | None = None,
        key: PathLike | None = None,
        server_name: str | None = None,
        token: Token | None = None,
        gzip: bool = False,
        timeout: float | None = 60.0,
        retry: bool = True,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        """Connects at the first call; nothing is opened here.

        Args:
            target: HOST:PORT, or a gRPC name such as unix:PATH or dns:///HOST:PORT.
            plaintext: None is plaintext on loopback (127.0.0.0/8, ::1, localhost, unix sockets) and TLS elsewhere, or
                wherever a TLS option is given. True is plaintext anywhere, False is TLS anywhere.
            ca: PEM file of the authorities that may have signed the server's certificate. Default: those that this
                machine trusts.
            cert: PEM file of this client's certificate chain, for servers that ask for one (mTLS); together with key.
            key: PEM file of its private key, without a password.
            server_name: the name that the server's certificate is for, where it is not the target's host.
            token: bearer token, or a function that gives the current one before each call (it must not block). Never
                sent in plaintext to another machine: that is a ValueError here, also with plaintext=True.
            gzip: compress requests, which asks for compressed answers too.
            timeout: seconds that a method may take, retries and look-ups included; None is without end. Each method
                takes its own as well.
            retry: repeat calls that were not processed (UNAVAILABLE), up to four times within about 1.5 s.
            max_message_bytes: the largest message sent or received.

        Raises:
            ValueError: options that are malformed or contradict each other, or files that are no PEM.
            OSError: a file that cannot be read.
        """
        self._settings: ChannelSettings = channel_settings(
            target,
            plaintext=plaintext,
            ca=ca,
            cert=cert,
            key=key,
            server_name=server_name,
            token=token,
            gzip=gzip,
            retry=retry,
            max_message_bytes=max_message_bytes,
        )
        self._timeout = checked_timeout(timeout)
        self._conversation = Conversation()
        self._closed = False
        self._open()

    def _open(self) -> None:
        """Makes the channel, where that can be done before the first call."""

    def _deadline(self, timeout: float | Default | None) -> Deadline:
        if self._closed:
            raise RuntimeError("the client is closed")
        return Deadline(self._timeout if isinstance(timeout, Default) else checked_timeout(timeout))


class Deadline:
    """When a method has to be done; what it does on the way shares the time."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Seconds, more than 0; None is without end. With none left, DeadlineExceededError: gRPC would still try."""
        if self._end is None:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise out_of_time()
        return left


def checked_timeout(timeout: float | None) -> float | None:
    if timeout is not None and (not timeout >= 0 or math.isinf(timeout)):
        raise ValueError(f"timeout: expected seconds, at least 0, or None, got {timeout}")
    return timeout


def batch_rows(
    rows: Iterable[Features], request_ids: Sequence[str] | None, version: str, config: InferenceConfig | None
) -> list[Row]:
    features = list(rows)
    ids: Sequence[str] = [""] * len(features) if request_ids is None else request_ids
    if len(ids) != len(features):
        raise ValueError(f"request_ids: expected {len(features)}, one for each row, got {len(ids)}")
    return [Row(row, request_id, version, config) for row, request_id in zip(features, ids, strict=True)]
