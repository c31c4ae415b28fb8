# SPDX-License-Identifier: Apache-2.0
"""The repository: which versions are loading, ready, failed or draining, following the disk look by look."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from concord_server import feature, telemetry
from concord_server.fault import Fault, Reason, quote, shown
from concord_server.model import Model, kind_text, version_order
from concord_server.repository.disk import RefusedError, open_directory
from concord_server.repository.load import Admit, Loader, load_version
from concord_server.repository.scan import Found, Look, scan
from concord_server.repository.version import Entry, State, Version

__all__ = ["Repository"]

_log = telemetry.log(__name__)

_UNREADABLE: Look = ("unreadable",)


@dataclass(slots=True, eq=False)
class _Directory:
    """What is remembered of a version's directory from look to look."""

    seen: Look | None = None
    """How it looked last."""
    tried: Look | None = None
    """How it looked when it was last loaded."""
    loading: bool = False
    missed: bool = False
    """Whether the last look did not find it."""


class Repository:
    """A directory of models. Its methods may be called from several threads.

    `list` and `load` are for the start, `look` follows the disk from then on; no time is in here.
    """

    def __init__(
        self,
        directory: Path,
        load: Loader,
        *,
        require_manifest: bool = False,
        admit: Admit = lambda _graph, _files: None,
        changed: Callable[[str, bool | None], None] = lambda _model_id, _ready: None,
    ) -> None:
        """`changed` is called after each change of a model: its id, and whether a version of it is ready, or None where
        the model has left the repository.
        """
        self._directory = directory
        self._load = load
        self._require_manifest = require_manifest
        self._admit = admit
        self._changed = changed
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="load")
        self._looking = threading.Lock()  # one look at a time
        self._missed: set[str] = set()  # models that the last look did not find
        self._told: dict[str, str] = {}  # what was left out at the last look, and why
        self._lock = threading.Lock()  # what follows; readers take the whole mapping of entries as it is
        self._directories: dict[tuple[str, str], _Directory] = {}
        self._entries: Mapping[str, Entry] = {}
        self._loads: set[Future[None]] = set()

    @property
    def entries(self) -> list[Entry]:
        """All models, by id in byte order."""
        entries = self._entries
        return [entries[model_id] for model_id in sorted(entries)]

    def entry(self, model_id: str) -> Entry:
        """The model of an id. Raises Fault."""
        entry = self._entries.get(model_id)
        if entry is None:
            raise Fault(Reason.MODEL_NOT_FOUND, f"model {quote(model_id)} not found").at(model_id)
        return entry

    def resolve(self, model_id: str, version: str) -> Model:
        """The ready version that a request names: a number, a label, or nothing for the highest that is ready.

        Both names must have passed model.check_name. Whoever holds the model may use it: a version that leaves the
        repository is freed when nobody does any more. Raises Fault.
        """
        return self.entry(model_id).resolve(version)

    def list(self) -> None:
        """Reads which models and versions there are; they are loading from then on. Raises RefusedError."""
        with self._looking:
            found = self._scan()
            with self._lock:
                for model_id, model in found.items():
                    for number, look in (model or Found()).versions.items():
                        self._directories[model_id, number] = _Directory(seen=look or _UNREADABLE)
                self._publish({model_id: self._step(model_id, model, [])[0] for model_id, model in found.items()})

    def load(self) -> None:
        """Loads all versions that `list` found, several at a time; returns when each is ready or has failed."""
        with self._lock:
            begun = [self._begin(key, directory) for key, directory in self._directories.items()]
        wait(begun)

    def look(self) -> Sequence[Future[None]]:
        """Follows the disk: what has come is loaded, what has changed is loaded anew, what has gone drains.

        New and changed files are loaded when two looks in a row have found them the same, so what is still being
        written is left alone; and gone is what two looks in a row have missed, so that a directory may be replaced
        by two renames. Gives the loads that it has begun. Raises nothing: a directory that cannot be read changes
        nothing.
        """
        with self._looking:
            try:
                found = self._scan()
            except RefusedError as error:
                self._tell({".": str(error)})
                return ()
            missed = self._entries.keys() - found.keys() - self._missed
            self._missed = self._entries.keys() - found.keys()
            settled: list[tuple[str, str]] = []
            with self._lock:
                entries: dict[str, Entry] = {}
                for model_id in self._entries.keys() | found.keys():
                    if model_id in missed:
                        entries[model_id] = self._entries[model_id]
                    elif model_id in found:
                        entries[model_id], more = self._step(model_id, found[model_id], settled)
                        settled = more
                for key in [key for key in self._directories if key[0] not in entries]:
                    del self._directories[key]
                self._publish(entries)
                return [self._begin(key, self._directories[key]) for key in settled]
