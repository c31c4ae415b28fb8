# SPDX-License-Identifier: Apache-2.0
"""Edits of a repository on disk. Every serving process follows the disk, so nothing else is done here.

What several processes may edit at once is guarded by a lock on a file of the model's directory, and what appears,
appears by a rename.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from concord_server import telemetry
from concord_server.fault import Fault, Reason, quote, shown
from concord_server.model import Call, is_id
from concord_server.repository.disk import MissingError, RefusedError, entries, open_directory, open_regular, read_file
from concord_server.repository.load import check_kind
from concord_server.repository.package import read
from concord_server.repository.scan import LABELS, MAX_LABELS_BYTES, parse_labels
from concord_server.repository.version import no_version

__all__ = ["Editor"]

_LOCK = ".lock"
_LOCK_WAIT_SECONDS = 0.01

_UNLOADED = ".unload-"
"""Begins the name of a version that is being removed."""
_SWEEP_AGE_SECONDS = 600.0
"""The age at which what is left of a removal is nobody's who still removes it."""

_log = telemetry.log(__name__)


class Editor:
    """Puts versions into a repository, takes them out, and points labels at them.

    The names that it is given must be in their grammar. Whatever else fails on the disk is an OSError.
    """

    def __init__(self, models: Path, staging: Path | None, *, require_manifest: bool = False) -> None:
        """Packages come from `staging`, from <model_id>/<version> there."""
        self._models = models
        self._staging = staging
        self._require_manifest = require_manifest

    def load(self, model_id: str, number: str, call: Call) -> None:
        """Moves a staged package into the repository, once its files are as its manifest says. Raises Fault."""
        staging = self._staging
        if staging is None:
            fault = Fault(Reason.STAGING_UNSET, "the server has no staging directory")
            raise fault.at(model_id, number)
        if os.path.lexists(self._models / model_id / number):
            raise _version_exists(model_id, number)
        self._check_staged(staging, model_id, number)
        (self._models / model_id).mkdir(mode=0o755, exist_ok=True)
        with contextlib.ExitStack() as stack:
            try:
                source, root, directory = self._open(staging, model_id, stack)
            except RefusedError as error:
                raise _failed(model_id, number, error) from error
            beside = f".load-{number}-{secrets.token_hex(8)}"
            call.check()
            try:
                copied = _bring(source, directory, number, beside)
            except FileNotFoundError as error:  # somebody else has taken it
                raise _not_staged(model_id, number) from error
            try:
                with _locked(directory, call):
                    if _exists(directory, number):
                        raise _version_exists(model_id, number)
                    os.rename(beside, number, src_dir_fd=directory, dst_dir_fd=directory)
                    os.fsync(directory)
            except BaseException:
                if copied:
                    shutil.rmtree(beside, dir_fd=directory)
                else:
                    os.rename(beside, number, src_dir_fd=directory, dst_dir_fd=source)
                raise
            os.fsync(root)
            if copied:
                shutil.rmtree(number, dir_fd=source)
        _log.info("model loaded from staging", model_id=model_id, model_version=number)

    def unload(self, model_id: str, number: str, call: Call) -> None:
        """Takes a version out of the repository; processes that serve it finish what they have taken. Raises Fault."""
        with self._model(model_id) as directory:
            away = f"{_UNLOADED}{number}-{secrets.token_hex(8)}"
            with _locked(directory, call):
                self._check_version(directory, model_id, number)
                os.rename(number, away, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)
            if stat.S_ISDIR(os.stat(away, dir_fd=directory, follow_symlinks=False).st_mode):
                shutil.rmtree(away, dir_fd=directory)
            else:
                os.unlink(away, dir_fd=directory)
        _log.info("model unloaded", model_id=model_id, model_version=number)

    def set_label(self, model_id: str, label: str, number: str, call: Call) -> Mapping[str, str]:
        """Points a label at a version that is in the repository, or removes it where the number is empty.

        Gives the model's labels after the change. Raises Fault.
        """
        with self._model(model_id) as directory, _locked(directory, call):
            if number:
                self._check_version(directory, model_id, number)
            try:
                members = _read_members(directory)
            except RefusedError as error:
                why = str(error)
                text = why if why.startswith(LABELS) else f"{LABELS}: {why}"
                raise Fault(Reason.MODEL_FAILED, f"model {quote(model_id)}: {text}").at(model_id) from error
            if number:
                members[label] = json.dumps(number)
            else:
                members.pop(label, None)
            data = _document(members)
            _replace(directory, LABELS, data)
        if number:
            _log.info("label set", model_id=model_id, model_version=number, label=label)
        else:
            _log.info("label removed", model_id=model_id, model_version=number, label=label)
        return parse_labels(data)[0]

    def sweep(self, age_seconds: float = _SWEEP_AGE_SECONDS) -> None:
        """Removes what editors that ended in the middle of an unload have left.

        What ended in the middle of a load stays: it may be the only copy there is.
        """
        with contextlib.suppress(RefusedError), open_directory(os.fspath(self._models)) as root:
            for item in entries(root):
                if is_id(item.name) and item.is_dir(follow_symlinks=False):
                    with contextlib.suppress(RefusedError), open_directory(item.name, root) as directory:
                        _sweep(item.name, directory, time.time() - age_seconds)

    def _check_staged(self, staging: Path, model_id: str, number: str) -> None:
        try:
            with (
                open_directory(os.fspath(staging)) as root,
                open_directory(model_id, root) as parent,
                open_directory(number, parent) as directory,
            ):
                try:
                    check_kind(read(directory, self._require_manifest).manifest)
                except RefusedError as error:
                    raise _failed(model_id, number, error) from error
        except MissingError as error:
            raise _not_staged(model_id, number) from error
        except RefusedError as error:
            raise _failed(model_id, number, error) from error

    def _open(self, staging: Path, model_id: str, stack: contextlib.ExitStack) -> tuple[int, int, int]:
        """The model's staged directory, the repository, and the model's directory there."""
        enter = stack.enter_context
        source = enter(open_directory(model_id, enter(open_directory(os.fspath(staging)))))
        root = enter(open_directory(os.fspath(self._models)))
        return source, root, enter(open_directory(model_id, root))

    @contextlib.contextmanager
    def _model(self, model_id: str) -> Iterator[int]:
        with contextlib.ExitStack() as stack:
            root = stack.enter_context(open_directory(os.fspath(self._models)))
            try:
                directory = stack.enter_context(open_directory(model_id, root))
            except RefusedError as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and cause.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise Fault(Reason.MODEL_NOT_FOUND, f"model {quote(model_id)} not found").at(model_id) from error
                raise
            yield directory

    def _check_version(self, directory: int, model_id: str, number: str) -> None:
        try:
            mode = os.stat(number, dir_fd=directory, follow_symlinks=False).st_mode
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENAMETOOLONG):
                raise
            mode = 0
        # A link is a version as well: one that fails.
        if not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
            raise no_version(model_id, number)


