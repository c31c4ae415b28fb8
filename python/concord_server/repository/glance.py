# SPDX-License-Identifier: Apache-2.0
"""Whether a version's files are all there, told without reading them."""

from __future__ import annotations

import os
from pathlib import Path

from concord_server.repository.disk import RefusedError, entries, open_directory, open_regular, read_file
from concord_server.repository.package import MANIFEST, MAX_MANIFEST_BYTES, parse_manifest

__all__ = ["is_complete"]


def is_complete(directory: Path) -> bool:
    """Whether all files that a version's manifest lists are there, with their sizes, and no others."""
    try:
        with (
            open_directory(os.fspath(directory.parent)) as parent,
            open_directory(directory.name, parent) as descriptor,
        ):
            manifest = parse_manifest(read_file(descriptor, MANIFEST, MAX_MANIFEST_BYTES))
            if len(entries(descriptor)) != len(manifest.files) + 1:
                return False
            for file in manifest.files:
                with open_regular(descriptor, file.name) as opened:
                    if os.fstat(opened).st_size != file.size_bytes:
                        return False
    except RefusedError:
        return False
    return True
