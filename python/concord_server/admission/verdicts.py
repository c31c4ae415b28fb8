# SPDX-License-Identifier: Apache-2.0
"""The verdicts of trial loads, kept on disk for the next start. Both servers read and write the same ones."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from concord_server import telemetry

__all__ = ["RULES", "Verdicts", "digest_of", "key_of"]

RULES = 2
"""The version of the rules: it goes up whenever a rule changes."""

_MAX_BYTES = 4 << 10
_WRITABLE_FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH

_log = telemetry.log(__name__)


def key_of(
    graph: bytes,
    files: Mapping[str, bytes],
    *,
    runtime: str,
    intra_op_threads: int,
    allow_integer_division: bool,
    genai: str = "",
) -> str:
    """What a verdict depends on, as a sha256 in hexadecimal; docs/admission.md shows the lines.

    `genai` is the sha256 of onnxruntime-genai's library for a text generator, and empty for other kinds.
    """
    lines = [
        f"concord-admission {RULES}",
        f"onnxruntime {runtime}",
        f"machine {os.uname().machine}",
        f"intra_op_threads {intra_op_threads}",
        f"allow_integer_division {'true' if allow_integer_division else 'false'}",
        *([f"onnxruntime-genai {genai}"] if genai else []),
        f"model.onnx {hashlib.sha256(graph).hexdigest()}",
    ]
    lines += [f"{name} {hashlib.sha256(files[name]).hexdigest()}" for name in sorted(files, key=str.encode)]
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


@functools.cache
def digest_of(library: Path) -> str:
    """The sha256 of a library, read once: it stays as long as the process."""
    with library.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class Verdicts:
    """A directory with a small file for each verdict. Trouble with it costs a trial, never a model."""

    def __init__(self, directory: Path | None) -> None:
        """Makes the directory where it is missing; None keeps no verdicts."""
        self._directory = directory if directory is not None and _is_ours(directory) else None

    def find(self, key: str) -> str | None:
        """Why the graph of a key was refused, "" where it was admitted, None where nothing is known."""
        if self._directory is None:
            return None
        try:
            data = _read(self._directory / key)
            document: Any = json.loads(data)
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(document, dict) or document.pop("key", None) != key or len(document) != 1:
            return None
        if document.get("admitted") is True:
            return ""
        refused = document.get("refused")
        return refused if isinstance(refused, str) and refused else None

    def keep(self, key: str, refused: str) -> None:
        """Keeps a verdict: why the graph was refused, or "" where it was admitted."""
        if self._directory is None:
            return
        verdict = {"key": key, "refused": refused} if refused else {"key": key, "admitted": True}
        data = (json.dumps(verdict, ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "replace")
        if len(data) > _MAX_BYTES:
            return
        beside = self._directory / f".{key}.{secrets.token_hex(8)}"
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
            beside.rename(self._directory / key)
        except OSError as error:
            _log.warning("a verdict of admission cannot be kept", cause=error.strerror)
            with contextlib.suppress(OSError):
                beside.unlink()


def _is_ours(directory: Path) -> bool:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        _log.warning("verdicts of admission are not kept", cause=f"no directory: {error.strerror}")
        return False
    if status.st_uid != os.geteuid():
        _log.warning("verdicts of admission are not kept", cause="their directory belongs to somebody else")
        return False
    if status.st_mode & _WRITABLE_FOR_OTHERS:
        _log.warning("verdicts of admission are not kept", cause="their directory is writable for others")
        return False
    return True


def _read(path: Path) -> bytes:
    """A small regular file of ours that nobody else can write. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if (
            not stat.S_ISREG(status.st_mode)
            or status.st_uid != os.geteuid()
            or status.st_mode & _WRITABLE_FOR_OTHERS
            or status.st_size > _MAX_BYTES
        ):
            raise PermissionError("not ours")
        return stream.read(_MAX_BYTES)
