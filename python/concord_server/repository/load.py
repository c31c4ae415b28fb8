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

from concord_server import batch, feature, generate, telemetry
from concord_server.fault import quote, scrub
from concord_server.generate import Sizes
from concord_server.model import Model, NoTensors, Session, SessionError, kind_text
from concord_server.repository.device import device_classes
from concord_server.repository.disk import RefusedError, open_directory
from concord_server.repository.golden import generator_test, golden_rows, near, self_test
from concord_server.repository.package import Contents, read
from concord_server.repository.version import About
from concord_server.tensor import Spec

__all__ = ["Admit", "Generators", "Loader", "check_kind", "load_version"]


_log = telemetry.log(__name__)


class Loader(Protocol):
    """Makes a session of a verified graph; external initializers come from files alone. Raises SessionError."""

    def __call__(self, graph: bytes, files: Mapping[str, bytes], /) -> Session: ...


Admit = Callable[[bytes, Mapping[str, bytes]], None]
"""Judges a graph and its files before a Loader sees them. Raises AdmissionError."""


class Generators(Protocol):
    """What text generators are made with."""

    def sizes(self, model_id: str, /) -> Sizes:
        """What bounds the decoder of a model's versions."""

    def chunk_tokens(self, model_id: str, /) -> int:
        """Most tokens of a prompt in one run."""

    def admit(self, package: generate.Package, sizes: Sizes, /) -> None:
        """Judges a package before it is opened. Raises AdmissionError."""

    def open(self, package: generate.Package, sizes: Sizes, /) -> tuple[generate.Tokenizer, generate.Decoder]:
        """Makes a package's tokenizer and decoder. Raises SessionError."""


def load_version(
    root: Path,
    model_id: str,
    number: str,
    *,
    load: Loader,
    admit: Admit,
    require_manifest: bool,
    generators: Generators | None = None,
) -> tuple[Model, About]:
    """Makes one version ready. Raises RefusedError, AdmissionError, feature.BindError or Fault."""
    with (
        open_directory(os.fspath(root)) as top,
        open_directory(model_id, top) as parent,
        open_directory(number, parent) as directory,
    ):
        contents = read(directory, require_manifest)
    kind = check_kind(contents.manifest)
    if contents.generator is not None:
        return _generator(model_id, number, contents, generators)
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
    if kind == model_pb2.MODEL_KIND_RECOMMENDER:
        raise RefusedError(f"kind {kind_text(kind)} is not served here")
    if kind not in _SERVED:
        raise RefusedError("kind: expected a kind, got nothing")
    return kind


_SERVED = (model_pb2.MODEL_KIND_TABULAR, model_pb2.MODEL_KIND_TENSOR, model_pb2.MODEL_KIND_GENERATOR)


def _generator(model_id: str, number: str, contents: Contents, generators: Generators | None) -> tuple[Model, About]:
    """A model that generates text, from its package or a bare folder."""
    manifest = contents.manifest
    if generators is None:
        raise RefusedError("kind generator is not served here")
    if manifest and (manifest.features or manifest.predictions or manifest.outputs):
        raise RefusedError("kind generator: expected no features, predictions and outputs in the manifest")
    package = generate.Package(contents.graph, contents.external, contents.generator or {})
    golden = contents.golden
    contents.graph, contents.external = b"", {}
    sizes = generators.sizes(model_id)
    generators.admit(package, sizes)
    try:
        tokenizer, decoder = generators.open(package, sizes)
    except SessionError as error:
        raise RefusedError(scrub(str(error))) from error
    del package  # ONNX Runtime has its own copy now
    generator = generate.Generator(model_id, number, tokenizer, decoder, chunk_tokens=generators.chunk_tokens(model_id))
    model = Model(
        model_id,
        number,
        model_pb2.MODEL_KIND_GENERATOR,
        NoTensors(),
        features="it generates text",
        batchable=True,
        has_manifest=manifest is not None,
        generator=generator,
    )
    if manifest is None:
        return model, About("", verified=False, parity=None, max_batch_rows=0, ready_time=time.time())
    generator_test(generator, golden)
    parity = manifest.parity if manifest.HasField("parity") else None
    return model, About(manifest.description, True, parity, 0, time.time(), tuple(manifest.quality))


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
