# SPDX-License-Identifier: Apache-2.0
"""An authority and a server certificate for one run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

__all__ = ["Certificates", "make_certificates"]


@dataclass(frozen=True)
class Certificates:
    """What the server is given as files, and what clients trust as PEM bytes."""

    chain: Path
    key: Path
    authority: bytes


def make_certificates(directory: Path) -> Certificates:
    """Writes a certificate for 127.0.0.1 into `directory`."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    made = Certificates(directory / "server.pem", directory / "server.key", authority.cert_pem.bytes())
    made.chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(made.key))
    return made
