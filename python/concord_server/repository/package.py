# SPDX-License-Identifier: Apache-2.0
"""The verified bytes of a version: each file is read once, and what was hashed is what is used."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import manifest_pb2
from google.protobuf import json_format

from concord_server.fault import quote, scrub, shown
from concord_server.generate import GENAI_CONFIG
from concord_server.repository.disk import RefusedError, entries, open_regular, read_file, read_sized

__all__ = ["MANIFEST", "MAX_MANIFEST_BYTES", "Contents", "parse_manifest", "read"]

MANIFEST = "manifest.json"
_GRAPH = "model.onnx"
_EXTERNAL = "model.onnx.data"
_GOLDEN = "golden.binpb"
_TOKENIZER = "tokenizer.json"
_TOKENIZER_ENDINGS = (".json", ".jinja", ".txt", ".model")

MAX_MANIFEST_BYTES = 16 << 20
_MAX_TOKENIZER_BYTES = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NOT_IN_A_NAME = re.compile(r"[/\\\x00-\x1f\x7f]")


@dataclass(slots=True)
class Contents:
    """What a version's directory holds."""

    manifest: manifest_pb2.Manifest | None
    """None for a bare model."""
    graph: bytes = b""
    golden: bytes = b""
    external: dict[str, bytes] = field(default_factory=dict)
    """By name: what the graph's external initializers may lie in."""
    generator: dict[str, bytes] | None = None
    """By name: of a text generator, the files of its tokenizer and what genai_config.json says; None of other kinds."""


def read(directory: int, require_manifest: bool) -> Contents:
    """Reads the directory of a version, whole. Raises RefusedError."""
    names: list[str] = []
    for item in entries(directory):
        if item.is_symlink():
            raise RefusedError(f"{shown(item.name)} is a link")
        names.append(item.name)
    if MANIFEST in names:
        return _read_package(directory, names)
    if _GRAPH not in names:
        raise RefusedError(f"expected {MANIFEST} or {_GRAPH}, got neither")
    if require_manifest:
        raise RefusedError(f"{MANIFEST} is missing, and this server requires it")
    return _read_bare(directory, names)


def _read_package(directory: int, names: list[str]) -> Contents:
    manifest = parse_manifest(read_file(directory, MANIFEST, MAX_MANIFEST_BYTES))
    listed = {MANIFEST, *(file.name for file in manifest.files)}
    for name in names:
        if name not in listed:
            raise RefusedError(f"{shown(name)} is not listed in {MANIFEST}")
    contents = Contents(manifest)
    for file in manifest.files:
        data = _read_listed(directory, file)
        if file.name == _GRAPH:
            contents.graph = data
        elif file.name == _GOLDEN:
            contents.golden = data
        else:
            contents.external[file.name] = data
    if manifest.kind == model_pb2.MODEL_KIND_GENERATOR:
        contents.generator = {name: contents.external.pop(name) for name in _generators(contents.external)}
    return contents


def _generators(names: Iterable[str]) -> list[str]:
    """Those of the names that a tokenizer may want; a graph's external data has other ones."""
    return [name for name in names if name.endswith(_TOKENIZER_ENDINGS)]


def _read_listed(directory: int, file: manifest_pb2.File) -> bytes:
    with open_regular(directory, file.name) as descriptor:
        if os.fstat(descriptor).st_size != file.size_bytes:
            raise RefusedError(f"size of {file.name} is not the manifest's")
        data = read_sized(descriptor, file.name, file.size_bytes)
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise RefusedError(f"sha256 of {file.name} is not the manifest's")
    return data


def _read_bare(directory: int, names: list[str]) -> Contents:
    contents = Contents(None, graph=read_file(directory, _GRAPH))
    if _EXTERNAL in names:
        contents.external[_EXTERNAL] = _read_own(directory, _EXTERNAL)
    if GENAI_CONFIG in names:
        ours = _generators(filter(_is_file_name, names))
        contents.generator = {name: _read_own(directory, name, _MAX_TOKENIZER_BYTES) for name in ours}
        if _TOKENIZER not in contents.generator:
            raise RefusedError(f"{_TOKENIZER} is missing")
    return contents


def _read_own(directory: int, name: str, limit: int | None = None) -> bytes:
    """A file that no hash tells of, so it must not be somebody else's under a second name. Raises RefusedError."""
    with open_regular(directory, name) as descriptor:
        status = os.fstat(descriptor)
        if status.st_nlink > 1:
            raise RefusedError(f"{name} has several links")
        if limit is not None and status.st_size > limit:
            raise RefusedError(f"{shown(name)}: expected at most {limit} bytes, got {status.st_size}")
        return read_sized(descriptor, name, status.st_size)


def parse_manifest(data: bytes) -> manifest_pb2.Manifest:
    """Reads a manifest strictly and checks what it says of files; the graph is needed for the rest.

    Raises RefusedError.
    """
    manifest = manifest_pb2.Manifest()
    try:
        json_format.Parse(data.decode("utf-8"), manifest)
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        # The library lists all that it would have expected in further lines.
        first = str(error).partition("\n")[0]
        raise RefusedError(f"{MANIFEST} is no manifest: {scrub(first)}") from error
    files: set[str] = set()
    for file in manifest.files:
        name = file.name
        if not _is_file_name(name):
            raise RefusedError(f"files: expected a file name without directory and leading dot, got {quote(name)}")
        if name == MANIFEST:
            raise RefusedError(f"files: {MANIFEST} lists itself")
        if name in files:
            raise RefusedError(f"files: {quote(name)} is listed twice")
        if not _SHA256.fullmatch(file.sha256):
            text = f"expected 64 lower-case hexadecimal digits, got {quote(file.sha256)}"
            raise RefusedError(f"files: sha256 of {quote(name)}: {text}")
        if file.size_bytes < 0:
            raise RefusedError(f"files: size of {quote(name)}: expected at least 0, got {file.size_bytes}")
        files.add(name)
    needed = [_GRAPH, _GOLDEN]
    if manifest.kind == model_pb2.MODEL_KIND_GENERATOR:
        needed += [GENAI_CONFIG, _TOKENIZER]
    for name in needed:
        if name not in files:
            raise RefusedError(f"files: {name} is not listed")
    if manifest.batching.max_batch_rows < 0:
        rows = manifest.batching.max_batch_rows
        raise RefusedError(f"batching: max_batch_rows: expected at least 0, got {rows}")
    return manifest


def _is_file_name(name: str) -> bool:
    return 0 < len(name.encode("utf-8")) <= 255 and name[0] != "." and not _NOT_IN_A_NAME.search(name)
