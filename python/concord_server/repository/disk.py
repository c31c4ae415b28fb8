# SPDX-License-Identifier: Apache-2.0
"""Directories and files below the repository's root, read without following a link."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from concord_server.fault import shown

__all__ = ["MissingError", "RefusedError", "entries", "open_directory", "open_regular", "read_file", "read_sized"]


class RefusedError(Exception):
    """Something on disk is not what it must be; the text names files by their last element alone."""


class MissingError(RefusedError):
    """Something is not on disk at all."""


@contextmanager
def open_directory(path: str, parent: int | None = None) -> Iterator[int]:
    """A descriptor of a directory that is no link, below `parent` where given. Raises RefusedError."""
    # The root itself may be a link: the operator named it.
    follow = 0 if parent is None else os.O_NOFOLLOW
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | follow, dir_fd=parent)
    except FileNotFoundError as error:
        raise MissingError(_plain(error)) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise MissingError(_plain(error)) from error
        if parent is not None and _is_link(parent, path):
            raise RefusedError("its directory is a link") from error
        raise RefusedError(_plain(error)) from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def entries(directory: int) -> list[os.DirEntry[str]]:
    """What a directory holds, by name. Raises RefusedError."""
    try:
        with os.scandir(directory) as items:
            return sorted(items, key=lambda item: os.fsencode(item.name))
    except OSError as error:
        raise RefusedError(_plain(error)) from error


@contextmanager
def open_regular(directory: int, name: str) -> Iterator[int]:
    """A descriptor of a regular file of the directory, no link. Raises RefusedError."""
    base = shown(name)
    try:
        # Not blocking: opening a pipe would wait for a writer.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError as error:
        raise MissingError(f"{base} is missing") from error
    except OSError as error:
        if _is_link(directory, name):
            raise RefusedError(f"{base} is a link") from error
        if not _is_regular(directory, name):
            raise RefusedError(f"{base} is no regular file") from error
        raise RefusedError(f"{base} cannot be read: {_plain(error)}") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RefusedError(f"{base} is no regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def read_file(directory: int, name: str, limit: int | None = None) -> bytes:
    """A regular file of at most `limit` bytes. Raises RefusedError."""
    with open_regular(directory, name) as descriptor:
        size = os.fstat(descriptor).st_size
        if limit is not None and size > limit:
            raise RefusedError(f"{shown(name)}: expected at most {limit} bytes, got {size}")
        return read_sized(descriptor, name, size)


def read_sized(descriptor: int, name: str, size: int) -> bytes:
    """A file that must hold exactly so many bytes. Raises RefusedError."""
    try:
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            data = bytearray(size)
            view, filled = memoryview(data), 0
            while filled < size and (count := file.readinto(view[filled:])):
                filled += count
            complete = filled == size and not file.read(1)
    except OSError as error:
        raise RefusedError(f"{shown(name)} cannot be read: {_plain(error)}") from error
    if not complete:
        raise RefusedError(f"{shown(name)} changed while it was read")
    view.release()
    return bytes(data)


def _is_link(directory: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _is_regular(directory: int, name: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return True


def _plain(error: OSError) -> str:
    """An error of the file system without the path that it names."""
    return (error.strerror or "unknown error").lower()
