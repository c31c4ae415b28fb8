# SPDX-License-Identifier: Apache-2.0
"""A model of the repository and its versions, as they are at one time."""

from __future__ import annotations

import enum
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from concord_proto.inference.v1 import model_pb2

from concord_server.fault import Fault, Reason, quote, shown
from concord_server.model import Model, is_version

__all__ = ["About", "Entry", "State", "Version", "no_version"]


class State(enum.Enum):
    """The states that a version passes through."""

    LOADING = model_pb2.MODEL_STATE_LOADING
    READY = model_pb2.MODEL_STATE_READY
    FAILED = model_pb2.MODEL_STATE_FAILED
    DRAINING = model_pb2.MODEL_STATE_DRAINING


@dataclass(frozen=True, slots=True)
class About:
    """What the catalog tells of a version that is ready."""

    description: str
    verified: bool
    parity: model_pb2.ParityRecord | None
    max_batch_rows: int
    ready_time: float
    """Seconds since 1970."""
    quality: Sequence[model_pb2.Metric] = ()


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
    """Set where it is ready or draining."""
    leaving: weakref.ref[Model] | None = field(default=None, compare=False)
    """Set where it is draining: it lives as long as a request holds it, and is freed with the last one."""

    def ready(self, model_id: str) -> Model:
        """The model. Raises Fault where it is not ready."""
        if self.model is not None:
            return self.model
        if self.fault is not None:
            raise _same(self.fault)
        if self.state is State.DRAINING:
            raise no_version(model_id, self.number)
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

    def resolve(self, version: str) -> Model:
        """The ready version that a request names: a number, a label, or nothing for the default. Raises Fault."""
        if not version:
            return self._highest()
        number = version
        if not is_version(version):
            if version not in self.labels:
                text = f"model {quote(self.model_id)} has no label {quote(version)}"
                raise Fault(Reason.LABEL_NOT_FOUND, text).at(self.model_id)
            number = self.labels[version]
        for found in self.versions:
            if found.number == number:
                return found.ready(self.model_id)
        raise no_version(self.model_id, number)

    def _highest(self) -> Model:
        default = self.default
        if default is not None:
            return default.ready(self.model_id)
        versions = [version for version in self.versions if version.state is not State.DRAINING]
        if not versions:
            text = f"model {quote(self.model_id)} has no versions"
            raise Fault(Reason.VERSION_NOT_FOUND, text).at(self.model_id)
        # None is ready: one that is loading gives hope, else the highest says why.
        loading = [version for version in versions if version.state is State.LOADING]
        return (loading or versions)[-1].ready(self.model_id)


def no_version(model_id: str, number: str) -> Fault:
    """The fault of a version that is not in the repository."""
    text = f"model {quote(model_id)} has no version {shown(number)}"
    return Fault(Reason.VERSION_NOT_FOUND, text).at(model_id, shown(number))


def _same(fault: Fault) -> Fault:
    """A fault to raise: raising the kept one from many requests would grow its traceback for ever."""
    return Fault(fault.reason, fault.message, model_id=fault.model_id, model_version=fault.model_version)
