# SPDX-License-Identifier: Apache-2.0
"""The repository: which versions are loading, ready or failed, and which of them a request means."""

from __future__ import annotations

import enum
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from concord_proto.inference.v1 import model_pb2

from concord_server import feature, telemetry
from concord_server.fault import Fault, Reason, quote, scrub, shown
from concord_server.model import Model, Session, SessionError, is_version, kind_text
from concord_server.repository.disk import RefusedError, open_directory
from concord_server.repository.golden import self_test
from concord_server.repository.package import Contents, read
from concord_server.repository.scan import scan
from concord_server.tensor import Spec

__all__ = ["About", "Entry", "Loader", "Repository", "State", "Version"]

_log = telemetry.log(__name__)


class State(enum.Enum):
    """The states that a version passes through."""

    LOADING = model_pb2.MODEL_STATE_LOADING
    READY = model_pb2.MODEL_STATE_READY
    FAILED = model_pb2.MODEL_STATE_FAILED


@dataclass(frozen=True, slots=True)
class About:
    """What the catalog tells of a version that is ready."""

    description: str
    verified: bool
    parity: model_pb2.ParityRecord | None
    max_batch_rows: int
    ready_time: float
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a model at one time."""

    number: str
    state: State
    fault: Fault | None = None
    """Set where it failed."""
    model: Model | None = None
    """Set where it is ready."""
    about: About | None = None
    """Set where it is ready."""

    def ready(self, model_id: str) -> Model:
        """The model. Raises Fault where it is not ready."""
        if self.model is not None:
            return self.model
        if self.fault is not None:
            raise _same(self.fault)
        text = f"model {quote(model_id)} version {shown(self.number)} is loading"
        raise Fault(Reason.MODEL_LOADING, text).at(model_id, self.number)


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the repository at one time."""

    model_id: str
    labels: Mapping[str, str]
    """Label to version."""
    versions: tuple[Version, ...]
    """By ascending number."""

    @property
    def default(self) -> Version | None:
        """The highest version that is ready."""
        return next((version for version in reversed(self.versions) if version.model is not None), None)


class Loader(Protocol):
    """Makes a session of a verified graph; external initializers come from files alone. Raises SessionError."""

    def __call__(self, graph: bytes, files: Mapping[str, bytes], /) -> Session: ...


