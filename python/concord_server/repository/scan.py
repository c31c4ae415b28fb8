# SPDX-License-Identifier: Apache-2.0
"""Which models, versions and labels there are, by their names alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from concord_server.fault import shown
from concord_server.model import is_id, is_label, is_version, version_order
from concord_server.repository.disk import RefusedError, entries, open_directory, read_file

__all__ = ["Found", "parse_labels", "scan"]

_LABELS = "labels.json"
_MAX_LABELS_BYTES = 1 << 20

LeftOut = Callable[[str, str], None]
"""Told the name of what is left out, and why."""


@dataclass(slots=True)
class Found:
    """A model's directory."""

    labels: dict[str, str] = field(default_factory=dict)
    """Label to version."""
    versions: list[str] = field(default_factory=list)
    """By ascending number."""
    links: set[str] = field(default_factory=set)
    """Those of the versions whose directory is a link."""


def scan(root: int, left_out: LeftOut) -> dict[str, Found]:
    """The models of a repository by id. No file of a version is opened. Raises RefusedError."""
    models: dict[str, Found] = {}
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
            except RefusedError as error:
                left_out(item.name, str(error))
    return models


def _scan_model(root: int, model_id: str, left_out: LeftOut) -> Found:
    found = Found()
    with open_directory(model_id, root) as directory:
        for item in entries(directory):
            name = item.name
            if name.startswith("."):
                continue
            if name == _LABELS:
                found.labels = _read_labels(directory, model_id, left_out)
            elif item.is_symlink():
                if is_version(name):
                    found.versions.append(name)
                    found.links.add(name)
                else:
                    left_out(f"{model_id}/{name}", "it is a link")
            elif not item.is_dir(follow_symlinks=False):
                continue
            elif not is_version(name):
                left_out(f"{model_id}/{name}", "its name is no version")
            else:
                found.versions.append(name)
    found.versions.sort(key=version_order)
    return found


def _read_labels(directory: int, model_id: str, left_out: LeftOut) -> dict[str, str]:
    """A label that breaks the grammar is left out alone, a file that is no JSON object with all its labels."""
    name = f"{model_id}/{_LABELS}"
    try:
        labels, bad = parse_labels(read_file(directory, _LABELS, _MAX_LABELS_BYTES))
    except RefusedError as error:
        left_out(name, str(error))
        return {}
    for label in bad:
        left_out(f"{name} label {shown(label)}", "expected a label [a-z][a-z0-9-]{0,62} with a version number")
    return labels


def parse_labels(data: bytes) -> tuple[dict[str, str], list[str]]:
    """Reads a JSON object from label to version, a string or an integer: the good ones, and the names of the bad.

    Raises RefusedError where it is no JSON object.
    """
    try:
        # Numbers stay as they are written: 1.0 and 1e0 are no versions.
        document: Any = json.loads(data, parse_int=str, parse_float=_not_a_version, parse_constant=_not_a_version)
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
