# SPDX-License-Identifier: Apache-2.0
"""What lies in a repository, by names, sizes and times alone: no file of a version is opened."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from concord_server.fault import shown
from concord_server.model import is_id, is_label, is_version
from concord_server.repository.disk import MissingError, RefusedError, entries, open_directory, read_file

__all__ = ["LABELS", "MAX_LABELS_BYTES", "Found", "Look", "parse_labels", "scan"]

LABELS = "labels.json"
MAX_LABELS_BYTES = 1 << 20

LeftOut = Callable[[str, str], None]
"""Told the name of what is left out, and why."""

Look = tuple[Any, ...]
"""How a version's directory looks; equal looks mean that no file has changed."""

_LINK: Look = ("link",)


@dataclass(slots=True)
class Found:
    """A model's directory. What could not be read is None: of that nothing is known."""

    versions: dict[str, Look | None] = field(default_factory=dict)
    """By number."""
    labels: dict[str, str] | None = field(default_factory=dict)
    """Label to version."""


def scan(root: int, left_out: LeftOut) -> dict[str, Found | None]:
    """The models of a repository by id; None is one that cannot be read. Raises RefusedError."""
    models: dict[str, Found | None] = {}
    for item in entries(root):
        if item.name.startswith("."):
            continue
        if item.is_symlink():
            left_out(item.name, "it is a link")
        elif not item.is_dir(follow_symlinks=False):
            continue
        elif not is_id(item.name):
            left_out(item.name, "its name is no model id")
        else:
            try:
                models[item.name] = _scan_model(root, item.name, left_out)
            except MissingError:
                continue  # gone since it was listed
            except RefusedError as error:
                models[item.name] = None
                left_out(item.name, str(error))
    return models


def _scan_model(root: int, model_id: str, left_out: LeftOut) -> Found:
    found = Found()
    with open_directory(model_id, root) as directory:
        for item in entries(directory):
            name = item.name
            if name.startswith("."):
                continue
            if name == LABELS:
                found.labels = _read_labels(directory, model_id, left_out)
            elif item.is_symlink():
                if is_version(name):
                    found.versions[name] = _LINK
                else:
                    left_out(f"{model_id}/{name}", "it is a link")
            elif not item.is_dir(follow_symlinks=False):
                continue
            elif not is_version(name):
                left_out(f"{model_id}/{name}", "its name is no version")
            else:
                try:
                    found.versions[name] = _look(directory, name)
                except MissingError:
                    continue
                except RefusedError as error:
                    found.versions[name] = None
                    left_out(f"{model_id}/{name}", str(error))
    return found


def _look(parent: int, number: str) -> Look:
    with open_directory(number, parent) as directory:
        return tuple((item.name, *_traits(item)) for item in entries(directory))


def _traits(item: os.DirEntry[str]) -> tuple[int, ...]:
    try:
        status = item.stat(follow_symlinks=False)
    except OSError:
        return ()  # gone since it was listed: the next look is another one
    # The time of change tells what a restored time of modification hides.
    return stat.S_IFMT(status.st_mode), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_labels(directory: int, model_id: str, left_out: LeftOut) -> dict[str, str] | None:
    """A label that breaks the grammar is left out alone; None where the file is no JSON object that can be read."""
    name = f"{model_id}/{LABELS}"
    try:
        labels, bad = parse_labels(read_file(directory, LABELS, MAX_LABELS_BYTES))
    except MissingError:
        return {}
    except RefusedError as error:
        left_out(name, str(error))
        return None
    for label in bad:
        left_out(f"{name} label {shown(label)}", "expected a label [a-z][a-z0-9-]{0,62} with a version number")
    return labels


def parse_labels(data: bytes) -> tuple[dict[str, str], list[str]]:
    """Reads a JSON object from label to version, a string or an integer: the good ones, and the names of the bad.

    Raises RefusedError where it is no JSON object.
    """
    try:
        # Numbers stay as they are written: 1.0 and 1e0 are no versions.
        text = data.decode("utf-8", "replace")
        document: Any = json.loads(text, parse_int=str, parse_float=_not_a_version, parse_constant=_not_a_version)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RefusedError("expected a JSON object from label to version")
    labels: dict[str, str] = {}
    bad: list[str] = []
    for label, version in document.items():
        if is_label(label) and isinstance(version, str) and is_version(version):
            labels[label] = version
        else:
            bad.append(label)
    return labels, sorted(bad)


def _not_a_version(_text: str) -> None:
    return None