def _failed(model_id: str, number: str, why: Exception) -> Fault:
    text = f"model {quote(model_id)} version {shown(number)} failed to load: {why}"
    return Fault(Reason.MODEL_FAILED, text).at(model_id, number)


def _not_staged(model_id: str, number: str) -> Fault:
    text = f"model {quote(model_id)} has no version {shown(number)} in the staging directory"
    return Fault(Reason.VERSION_NOT_FOUND, text).at(model_id, number)


def _version_exists(model_id: str, number: str) -> Fault:
    text = f"model {quote(model_id)} has version {shown(number)} already"
    return Fault(Reason.VERSION_EXISTS, text).at(model_id, number)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _sweep(model_id: str, directory: int, before: float) -> None:
    for left in entries(directory):
        if not left.name.startswith(_UNLOADED):
            continue
        try:
            status = left.stat(follow_symlinks=False)
            if status.st_ctime >= before:
                continue
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(left.name, dir_fd=directory)
            else:
                os.unlink(left.name, dir_fd=directory)
        except OSError as error:
            cause = (error.strerror or "unknown error").lower()
            _log.warning(
                "what is left of an unload cannot be removed", model_id=model_id, name=shown(left.name), cause=cause
            )
        else:
            _log.info("what was left of an unload is removed", model_id=model_id, name=shown(left.name))


@contextlib.contextmanager
def _locked(directory: int, call: Call) -> Iterator[None]:
    """Holds the model's lock. Raises the call's Fault where it ends before the lock is free."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(_LOCK, flags, 0o600, dir_fd=directory)
    try:
        while True:
            call.check()
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_WAIT_SECONDS)
        yield
    finally:
        os.close(descriptor)  # which also lets the lock go


def _bring(source: int, directory: int, number: str, beside: str) -> bool:
    """Moves a staged version beside its place, and tells whether it had to be copied."""
    try:
        os.rename(number, beside, src_dir_fd=source, dst_dir_fd=directory)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    else:
        return False
    os.mkdir(beside, 0o755, dir_fd=directory)
    try:
        with open_directory(number, source) as staged, open_directory(beside, directory) as target:
            for item in entries(staged):
                _copy(staged, target, item.name)
            os.fsync(target)
    except BaseException:
        shutil.rmtree(beside, dir_fd=directory)
        raise
    return True


def _copy(source: int, target: int, name: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        open_regular(source, name) as descriptor,
        os.fdopen(os.open(name, flags, 0o644, dir_fd=target), "wb") as copy,
        os.fdopen(descriptor, "rb", closefd=False) as original,
    ):
        shutil.copyfileobj(original, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())


def _read_members(directory: int) -> dict[str, str]:
    """The members of labels.json, each with the text of its value. Raises RefusedError."""
    try:
        data = read_file(directory, LABELS, MAX_LABELS_BYTES)
    except MissingError:
        return {}
    parse_labels(data)  # refuses what is no object
    text = data.decode("utf-8", "replace")
    decoder = json.JSONDecoder()
    members: dict[str, str] = {}
    at = _next(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        begin = _next(text, _next(text, at) + 1)  # behind the colon
        _, end = decoder.raw_decode(text, begin)
        members[name] = text[begin:end]
        at = _next(text, end)
        if text[at] == ",":
            at = _next(text, at + 1)
    return members


def _next(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _document(members: Mapping[str, str]) -> bytes:
    names = sorted(members, key=lambda name: name.encode("utf-8", "surrogatepass"))
    lines = [f"  {json.dumps(name)}: {members[name]}" for name in names]
    return ("{\n" + ",\n".join(lines) + "\n}\n" if lines else "{}\n").encode("utf-8", "surrogatepass")


def _replace(directory: int, name: str, data: bytes) -> None:
    """Writes a file of a directory so that it is the old one or the new one, whole, whatever happens."""
    beside = f".{name}-{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(beside, flags, 0o644, dir_fd=directory), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside, dir_fd=directory)
        raise
    os.fsync(directory)
