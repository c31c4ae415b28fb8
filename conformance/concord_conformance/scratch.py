# SPDX-License-Identifier: Apache-2.0
"""A repository of models that a case may change: copies of fixtures in a directory of its own."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Sequence
from pathlib import Path

from concord_proto.conformance.v1 import suite_pb2

__all__ = ["Scratch", "ScratchError", "inside"]

# What the runner asks for a sign of life.
_ALWAYS = "identity"


class ScratchError(ValueError):
    """A case that names what is not there."""


def inside(path: str) -> bool:
    """Whether a path of a case is relative and stays below its root."""
    parts = path.split("/")
    return bool(path) and all(part not in ("", ".", "..") and not part.startswith("~") for part in parts)


class Scratch:
    """A repository below `root`, which exists and is empty; `fixtures` is only read. What goes is renamed beside the
    repository, so that no server sees half of it."""

    def __init__(self, root: Path, fixtures: Path, models: Sequence[str]) -> None:
        self.path = root / "models"
        self._aside = root / "aside"
        self._fixtures = fixtures
        self._numbers = itertools.count(1)
        self.path.mkdir()
        self._aside.mkdir()
        for model in dict.fromkeys((*models, _ALWAYS)):
            source = self._source(model)
            shutil.copytree(source, self.path / model)

    def change(self, change: suite_pb2.RepositoryChange) -> None:
        """Makes one change. Raises ScratchError where the case is wrong."""
        match change.WhichOneof("change"):
            case "copy":
                self._copy(change.copy)
            case "remove":
                self._remove(self.path / change.remove)
            case "write":
                target = self.path / change.write.path
                target.parent.mkdir(exist_ok=True)
                beside = self._beside()
                beside.write_text(change.write.text, encoding="utf-8")
                beside.replace(target)

    def _copy(self, copy: suite_pb2.PackageCopy) -> None:
        source, target = self._source(getattr(copy, "from")), self.path / copy.to
        target.parent.mkdir(parents=True, exist_ok=True)
        if copy.files:
            # In place, file by file.
            target.mkdir(exist_ok=True)
            for name in copy.files:
                if not (source / name).is_file():
                    raise ScratchError(f"the fixture has no file {name!r}")
                data = (source / name).read_bytes()
                (target / name).write_bytes(data[: copy.bytes] if copy.bytes else data)
            return
        # Whole, by a rename.
        beside = self._beside()
        shutil.copytree(source, beside)
        if target.exists():
            target.rename(self._beside())
        beside.rename(target)

    def _remove(self, target: Path) -> None:
        if not target.exists():
            raise ScratchError(f"the repository has no {target.relative_to(self.path)}")
        gone = self._beside()
        target.rename(gone)
        if gone.is_dir():
            shutil.rmtree(gone)
        else:
            gone.unlink()

    def _beside(self) -> Path:
        return self._aside / str(next(self._numbers))

    def _source(self, path: str) -> Path:
        source = self._fixtures / path
        if not source.is_dir():
            raise ScratchError(f"there is no fixture {path!r}")
        return source
