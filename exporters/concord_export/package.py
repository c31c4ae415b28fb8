# SPDX-License-Identifier: Apache-2.0
"""Model packages on disk: written atomically, read only when every byte is what the manifest says.

A package is the directory `<repository>/<model id>/<version>` with `manifest.json`, `model.onnx`, `golden.binpb` and
whatever other files the manifest lists. The same input always gives the same bytes: there are no time stamps and no
random names in it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import golden_pb2, manifest_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from concord_export import __version__
from concord_export.errors import PackageExistsError, PackageInvalidError, PackageNameError

__all__ = [
    "GOLDEN_FILE",
    "MANIFEST_FILE",
    "MODEL_FILE",
    "Package",
    "check_model_id",
    "check_version",
    "next_version",
    "read_package",
    "write_package",
]

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
GOLDEN_FILE = "golden.binpb"

_MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
# Servers keep version numbers in 64 bits.
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,254}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MANIFEST_LIMIT_BYTES = 64 << 20
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Package:
    """A package whose files have been verified."""

    directory: Path
    manifest: manifest_pb2.Manifest
    golden: golden_pb2.GoldenSet

    @property
    def model_path(self) -> Path:
        """The ONNX graph."""
        return self.directory / MODEL_FILE


def check_model_id(model_id: str) -> None:
    """Raises PackageNameError unless this is a model id."""
    if not _MODEL_ID.fullmatch(model_id):
        raise PackageNameError(f"model id: expected [A-Za-z0-9][A-Za-z0-9._-]{{0,127}}, got {_quote(model_id)}")


def check_version(version: str) -> None:
    """Raises PackageNameError unless this is a version."""
    if not _VERSION.fullmatch(version):
        raise PackageNameError(
            f"version: expected a positive integer of at most 18 digits without leading zeros, got {_quote(version)}"
        )


def next_version(model: Path) -> str:
    """The version after the highest in `<repository>/<model id>`; "1" where there is none."""
    present = [int(entry.name) for entry in model.iterdir() if _VERSION.fullmatch(entry.name)] if model.is_dir() else []
    return str(max(present, default=0) + 1)


def write_package(
    directory: Path,
    *,
    model: onnx.ModelProto | bytes,
    manifest: manifest_pb2.Manifest,
    golden: golden_pb2.GoldenSet,
    extra_files: Mapping[str, bytes] = {},
    moved_files: Mapping[str, Path] = {},
    replace: bool = False,
    check: bool = True,
) -> None:
    """Writes a package to `directory`, which is `<repository>/<model id>/<version>`; missing parents are made.

    A model given as bytes is written as it is. `manifest` is left as it is; files, opsets, producer and the versions of
    the libraries used here are filled in on a copy (a library version that is already in it stays). Readers of the
    repository see the whole package or nothing: it is written below a name that begins with a dot and then renamed.
    `replace` puts it in the place of a version that is there; readers then see a moment without that version, so
    prefer a new version.

    `moved_files` are larger than memory should hold: files on the repository's file system, which are moved from where
    they are.

    `check=False` leaves out the check that manifest and golden cases can be served at all; for tests that need a
    package which servers must refuse.

    Raises PackageNameError, PackageExistsError, PackageInvalidError, OSError.
    """
    repository, model_id, version = directory.parent.parent, directory.parent.name, directory.name
    check_model_id(model_id)
    check_version(version)
    for name in (*extra_files, *moved_files):
        _check_file_name(name)
        if name in (MANIFEST_FILE, MODEL_FILE, GOLDEN_FILE) or (name in extra_files and name in moved_files):
            raise PackageNameError(f"extra file {_quote(name)}: the package writes this file itself")
    if directory.parent.is_symlink() or directory.is_symlink():
        raise PackageNameError(f"{directory}: links are refused below the repository")
    if directory.exists() and not replace:
        raise PackageExistsError(f"{directory} is there already; choose another version, or replace it")

    serialized = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
    graph = onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model
    files = {
        MODEL_FILE: serialized,
        GOLDEN_FILE: golden.SerializeToString(deterministic=True),
        **extra_files,
    }
    measured = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()}
    measured |= {name: _measure(path) for name, path in moved_files.items()}
    completed = _complete(manifest, graph, measured)
    if check:
        _check_manifest(completed)
        _check_golden(golden)

    repository.mkdir(parents=True, exist_ok=True)
    # Beside the model's directory, not in it: until the rename there may be no model of this id at all.
    staging = repository / f".{model_id}.{version}.{secrets.token_hex(8)}"
    try:
        staged = staging / version
        staged.mkdir(parents=True)
        for name, data in files.items():
            _write_file(staged / name, data)
        for name, path in moved_files.items():
            path.rename(staged / name)
            _sync_file(staged / name)
        _write_file(staged / MANIFEST_FILE, _manifest_json(completed))
        _sync_directory(staged)
        _sync_directory(staging)
        _publish(staging, directory, replace=replace)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def read_package(directory: Path) -> Package:
    """Reads a package and verifies every file: none missing, none more, no links, sizes and SHA-256 as in the manifest.

    Raises PackageInvalidError naming the first thing that is wrong; OSError where a file cannot be read.
    """
    if directory.is_symlink():
        raise PackageInvalidError(f"{directory}: is a link")
    if not directory.is_dir():
        raise PackageInvalidError(f"{directory}: is no directory")
    present = sorted(entry.name for entry in os.scandir(directory))
    if MANIFEST_FILE not in present:
        raise PackageInvalidError(f"{MANIFEST_FILE}: is missing")
    manifest = _parse_manifest(_read_file(directory / MANIFEST_FILE, limit=_MANIFEST_LIMIT_BYTES))
    _check_manifest(manifest)

    listed = {file.name: file for file in manifest.files}
    for name in present:
        if name != MANIFEST_FILE and name not in listed:
            raise PackageInvalidError(f"{name}: is not in the manifest")
    for name, file in listed.items():
        if name not in present:
            raise PackageInvalidError(f"{name}: is missing")
        size, digest = _measure(directory / name)
        if size != file.size_bytes:
            raise PackageInvalidError(f"{name}: has {size} bytes, the manifest says {file.size_bytes}")
        if digest != file.sha256:
            raise PackageInvalidError(f"{name}: sha256 is {digest}, the manifest says {file.sha256}")

    golden = golden_pb2.GoldenSet()
    try:
        golden.ParseFromString(_read_file(directory / GOLDEN_FILE))
    except DecodeError as error:
        raise PackageInvalidError(f"{GOLDEN_FILE}: is no GoldenSet: {error}") from None
    _check_golden(golden)
    return Package(directory=directory, manifest=manifest, golden=golden)


def _complete(
    manifest: manifest_pb2.Manifest, model: onnx.ModelProto, files: Mapping[str, tuple[int, str]]
) -> manifest_pb2.Manifest:
    completed = manifest_pb2.Manifest()
    completed.CopyFrom(manifest)
    del completed.files[:]
    for name in sorted(files):
        size, digest = files[name]
        completed.files.add(name=name, sha256=digest, size_bytes=size)
    completed.opsets.clear()
    for opset in model.opset_import:
        domain = "" if opset.domain == "ai.onnx" else opset.domain
        completed.opsets[domain] = opset.version
    completed.producer = f"concord-export/{__version__}"
    for distribution in ("onnx", "protobuf"):
        if distribution not in completed.library_versions:
            completed.library_versions[distribution] = importlib.metadata.version(distribution)
    return completed


def _manifest_json(manifest: manifest_pb2.Manifest) -> bytes:
    document = json_format.MessageToDict(manifest)
    # Fields come in the proto's order, maps in none.
    for key in ("opsets", "libraryVersions"):
        if key in document:
            document[key] = dict(sorted(document[key].items()))
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode()


def _parse_manifest(data: bytes) -> manifest_pb2.Manifest:
    try:
        return json_format.Parse(data.decode("utf-8"), manifest_pb2.Manifest())
    except (json_format.ParseError, UnicodeDecodeError, RecursionError) as error:
        raise PackageInvalidError(f"{MANIFEST_FILE}: {error}") from None


def _check_manifest(manifest: manifest_pb2.Manifest) -> None:
    if manifest.kind not in model_pb2.ModelKind.values() or manifest.kind == model_pb2.MODEL_KIND_UNSPECIFIED:
        raise PackageInvalidError(f"{MANIFEST_FILE}: kind is not set")
    names: set[str] = set()
    for file in manifest.files:
        if not _FILE_NAME.fullmatch(file.name) or file.name == MANIFEST_FILE:
            raise PackageInvalidError(f"{MANIFEST_FILE}: {_quote(file.name)} is no name of a package's file")
        if file.name in names:
            raise PackageInvalidError(f"{MANIFEST_FILE}: {file.name} is listed twice")
        if not _SHA256.fullmatch(file.sha256):
            raise PackageInvalidError(f"{MANIFEST_FILE}: {file.name}: sha256 is not 64 lower-case hexadecimal digits")
        if file.size_bytes < 0:
            raise PackageInvalidError(f"{MANIFEST_FILE}: {file.name}: the size is negative")
        names.add(file.name)
    for name in (MODEL_FILE, GOLDEN_FILE):
        if name not in names:
            raise PackageInvalidError(f"{MANIFEST_FILE}: {name} is not listed")
    for what, given in (
        ("feature", [binding.feature.name for binding in manifest.features]),
        ("prediction", [binding.prediction.name for binding in manifest.predictions]),
        ("output", [binding.output.name for binding in manifest.outputs]),
    ):
        for index, name in enumerate(given):
            if not name:
                raise PackageInvalidError(f"{MANIFEST_FILE}: {what} {index} has no name")
            if name in given[:index]:
                raise PackageInvalidError(f"{MANIFEST_FILE}: {what} {_quote(name)} is there twice")


def _check_golden(golden: golden_pb2.GoldenSet) -> None:
    if not golden.cases:
        raise PackageInvalidError(f"{GOLDEN_FILE}: there is no case in it")
    for index, case in enumerate(golden.cases):
        if case.WhichOneof("request") is None or case.WhichOneof("answer") is None:
            raise PackageInvalidError(f"{GOLDEN_FILE}: case {index} has no request or no answer")


def _check_file_name(name: str) -> None:
    if not _FILE_NAME.fullmatch(name):
        raise PackageNameError(
            f"extra file: expected letters, digits and ._+-, with no dot in front, got {_quote(name)}"
        )


def _publish(staging: Path, directory: Path, *, replace: bool) -> None:
    """Renames staging/<version> to its place; `staging` is removed by the caller, with whatever it holds then."""
    staged = staging / directory.name
    with contextlib.suppress(OSError):
        # The first version of a model: the model appears together with it.
        if not directory.parent.exists():
            staging.rename(directory.parent)
            _sync_directory(directory.parent.parent)
            return
    if replace and directory.exists():
        directory.rename(staging / "replaced")
    try:
        staged.rename(directory)
    except OSError as error:
        with contextlib.suppress(OSError):
            (staging / "replaced").rename(directory)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise PackageExistsError(f"{directory} is there already; choose another version, or replace it") from None
        raise
    _sync_directory(directory.parent)


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_file(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_regular(path: Path) -> int:
    try:
        # Not blocking: opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PackageInvalidError(f"{path.name}: is a link") from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PackageInvalidError(f"{path.name}: is no regular file")
    return descriptor


def _read_file(path: Path, limit: int | None = None) -> bytes:
    with open(_open_regular(path), "rb") as stream:
        data = stream.read() if limit is None else stream.read(limit + 1)
    if limit is not None and len(data) > limit:
        raise PackageInvalidError(f"{path.name}: is larger than {limit} bytes")
    return data


def _measure(path: Path) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    with open(_open_regular(path), "rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


def _quote(text: str) -> str:
    shown = text if len(text) <= 64 else text[:64] + "..."
    return json.dumps(shown, ensure_ascii=False)
