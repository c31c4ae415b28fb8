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
from concord_server.admission import AdmissionError
from concord_server.fault import Fault, Reason, quote, shown
from concord_server.model import Model, kind_text, version_order
from concord_server.repository.disk import RefusedError, open_directory
from concord_server.repository.glance import is_complete
from concord_server.repository.load import Admit, Generators, Loader, load_version
from concord_server.repository.scan import Found, Look, scan
from concord_server.repository.version import Entry, State, Version

__all__ = ["Repository"]

_log = telemetry.log(__name__)

_UNREADABLE: Look = ("unreadable",)

_Key = tuple[str, str]
"""A model's id and a version's number."""


@dataclass(slots=True, eq=False)
class _Directory:
    """What is remembered of a version's directory from look to look."""

    seen: Look | None = None
    """How it looked last."""
    glimpsed: Look | None = None
    """How it looked at the last glance."""
    tried: Look | None = None
    """How it looked when it was last loaded."""
    loading: bool = False
    came: int = 0
    """The look that it came with or before, or before which it changed after it had failed."""
    found: int = 0
    """The look that found it last."""
    missed: bool = False
    """Whether the last look did not find it."""
    kept: bool = False
    """Whether it is not found any more and goes on: what came in its place is not ready."""


class Repository:
    """A directory of models. Its methods may be called from several threads.

    `list` and `load` are for the start, `look` follows the disk from then on; no time is in here.
    """

    def __init__(
        self,
        directory: Path,
        load: Loader,
        *,
        loader_of: Callable[[str], Loader] | None = None,
        require_manifest: bool = False,
        admit: Admit = lambda _graph, _files: None,
        generators: Generators | None = None,
        changed: Callable[[str, bool | None], None] = lambda _model_id, _ready: None,
        state: Callable[[str, str, State | None], None] = lambda _model_id, _version, _state: None,
    ) -> None:
        """`loader_of` gives the loader of a model at the time of a load, where not all have the one of `load`.

        `generators` is what text generators are made with; without it they are refused.

        `changed` is called after each change of a model: its id, and whether a version of it is ready, or None where
        the model has left the repository. `state` is called after each change of a version's state: the model's id,
        the version's number, and the state, or None where the version has left.
        """
        self._directory = directory
        self._loader_of: Callable[[str], Loader] = loader_of or (lambda _model_id: load)
        self._require_manifest = require_manifest
        self._admit = admit
        self._generators = generators
        self._changed = changed
        self._state = state
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="load")
        self._looking = threading.Lock()  # one look at a time
        self._missed: set[str] = set()  # models that the last look did not find
        self._told: dict[str, str] = {}  # what was left out at the last look, and why
        self._lock = threading.Lock()  # of what follows; readers take the whole mapping of entries as it is
        self._looks = 0  # so far
        self._directories: dict[_Key, _Directory] = {}
        self._settled: list[_Key] = []  # to be loaded
        self._entries: Mapping[str, Entry] = {}
        self._labels: dict[str, Mapping[str, str]] = {}  # by model, as they are on disk
        self._waiting: dict[str, dict[str, str]] = {}  # by model, labels to versions not ready yet
        self._loads: list[Future[None]] = []
        self._closed = False

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
                        # As if they had been seen before: what is there at the start is loaded at once.
                        self._directories[model_id, number] = _Directory(seen=_UNREADABLE if look is None else look)
                self._publish({model_id: self._step(model_id, model) for model_id, model in found.items()})

    def load(self) -> None:
        """Loads all versions that `list` found, several at a time; returns when each is ready or has failed."""
        with self._lock:
            begun = self._begin()
        wait(begun)

    def look(self) -> Sequence[Future[None]]:
        """Follows the disk: what has come is loaded, what has changed is loaded anew, what has gone drains.

        New and changed files are loaded when two looks in a row have found them the same, so what is still being
        written is left alone; and gone is what two looks in a row have missed, so that a directory may be replaced
        by two renames. Gives the loads that it has begun. Raises nothing: what cannot be read changes nothing.
        """
        with self._looking:
            try:
                found = self._scan()
            except RefusedError as error:
                self._tell({".": str(error)})
                return ()
            with self._lock:
                self._looks += 1
                missing = self._entries.keys() - found.keys()
                entries = {model_id: self._step(model_id, model) for model_id, model in found.items()}
                entries |= {model_id: self._entries[model_id] for model_id in missing - self._missed}
                for model_id in missing & self._missed:
                    self._forget(self._entries[model_id])
                self._missed = missing
                self._publish(entries)
                self._drop_drained()
                return self._begin()

    def glance(self) -> Sequence[Future[None]]:
        """Looks at the directory soon after something in it has changed, and gives the loads that it has begun.

        It only hastens what looks would do: labels, and versions that two glances in a row have found the same and
        complete, as their manifest says. Whatever may still be written, and whatever is gone, is left to looks, which
        have more time between them.
        """
        with self._looking:
            try:
                with open_directory(os.fspath(self._directory)) as root:
                    found = scan(root, lambda _name, _why: None)
            except RefusedError:
                return ()  # a look will say so
            with self._lock:
                entries = dict(self._entries)
                for model_id, model in found.items():
                    if model is not None:
                        entries[model_id] = self._glimpsed(model_id, model)
                self._publish(entries)
                return self._begin()

    @property
    def directories(self) -> Sequence[Path]:
        """The root, those of the models, and those of their versions."""
        with self._lock:
            models = [self._directory / model_id for model_id in self._entries]
            return [self._directory, *models, *(self._directory.joinpath(*key) for key in self._directories)]

    def close(self) -> None:
        """Loads nothing more, and does not wait for what is being loaded."""
        with self._lock:
            self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def busy(self) -> bool:
        """Whether a version is being loaded."""
        return any(not load.done() for load in self._loads)

    def _scan(self) -> Mapping[str, Found | None]:
        told: dict[str, str] = {}
        with open_directory(os.fspath(self._directory)) as root:
            found = scan(root, told.__setitem__)
        self._tell(told)
        return found

    def _tell(self, told: dict[str, str]) -> None:
        """Logs what is left out; the same trouble once, not at every look."""
        for name, why in told.items():
            if self._told.get(name) != why:
                _log.warning("left out of the repository", name=shown(name), reason=why)
        self._told = told

    def _step(self, model_id: str, found: Found | None) -> Entry:
        """A model after a look."""
        known = self._entries.get(model_id, Entry(model_id, {}, ()))
        if found is None:
            return known
        before = {version.number: version for version in known.versions}
        there = {
            number: self._there((model_id, number), before.get(number), look) for number, look in found.versions.items()
        }
        versions = dict(there)
        for number in before.keys() - there.keys():
            left = self._missing((model_id, number), before[number], there)
            if left is not None:
                versions[number] = left
        if found.labels is not None:
            self._labels[model_id] = found.labels
        return Entry(model_id, known.labels, tuple(versions[number] for number in sorted(versions, key=version_order)))

    def _there(self, key: _Key, version: Version | None, look: Look | None) -> Version:
        """A version whose directory is there; queues it where it is to be loaded."""
        directory = self._directories.setdefault(key, _Directory(came=self._looks))
        directory.missed, directory.kept, directory.found = False, False, self._looks
        if look is None:
            if version is not None and version.model is not None:
                return version
            look = _UNREADABLE
        if version is None or version.state is State.DRAINING:
            version = Version(key[1], State.LOADING)
        if look != directory.tried:
            if version.state is State.FAILED:
                version = Version(key[1], State.LOADING)
                directory.came = self._looks
                directory.tried = None  # whatever it turns out to be, it is tried again
            if look == directory.seen and not directory.loading:
                directory.tried = look
                directory.loading = True
                self._settled.append(key)
        directory.seen = look
        return version

    def _glimpsed(self, model_id: str, found: Found) -> Entry:
        """A model after a glance; queues its versions that are to be loaded."""
        known = self._entries.get(model_id, Entry(model_id, {}, ()))
        versions = {version.number: version for version in known.versions}
        for number, look in found.versions.items():
            key = (model_id, number)
            directory = self._directories.setdefault(key, _Directory(came=self._looks + 1, found=self._looks + 1))
            if number not in versions or versions[number].state is State.DRAINING:
                versions[number] = Version(number, State.LOADING)
            same, directory.glimpsed = directory.glimpsed == look, look
            if look is None or not same or look == directory.tried or directory.loading:
                continue
            if not is_complete(self._directory / model_id / number):
                continue
            if versions[number].state is State.FAILED:
                versions[number] = Version(number, State.LOADING)
                directory.came = self._looks + 1
            directory.seen = directory.tried = look
            directory.missed, directory.loading = False, True
            self._settled.append(key)
        if found.labels is not None:
            self._labels[model_id] = found.labels
        return Entry(model_id, known.labels, tuple(versions[number] for number in sorted(versions, key=version_order)))

    def _missing(self, key: _Key, version: Version, there: Mapping[str, Version]) -> Version | None:
        """A version whose directory is not there, beside those that are; None where nothing is left of it."""
        if version.state is State.DRAINING:
            return version
        directory = self._directories[key]
        if not directory.missed:
            directory.missed = True
            return version
        if version.state is State.READY and self._keep(key, directory, there):
            return version
        del self._directories[key]
        _log.info("model version removed", model_id=key[0], model_version=key[1])
        if version.model is None:
            return None
        return Version(key[1], State.DRAINING, about=version.about, leaving=weakref.ref(version.model))

    def _keep(self, key: _Key, directory: _Directory, there: Mapping[str, Version]) -> bool:
        """Whether a version that has gone from disk goes on, beside those that are there.

        Where another one is loading in its place it does, until that is ready, so that no request falls between the
        two. Where what came in its place has failed the old one still goes on, unless another is ready; and it goes
        with the last that is there.
        """
        states = {version.state for version in there.values()}
        failed = any(
            version.state is State.FAILED and self._directories[key[0], number].came > directory.found
            for number, version in there.items()
        )
        kept = State.LOADING in states or (failed and State.READY not in states)
        if kept and not directory.kept:
            _log.info("model version goes on until another is ready", model_id=key[0], model_version=key[1])
        directory.kept = kept
        return kept

    def _forget(self, entry: Entry) -> None:
        """A model whose directory has gone."""
        for version in entry.versions:
            if self._directories.pop((entry.model_id, version.number), None) is not None:
                _log.info("model version removed", model_id=entry.model_id, model_version=version.number)

    def _drop_drained(self) -> None:
        """Takes the draining versions out that no request holds any more."""
        before, entries = self._entries, dict(self._entries)
        for model_id, entry in before.items():
            left = tuple(v for v in entry.versions if v.leaving is None or v.leaving() is not None)
            if len(left) < len(entry.versions):
                entries[model_id] = replace(entry, versions=left)
        self._entries = entries
        self._tell_states(before)

    def _publish(self, entries: Mapping[str, Entry]) -> None:
        before = self._entries
        entries = {
            model_id: entry if entry is before.get(model_id) else replace(entry, labels=self._served_labels(entry))
            for model_id, entry in entries.items()
        }
        self._entries = entries
        for model_id, entry in entries.items():
            ready = entry.default is not None
            if model_id not in before or (before[model_id].default is not None) != ready:
                self._changed(model_id, ready)
        for model_id in before.keys() - entries.keys():
            self._labels.pop(model_id, None)
            self._waiting.pop(model_id, None)
            self._changed(model_id, None)
        self._tell_states(before)

    def _served_labels(self, entry: Entry) -> Mapping[str, str]:
        """The labels that requests may name; `entry` has those of before.

        A label moves once the version that it is to name is ready, and until then stays with the one before.
        """
        ready = {version.number for version in entry.versions if version.state is State.READY}
        labels = dict(self._labels.get(entry.model_id, {}))
        waited, waiting = self._waiting.get(entry.model_id, {}), dict[str, str]()
        for label, number in labels.items():
            old = entry.labels.get(label, number)
            if old == number or number in ready or old not in ready:
                continue
            labels[label], waiting[label] = old, number
            if waited.get(label) != number:
                names = {"model_id": entry.model_id, "label": label, "model_version": old, "new_version": shown(number)}
                _log.info("label goes on until its new version is ready", **names)
        self._waiting[entry.model_id] = waiting
        return labels

    def _tell_states(self, before: Mapping[str, Entry]) -> None:
        entries = self._entries
        for model_id in before.keys() | entries.keys():
            old, new = before.get(model_id), entries.get(model_id)
            if old is not new:
                was = {version.number: version.state for version in old.versions} if old else {}
                now = {version.number: version.state for version in new.versions} if new else {}
                for number in was.keys() | now.keys():
                    if was.get(number) is not now.get(number):
                        self._state(model_id, number, now.get(number))

    def _begin(self) -> Sequence[Future[None]]:
        """Begins to load what has settled."""
        keys, self._settled = self._settled, []
        if self._closed:
            return ()
        begun = [self._threads.submit(self._load_one, key, self._directories[key]) for key in keys]
        self._loads = [load for load in self._loads if not load.done()] + begun
        return begun

    def _load_one(self, key: _Key, directory: _Directory) -> None:
        begin = time.perf_counter()
        version, cause = self._loaded(*key)
        kept = self._take(key, directory, version)
        if kept is not None:
            _report(key[0], version, time.perf_counter() - begin, cause, kept)

    def _take(self, key: _Key, directory: _Directory, version: Version) -> bool | None:
        """Publishes what has been loaded, and tells whether an older one goes on; None where it left meanwhile."""
        model_id, number = key
        with self._lock:
            directory.loading = False
            if self._directories.get(key) is not directory:
                return None
            entry = self._entries[model_id]
            kept = version.model is None and any(v.number == number and v.model is not None for v in entry.versions)
            if not kept:
                versions = tuple(version if other.number == number else other for other in entry.versions)
                self._publish({**self._entries, model_id: replace(entry, versions=versions)})
            return kept

    def _loaded(self, model_id: str, number: str) -> tuple[Version, str]:
        """A version that is ready or failed, and the cause for the log; raises nothing, whatever lies on disk.

        No exception is kept: its traceback would keep the model's bytes.
        """
        try:
            model, about = load_version(
                self._directory,
                model_id,
                number,
                load=self._loader_of(model_id),
                admit=self._admit,
                require_manifest=self._require_manifest,
                generators=self._generators,
            )
        except (RefusedError, AdmissionError, feature.BindError, Fault) as error:
            return _failed(model_id, number, str(error)), repr(error.__cause__ or error)
        except Exception as error:  # a defect here must not take the other models down
            _log.error("loading a model version failed", model_id=model_id, model_version=number, cause=error)
            return _failed(model_id, number, "internal error"), repr(error)
        return Version(number, State.READY, model=model, about=about), ""


def _failed(model_id: str, number: str, why: str) -> Version:
    text = f"model {quote(model_id)} version {shown(number)} failed to load: {why}"
    return Version(number, State.FAILED, fault=Fault(Reason.MODEL_FAILED, text).at(model_id, number))


def _report(model_id: str, version: Version, seconds: float, cause: str, kept: bool) -> None:
    at = {"model_id": model_id, "model_version": version.number}
    if version.model is None or version.about is None:
        message = version.fault.message if version.fault else ""
        more = {"kept": "the one loaded before goes on"} if kept else {}
        _log.error("model version failed", **at, error=message, cause=cause, **more)
        return
    kind, load_ms = kind_text(version.model.kind), round(seconds * 1000)
    _log.info("model version ready", **at, kind=kind, verified=version.about.verified, load_ms=load_ms)
