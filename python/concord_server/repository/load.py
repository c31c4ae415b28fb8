# SPDX-License-Identifier: Apache-2.0
"""A version's directory to a model that has proved itself."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from concord_proto.inference.v1 import model_pb2
from concord_proto.modelpackage.v1 import manifest_pb2

from concord_server import batch, feature, telemetry
from concord_server.fault import quote, scrub
from concord_server.model import Model, Session, SessionError, kind_text
from concord_server.repository.device import device_classes
from concord_server.repository.disk import RefusedError, open_directory
from concord_server.repository.golden import golden_rows, near, self_test
from concord_server.repository.package import Contents, read
from concord_server.repository.version import About
from concord_server.tensor import Spec

__all__ = ["Admit", "Loader", "check_kind", "load_version"]


_log = telemetry.log(__name__)


class Loader(Protocol):
    """Makes a session of a verified graph; external initializers come from files alone. Raises SessionError."""

    def __call__(self, graph: bytes, files: Mapping[str, bytes], /) -> Session: ...


Admit = Callable[[bytes, Mapping[str, bytes]], None]
"""Judges a graph and its files before a Loader sees them. Raises AdmissionError."""


def load_version(
    root: Path, model_id: str, number: str, *, load: Loader, admit: Admit, require_manifest: bool
) -> tuple[Model, About]:
    """Makes one version ready. Raises RefusedError, AdmissionError, feature.BindError or Fault."""
    with (
        open_directory(os.fspath(root)) as top,
        open_directory(model_id, top) as parent,
        open_directory(number, parent) as directory,
    ):
        contents = read(directory, require_manifest)
    kind = check_kind(contents.manifest)
    admit(contents.graph, contents.external)
    try:
        session = load(contents.graph, contents.external)
    except SessionError as error:
        raise RefusedError(scrub(str(error))) from error
    golden = contents.golden
    steady = batch.steady(contents.graph)
    contents.graph, contents.external = b"", {}  # ONNX Runtime has its own copy now
    return _assemble(model_id, number, kind, contents, session, golden, steady)


def check_kind(manifest: manifest_pb2.Manifest | None) -> model_pb2.ModelKind:
    """The kind of a version, if it is served. Raises RefusedError."""
    kind = manifest.kind if manifest else model_pb2.MODEL_KIND_TENSOR
    if kind in (model_pb2.MODEL_KIND_GENERATOR, model_pb2.MODEL_KIND_RECOMMENDER):
        raise RefusedError(f"kind {kind_text(kind)} is not served here")
    if kind not in (model_pb2.MODEL_KIND_TABULAR, model_pb2.MODEL_KIND_TENSOR):
        raise RefusedError("kind: expected a kind, got nothing")
    return kind


def _assemble(
    model_id: str,
    number: str,
    kind: model_pb2.ModelKind,
    contents: Contents,
    session: Session,
    golden: bytes,
    steady: bool,
) -> tuple[Model, About]:
    """Holds the manifest against the graph, and lets the model prove itself."""
    manifest = contents.manifest
    batchable = manifest.batching.batchable if manifest else False
    max_rows = manifest.batching.max_batch_rows if manifest else 0
    policy = manifest.batching.policy if manifest else model_pb2.BATCHING_POLICY_UNSPECIFIED
    if policy == model_pb2.BATCHING_POLICY_ADAPTIVE and not batchable:
        raise RefusedError("batching: policy ADAPTIVE: expected batchable, got a model that is not")
    if batchable:
        _check_batchable("input", session.inputs)
        _check_batchable("output", session.outputs)
    inputs = feature.limit(manifest.axis_limits if manifest else (), session.inputs)
    features: feature.Plan | str
    if manifest and kind == model_pb2.MODEL_KIND_TABULAR:
        features = feature.from_manifest(manifest, inputs, session.outputs)
    else:
        if manifest and (manifest.features or manifest.predictions or manifest.outputs):
            raise RefusedError("kind tensor: expected no features, predictions and outputs in the manifest")
        try:
            features = feature.from_graph(inputs, session.outputs)
        except feature.BindError as error:
            features = str(error)
    model = Model(
        model_id,
        number,
        kind,
        session,
        inputs=inputs,
        features=features,
        batchable=batchable,
        max_rows=max_rows,
        policy=policy,
        has_manifest=manifest is not None,
    )
    on = device_classes(manifest)
    if model.device == "cpu":
        on = {}
    else:
        model.near = functools.partial(near, on)
        _log.info("placed", model_id=model_id, model_version=number, device=model.device, cpu_nodes=model.cpu_nodes)
    if manifest is None:
        neutral = batch.neutral_row(session.inputs)
        rows = [] if neutral is None else [(neutral, range(len(session.outputs)))]
        model.learnt(batch.measure(model, rows, steady=steady))
        return model, About("", verified=False, parity=None, max_batch_rows=0, ready_time=time.time())
    self_test(model, golden, on)
    model.learnt(batch.measure(model, golden_rows(model, golden), steady=steady))
    parity = manifest.parity if manifest.HasField("parity") else None
    quality = tuple(manifest.quality)
    return model, About(manifest.description, True, parity, max_rows, time.time(), quality)


def _check_batchable(what: str, specs: Sequence[Spec]) -> None:
    """Refuses a claim that the graph contradicts."""
    for spec in specs:
        if not spec.unranked and spec.shape[:1] != (-1,):
            named = f"{what} {quote(spec.name)}, {spec.describe()}"
            raise RefusedError(f"batching: expected an open axis 0, got {named}")