class Repository:
    """A directory of models. Its methods may be called from several threads; load once."""

    def __init__(
        self,
        directory: Path,
        load: Loader,
        *,
        require_manifest: bool = False,
        admit: Callable[[bytes, Mapping[str, bytes]], None] = lambda _graph, _files: None,
        changed: Callable[[str, bool], None] = lambda _model_id, _ready: None,
    ) -> None:
        """`admit` judges a graph and its files before `load` sees them, and raises SessionError with what is wrong.

        `changed` is called after each change of a model: its id, and whether a version of it is ready.
        """
        self._directory = directory
        self._load = load
        self._require_manifest = require_manifest
        self._admit = admit
        self._changed = changed
        self._lock = threading.Lock()  # writers of _entries; readers take the whole mapping as it is
        self._entries: dict[str, Entry] = {}

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

        Both names must have passed model.check_name. Raises Fault.
        """
        entry = self.entry(model_id)
        if not version:
            return _highest(entry)
        number = version
        if not is_version(version):
            if version not in entry.labels:
                text = f"model {quote(model_id)} has no label {quote(version)}"
                raise Fault(Reason.LABEL_NOT_FOUND, text).at(model_id)
            number = entry.labels[version]
        for found in entry.versions:
            if found.number == number:
                return found.ready(model_id)
        text = f"model {quote(model_id)} has no version {shown(number)}"
        raise Fault(Reason.VERSION_NOT_FOUND, text).at(model_id, shown(number))

    def list(self) -> None:
        """Reads which models and versions there are; they are loading from then on. Raises RefusedError."""
        with open_directory(os.fspath(self._directory)) as root:
            models = scan(
                root, lambda name, why: _log.warning("left out of the repository", name=shown(name), reason=why)
            )
        entries = {}
        for model_id, found in models.items():
            versions = tuple(
                _failed(model_id, number, "its directory is a link")
                if number in found.links
                else Version(number, State.LOADING)
                for number in found.versions
            )
            entries[model_id] = Entry(model_id, found.labels, versions)
        self._entries = entries
        for model_id in entries:
            self._changed(model_id, False)

    def load(self) -> None:
        """Loads all versions that list found, several at a time; returns when each is ready or has failed."""
        with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="load") as threads:
            for entry in self.entries:
                for version in entry.versions:
                    if version.state is State.LOADING:
                        threads.submit(self._load_and_publish, entry.model_id, version.number)
                    else:
                        _report(entry.model_id, version, 0)

    def _load_and_publish(self, model_id: str, number: str) -> None:
        begin = time.perf_counter()
        version = self._load_version(model_id, number)
        with self._lock:
            entry = self._entries[model_id]
            versions = tuple(version if other.number == number else other for other in entry.versions)
            entry = replace(entry, versions=versions)
            self._entries = {**self._entries, model_id: entry}
            self._changed(model_id, entry.default is not None)
        _report(model_id, version, time.perf_counter() - begin)

    def _load_version(self, model_id: str, number: str) -> Version:
        """Makes one version ready or says why it is not; it raises nothing, whatever lies on disk."""
        try:
            with (
                open_directory(os.fspath(self._directory)) as root,
                open_directory(model_id, root) as parent,
                open_directory(number, parent) as directory,
            ):
                contents = read(directory, self._require_manifest)
            model, about = self._assemble(model_id, number, contents)
        except (RefusedError, feature.BindError, Fault) as error:
            return _failed(model_id, number, str(error), error)
        except SessionError as error:
            return _failed(model_id, number, scrub(str(error)), error)
        except Exception as error:  # a defect here must not take the other models down
            return _failed(model_id, number, "internal error", error)
        return Version(number, State.READY, model=model, about=about)

    def _assemble(self, model_id: str, number: str, contents: Contents) -> tuple[Model, About]:
        """Verifies a version, makes its session and lets it prove itself."""
        manifest = contents.manifest
        kind = manifest.kind if manifest else model_pb2.MODEL_KIND_TENSOR
        if kind in (model_pb2.MODEL_KIND_GENERATOR, model_pb2.MODEL_KIND_RECOMMENDER):
            raise RefusedError(f"kind {kind_text(kind)} is not served here")
        if kind not in (model_pb2.MODEL_KIND_TABULAR, model_pb2.MODEL_KIND_TENSOR):
            raise RefusedError("kind: expected a kind, got nothing")
        self._admit(contents.graph, contents.external)
        session = self._load(contents.graph, contents.external)
        golden = contents.golden
        contents.graph, contents.external = b"", {}  # ONNX Runtime has its own copy now

        batchable = manifest.batching.batchable if manifest else False
        max_rows = manifest.batching.max_batch_rows if manifest else 0
        if batchable:
            _check_batchable("input", session.inputs)
            _check_batchable("output", session.outputs)
        features: feature.Plan | str
        if manifest and kind == model_pb2.MODEL_KIND_TABULAR:
            features = feature.from_manifest(manifest, session.inputs, session.outputs)
        else:
            if manifest and (manifest.features or manifest.predictions or manifest.outputs):
                raise RefusedError("kind tensor: expected no features, predictions and outputs in the manifest")
            try:
                features = feature.from_graph(session.inputs, session.outputs)
            except feature.BindError as error:
                features = str(error)
        model = Model(model_id, number, kind, session, features=features, batchable=batchable, max_rows=max_rows)
        if manifest:
            self_test(model, golden)
        parity = manifest.parity if manifest and manifest.HasField("parity") else None
        description = manifest.description if manifest else ""
        return model, About(description, manifest is not None, parity, max_rows, time.time())


def _left_out(name: str, why: str) -> None:
    _log.warning("left out of the repository", name=shown(name), reason=why)


def _highest(entry: Entry) -> Model:
    default = entry.default
    if default is not None:
        return default.ready(entry.model_id)
    if not entry.versions:
        text = f"model {quote(entry.model_id)} has no versions"
        raise Fault(Reason.VERSION_NOT_FOUND, text).at(entry.model_id)
    # None is ready: one that is loading gives hope, else the highest says why.
    loading = [version for version in entry.versions if version.state is State.LOADING]
    return (loading or entry.versions)[-1].ready(entry.model_id)


def _check_batchable(what: str, specs: Sequence[Spec]) -> None:
    """Refuses a claim that the graph contradicts."""
    for spec in specs:
        if not spec.unranked and spec.shape[:1] != (-1,):
            named = f"{what} {quote(spec.name)}, {spec.describe()}"
            raise RefusedError(f"batching: expected an open axis 0, got {named}")


def _failed(model_id: str, number: str, why: str, cause: Exception | None = None) -> Version:
    text = f"model {quote(model_id)} version {shown(number)} failed to load: {why}"
    fault = Fault(Reason.MODEL_FAILED, text).at(model_id, number)
    fault.__cause__ = cause
    return Version(number, State.FAILED, fault=fault)


def _same(fault: Fault) -> Fault:
    """A fault to raise: raising the kept one from many requests would grow its traceback for ever."""
    return Fault(fault.reason, fault.message, model_id=fault.model_id, model_version=fault.model_version)


def _report(model_id: str, version: Version, seconds: float) -> None:
    if version.model is None or version.about is None:
        message = version.fault.message if version.fault else ""
        cause = repr(version.fault.__cause__) if version.fault and version.fault.__cause__ else ""
        _log.error("model version failed", model_id=model_id, model_version=version.number, error=message, cause=cause)
        return
    _log.info(
        "model version ready",
        model_id=model_id,
        model_version=version.number,
        kind=kind_text(version.model.kind),
        verified=version.about.verified,
        load_ms=round(seconds * 1000),
    )
