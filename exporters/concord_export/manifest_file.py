# SPDX-License-Identifier: Apache-2.0
"""Parts of a manifest, written by hand: YAML or JSON in the fields of modelpackage.v1.Manifest."""

from __future__ import annotations

from pathlib import Path

import yaml
from concord_proto.modelpackage.v1 import manifest_pb2
from google.protobuf import json_format

from concord_export.errors import SourceError

__all__ = ["read_manifest_file"]

_FIELDS = (
    "kind",
    "description",
    "features",
    "predictions",
    "outputs",
    "batching",
    "quality",
    "libraryVersions",
    "axisLimits",
)
_ALSO = ("library_versions", "axis_limits")  # as the proto writes them


def read_manifest_file(path: Path) -> manifest_pb2.Manifest:
    """What an author says of a model. Raises SourceError naming what is wrong; OSError."""
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SourceError(f"{path.name}: {error}") from None
    if not isinstance(document, dict):
        raise SourceError(f"{path.name}: expected fields of a manifest, got {type(document).__name__}")
    for name in document:
        if name not in _FIELDS and name not in _ALSO:
            raise SourceError(f"{path.name}: {name!r} is none of {', '.join(_FIELDS)}")
    try:
        return json_format.ParseDict(document, manifest_pb2.Manifest())
    except (json_format.ParseError, RecursionError) as error:
        raise SourceError(f"{path.name}: {error}") from None
