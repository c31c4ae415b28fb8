# SPDX-License-Identifier: Apache-2.0
"""The servers' own rules for graphs, asked at export: what they would refuse is better refused here."""

from __future__ import annotations

from concord_server.admission.graph import Refused, check

from concord_export.errors import ConversionError

__all__ = ["check_admission"]


def check_admission(
    serialized: bytes,
    external_files: frozenset[str] = frozenset(),
    *,
    integer_division: bool = False,
    generator: bool = False,
) -> None:
    """Raises ConversionError if servers would refuse the graph. `external_files` may hold its tensors' data.

    `generator` says that it is a text generator's; `integer_division` is for servers that run with
    allow_integer_division.
    """
    try:
        check(serialized, external_files=external_files, integer_division=integer_division, generator=generator)
    except Refused as error:
        raise ConversionError(f"servers would refuse the graph: {error}") from None
