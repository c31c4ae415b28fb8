# SPDX-License-Identifier: Apache-2.0
"""The libonnxruntime that this server runs: the one inside the installed onnxruntime package."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

__all__ = ["check_library", "library"]


def library() -> Path:
    """The libonnxruntime of the installed package. Raises FileNotFoundError where it brings none."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the onnxruntime package has no files")
    folder = Path(spec.origin).parent / "capi"
    for path in sorted(folder.glob("libonnxruntime.so.*")):
        return path
    raise FileNotFoundError("the onnxruntime package brings no libonnxruntime")


def check_library(path: Path) -> str | None:
    """What is wrong with a file that should be the library that this server runs; None where it is byte-identical."""
    own = library()
    try:
        if path.samefile(own):
            return None
        same = path.stat().st_size == own.stat().st_size and _digest(path) == _digest(own)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if same:
        return None
    version = own.name.removeprefix("libonnxruntime.so.")
    return f"expected the library of onnxruntime {version}, which this server runs, got another file"


def _digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
