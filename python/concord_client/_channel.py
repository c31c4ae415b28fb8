# SPDX-License-Identifier: Apache-2.0
"""How a client connects: one gRPC channel's credentials and settings, the same for both clients."""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import grpc

from concord_client._address import is_loopback

MAX_MESSAGE_BYTES = 100 << 20  # 100 MiB, the servers' default

Token: TypeAlias = str | Callable[[], str]
PathLike: TypeAlias = str | os.PathLike[str]

# What is worth sending again without asking the caller: only what was not processed.
#
# UNAVAILABLE: a Concord server sends it before it looks at the request (loading, draining), and gRPC where no
# connection is to be had. gRPC also makes it of a connection that broke while the answer was awaited. Then the server
# may have computed it, but these methods only read, and the same request gets the same answer, so sending it twice is
# harmless.
#
# RESOURCE_EXHAUSTED is not listed. gRPC's pushback (grpc-retry-pushback-ms) can only delay or forbid the retry of a
# listed code; so listing it for a full queue's sake would also resend messages that are too large, and send more to a
# server without pushback that has just said it has too much. The caller finds `retry_delay` on the error and decides.
#
# Everything else says that the request was judged (INVALID_ARGUMENT, NOT_FOUND, ...), ran (INTERNAL) or has no time
# left.
#
# Five attempts wait some 1.5 s together; the deadline ends them all. Throttling stops retries on a channel after about
# a hundred failures in a row, so that clients don't multiply an outage.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "inference.v1.InferenceService"}, {"service": "inference.v1.ModelCatalogService"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 200, "tokenRatio": 0.1},
}

# RFC 6750; in particular no line break at the end, which a file or command adds easily.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """Everything that makes a channel; checked, nothing opened yet."""

    target: str
    credentials: grpc.ChannelCredentials | None
    """None is plaintext."""
    options: tuple[tuple[str, Any], ...]
    compression: grpc.Compression
    token: Token | None

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call."""
        if self.token is None:
            return ()
        token = self.token if isinstance(self.token, str) else self.token()
        return (("authorization", f"Bearer {_checked_token(token)}"),)


def channel_settings(
    target: str,
    *,
    plaintext: bool | None,
    ca: PathLike | None,
    cert: PathLike | None,
    key: PathLike | None,
    server_name: str | None,
    token: Token | None,
    gzip: bool,
    retry: bool,
    max_message_bytes: int,
) -> ChannelSettings:
    """Checks the options against each other. Raises ValueError for a contradiction, OSError for an unreadable file."""
    loopback = is_loopback(target)
    tls_files = ca is not None or cert is not None or key is not None
    if plaintext is None:
        plaintext = loopback and not tls_files and server_name is None
    if plaintext and (tls_files or server_name is not None):
        raise ValueError("plaintext: expected no ca, cert, key or server_name beside it")
    if plaintext and token is not None and not loopback:
        raise ValueError(f"token: it is never sent in plaintext to another machine ({target}); use TLS")
    if isinstance(token, str):
        _checked_token(token)
    if not 1 <= max_message_bytes < 2**31:
        raise ValueError(f"max_message_bytes: expected 1 to {2**31 - 1}, got {max_message_bytes}")
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # By default gRPC doesn't retry what is larger than 256 KiB. It keeps references, not copies.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # After an outage the next try is seconds away, not two minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # A name server may not set the retry policy.
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.primary_user_agent", "concord-python"),
    ]
    if retry:
        options.append(("grpc.service_config", json.dumps(_SERVICE_CONFIG)))
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    if loopback:
        # What stays on this machine must not go through a proxy that the environment names.
        options.append(("grpc.enable_http_proxy", 0))
    return ChannelSettings(
        target=target,
        credentials=None if plaintext else _credentials(ca, cert, key),
        options=tuple(options),
        compression=grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression,
        token=token,
    )


def _credentials(ca: PathLike | None, cert: PathLike | None, key: PathLike | None) -> grpc.ChannelCredentials:
    if (cert is None) != (key is None):
        raise ValueError("cert and key: expected both or none")
    roots = _system_roots() if ca is None else _checked_roots(Path(ca))
    chain = private_key = None
    if cert is not None and key is not None:
        _check_pair(Path(cert), Path(key))
        chain, private_key = Path(cert).read_bytes(), Path(key).read_bytes()
    return grpc.ssl_channel_credentials(root_certificates=roots, private_key=private_key, certificate_chain=chain)


def _system_roots() -> bytes | None:
    """The roots that this machine trusts. gRPC's own default is a list in its package, without a company's
    authority."""
    if os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        return None
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, certificates)).encode() or None


# gRPC finds a bad file only during the handshake, and then says little; so they are tried here first.


def _checked_roots(ca: Path) -> bytes:
    pem = ca.read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii", errors="replace"))
    except ssl.SSLError as error:
        raise ValueError(f"ca: expected certificates in PEM, got {ca}: {error}") from error
    return pem


def _check_pair(cert: Path, key: Path) -> None:
    def no_password() -> str:
        raise ValueError(f"key: expected a key without a password, got {key}")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=no_password)
    except ssl.SSLError as error:
        raise ValueError(
            f"cert and key: expected a certificate and its key in PEM, got {cert} and {key}: {error}"
        ) from error


def _checked_token(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        # Without the token itself: errors end up in logs.
        raise ValueError("token: expected letters, digits and ._~+/-, with = at the end only (a line break, perhaps?)")
    return token
