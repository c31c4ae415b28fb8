# SPDX-License-Identifier: Apache-2.0
"""inference.v1.ModelCatalogService."""

from __future__ import annotations

from collections.abc import Sequence

from concord_proto.inference.v1 import model_catalog_service_pb2, model_pb2

from concord_server import fault
from concord_server.batch import Engine
from concord_server.fault import Reason, quote
from concord_server.generate import FEATURES, OUTPUTS
from concord_server.model import check_id, is_id
from concord_server.repository import Entry, Repository, Version
from concord_server.server.status import status_of
from concord_server.tensor import Spec

__all__ = ["Catalog"]

_DEFAULT_PAGE_SIZE = 100
_MAX_PAGE_SIZE = 1000


class Catalog:
    """Tells what a repository holds. All failures are Faults."""

    def __init__(self, repository: Repository, engine: Engine) -> None:
        self._repository = repository
        self._engine = engine

    def list_models(
        self, request: model_catalog_service_pb2.ListModelsRequest
    ) -> model_catalog_service_pb2.ListModelsResponse:
        """One page of the models, by id in byte order."""
        size = request.page_size
        if not 0 <= size <= _MAX_PAGE_SIZE:
            raise fault.invalid(Reason.REQUEST_MALFORMED, "page_size", f"expected 0 to {_MAX_PAGE_SIZE}, got {size}")
        size = size or _DEFAULT_PAGE_SIZE
        # A token is the id of the last model given, so it stays good when models come and go.
        after = request.page_token
        if after and not is_id(after):
            text = f"expected the next_page_token of an answer, got {quote(after)}"
            raise fault.invalid(Reason.REQUEST_MALFORMED, "page_token", text)
        entries = [entry for entry in self._repository.entries if entry.model_id > after]
        response = model_catalog_service_pb2.ListModelsResponse(models=map(self._model, entries[:size]))
        if len(entries) > size:
            response.next_page_token = entries[size - 1].model_id
        return response

    def get_model(
        self, request: model_catalog_service_pb2.GetModelRequest
    ) -> model_catalog_service_pb2.GetModelResponse:
        """One model."""
        check_id(request.model_id)
        return model_catalog_service_pb2.GetModelResponse(model=self._model(self._repository.entry(request.model_id)))

    def _model(self, entry: Entry) -> model_pb2.Model:
        described = model_pb2.Model(
            model_id=entry.model_id,
            default_version=entry.default.number if entry.default else "",
            labels=entry.labels,
        )
        for version in entry.versions:
            shown = described.versions.add()
            shown.CopyFrom(_version(version))
            if version.model is not None:
                shown.execution.CopyFrom(self._engine.execution(version.model))
        return described


def _version(version: Version) -> model_pb2.ModelVersion:
    described = model_pb2.ModelVersion(version=version.number, state=version.state.value)
    if version.fault is not None:
        described.error.CopyFrom(status_of(version.fault))
    model = version.leaving() if version.leaving else version.model
    about = version.about
    if model is None or about is None:
        return described
    described.kind = model.kind
    described.description = about.description
    if model.generator is not None:
        described.features.extend(FEATURES)
        described.outputs.extend(OUTPUTS)
    elif not isinstance(model.features, str):
        described.features.extend(model.features.public_features)
        described.predictions.extend(model.features.public_predictions)
        described.outputs.extend(model.features.public_outputs)
    described.input_tensors.extend(_specs(model.inputs))
    described.output_tensors.extend(_specs(model.session.outputs))
    described.verified = about.verified
    if about.parity is not None:
        described.parity.CopyFrom(about.parity)
    described.quality.extend(about.quality)
    described.batchable = model.batchable
    described.max_batch_rows = about.max_batch_rows
    described.ready_time.FromNanoseconds(int(about.ready_time * 1e9))
    return described


def _specs(specs: Sequence[Spec]) -> list[model_pb2.TensorSpec]:
    return [
        model_pb2.TensorSpec(name=spec.name, dtype=spec.dtype.value, shape=spec.shape, max_shape=spec.longest)  # type: ignore[arg-type]
        for spec in specs
    ]
