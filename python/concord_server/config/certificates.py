# SPDX-License-Identifier: Apache-2.0
"""The certificates of the gRPC listener, read and parsed before anything starts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from concord_proto.serverconfig.v1 import server_config_pb2

from concord_server.config.merge import ConfigError, quoted

__all__ = ["Certificates", "read"]


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM, as read."""

    chain: bytes
    key: bytes
    client_authorities: bytes | None
    """Clients must show a certificate of one of them; None: clients need none."""


def read(message: server_config_pb2.ServerConfig) -> Certificates | None:
    """The certificates that a configuration names; None for plaintext. Raises ConfigError."""
    if not message.tls_cert and not message.tls_key:
        if message.tls_client_ca:
            raise ConfigError("tls_client_ca: expected tls_cert and tls_key with it, got neither")
        return None
    if not message.tls_cert:
        raise ConfigError("tls_key: expected tls_cert with it, got nothing")
    if not message.tls_key:
        raise ConfigError("tls_cert: expected tls_key with it, got nothing")
    if message.plaintext:
        raise ConfigError("plaintext: expected no tls_cert with it, got one")
    chain = _read_pem("tls_cert", message.tls_cert, "CERTIFICATE")
    key = _read_pem("tls_key", message.tls_key, "PRIVATE KEY")
    _check_pair(message.tls_cert, message.tls_key)
    if not message.tls_client_ca:
        return Certificates(chain, key, None)
    return Certificates(chain, key, _read_pem("tls_client_ca", message.tls_client_ca, "CERTIFICATE"))


def _read_pem(field: str, name: str, block: str) -> bytes:
    """A file with a block of the type that can be parsed."""
    try:
        data = Path(name).read_bytes()
    except OSError:
        raise ConfigError(f"{field}: expected a file that can be read, got {quoted(name)}") from None
    found = re.search(rb"-----BEGIN (?:[A-Z0-9 ]+ )?%s-----.+?-----END " % block.encode(), data, re.DOTALL)
    if found is None:
        raise ConfigError(f"{field}: expected PEM with a {block}, got {quoted(name)} without one")
    if block == "CERTIFICATE":
        import ssl  # only servers with certificates pay for it

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=data.decode("ascii", "replace"))
        except ssl.SSLError:
            text = f"expected a certificate that can be parsed, got {quoted(name)} with another"
            raise ConfigError(f"{field}: {text}") from None
    return data


def _check_pair(cert: str, key: str) -> None:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # Without a password at hand OpenSSL would ask for one on the terminal.
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or "it cannot be parsed"
        why = str(reason).replace("_", " ").lower()
        raise ConfigError(f"tls_key: expected the private key of tls_cert's certificate: {why}") from None
