# SPDX-License-Identifier: Apache-2.0
"""A version of a model that is ready to run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from concord_proto.inference.v1 import model_pb2

from concord_server import fault
from concord_server.fault import Fault, Reason, quote, shown
from concord_server.model.measured import Measured
from concord_server.model.session import Call, OutputTooLargeError, Session, SessionError
from concord_server.tensor import Spec, Tensor

if TYPE_CHECKING:
    from concord_server.feature import Plan
    from concord_server.generate import Generator

__all__ = ["OWN_MAX_ROWS", "Model", "answer_too_large", "execution_failed", "kind_text"]

OWN_MAX_ROWS = 1024
"""The server's own limit of rows in one execution."""


class Model:
    """One version of a model, ready to run. It does not change."""

    def __init__(
        self,
        model_id: str,
        version: str,
        kind: model_pb2.ModelKind,
        session: Session,
        *,
        features: Plan | str,
        inputs: Sequence[Spec] | None = None,
        batchable: bool = False,
        max_rows: int = 0,
        policy: model_pb2.BatchingPolicy = model_pb2.BATCHING_POLICY_UNSPECIFIED,
        has_manifest: bool = True,
        generator: Generator | None = None,
    ) -> None:
        """`inputs` are the session's with the limits of their open axes; without them the session's own say all.

        `features` is how features become tensors or, where the model takes tensors only, why.

        `max_rows` is the package's own limit of rows in one execution, 0 for none, and `policy` how it wants to be run.

        `generator` makes the text of a model of kind generator; it is closed when nobody has the model any more.
        """
        self.model_id = model_id
        self.version = version
        self.kind = kind
        self.session = session
        self.inputs: Sequence[Spec] = session.inputs if inputs is None else inputs
        self.features = features
        self.batchable = batchable
        self.policy = policy
        self.has_manifest = has_manifest
        self.generator = generator
        if generator is not None:
            # Not at the interpreter's end, when threads have ended.
            weakref.finalize(self, generator.close).atexit = False
        self.measured = Measured()
        self.device: str = getattr(session, "device", "cpu")
        """Where it runs: "cpu" or "cuda:N"."""
        self.cpu_nodes: int = getattr(session, "cpu_nodes", 0)
        """Nodes of its graph that run on the CPU although it is on a GPU."""
        self.near: Callable[[Tensor, Tensor], bool] | None = None
        """Whether a row's answer together is near enough to its answer alone; None: only the very same is."""
        self.most_rows = min(max_rows or OWN_MAX_ROWS, OWN_MAX_ROWS)
        """Most rows in one execution, where rows share one at all."""

    @property
    def outputs(self) -> Sequence[Spec]:
        """The graph's outputs, in its order."""
        return self.session.outputs

    @property
    def max_rows(self) -> int:
        """Most rows in one execution: at least 1, and 1 where the model is not batchable."""
        return self.most_rows if self.batchable else 1

    @property
    def open_axes(self) -> bool:
        """Whether the graph leaves axis 0 of all inputs and outputs open."""
        specs = (*self.session.inputs, *self.session.outputs)
        return bool(self.session.inputs) and all(not spec.unranked and spec.shape[:1] == (-1,) for spec in specs)

    def learnt(self, measured: Measured) -> None:
        """What its executions showed at load, before anybody else has it: it does not change from then on."""
        self.measured = measured
        if measured.unbatchable_reason:
            self.batchable = False

    def plan(self) -> Plan:
        """How features become tensors. Raises Fault METHOD_NOT_SUPPORTED where the model takes tensors only."""
        if isinstance(self.features, str):
            text = f"model {quote(self.model_id)} takes tensors only: {self.features}"
            raise Fault(Reason.METHOD_NOT_SUPPORTED, text).at(self.model_id, self.version)
        return self.features

    def run(self, inputs: Sequence[Tensor], wanted: Sequence[int], call: Call, *, requests: int = 1) -> list[Tensor]:
        """As Session.run, but every failure is a Fault. The inputs are those of so many requests."""
        call.requests = requests
        try:
            outputs = self.session.run(inputs, wanted, call)
        except SessionError as error:
            raise self.failed(str(error)) from error
        except OutputTooLargeError as error:
            raise answer_too_large(error.size, error.most).at(self.model_id, self.version) from None
        if requests == 1:
            self.check_size(outputs, call)
        return outputs

    def check_size(self, outputs: Sequence[Tensor], call: Call) -> None:
        """Raises Fault where one request's outputs are larger than may be."""
        if call.max_output_bytes:
            size = sum(tensor.nbytes for tensor in outputs)
            if size > call.max_output_bytes:
                raise answer_too_large(size, call.max_output_bytes).at(self.model_id, self.version)

    def failed(self, why: str) -> Fault:
        """The fault of a model that failed on an input."""
        return execution_failed(self.model_id, self.version, why)


def execution_failed(model_id: str, version: str, why: str) -> Fault:
    """The fault of a model that failed on an input, with the runtime's own words."""
    text = f"model {quote(model_id)} version {shown(version)} failed on this input: {fault.scrub(why)}"
    return Fault(Reason.MODEL_EXECUTION_FAILED, text).at(model_id, version)


def answer_too_large(size: int, limit: int) -> Fault:
    """The fault of an answer that is larger than may be sent, in bytes."""
    return Fault(Reason.OUTPUT_TOO_LARGE, f"the answer of {size} bytes is larger than the limit of {limit} bytes")


_KINDS = {
    model_pb2.MODEL_KIND_TABULAR: "tabular",
    model_pb2.MODEL_KIND_TENSOR: "tensor",
    model_pb2.MODEL_KIND_GENERATOR: "generator",
    model_pb2.MODEL_KIND_RECOMMENDER: "recommender",
}


def kind_text(kind: model_pb2.ModelKind) -> str:
    """A kind in a message."""
    return _KINDS.get(kind, "unspecified")
