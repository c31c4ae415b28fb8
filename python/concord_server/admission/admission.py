# SPDX-License-Identifier: Apache-2.0
"""Admission as the repository calls it: a verdict that is kept, else a trial."""

from __future__ import annotations

from collections.abc import Mapping

from concord_server.admission.refused import AdmissionError
from concord_server.admission.trial import Trials
from concord_server.admission.verdicts import Verdicts, key_of

__all__ = ["Admission"]


class Admission:
    """Judges graphs. It may be called from several threads."""

    def __init__(
        self,
        trials: Trials,
        verdicts: Verdicts,
        *,
        runtime: str,
        intra_op_threads: int = 1,
        allow_integer_division: bool = False,
    ) -> None:
        """`runtime` is the release of ONNX Runtime."""
        self._trials = trials
        self._verdicts = verdicts
        self._runtime = runtime
        self._threads = intra_op_threads
        self._division = allow_integer_division

    def admit(self, graph: bytes, files: Mapping[str, bytes]) -> None:
        """Raises AdmissionError unless a graph and its files may be loaded here."""
        key = key_of(
            graph,
            files,
            runtime=self._runtime,
            intra_op_threads=self._threads,
            allow_integer_division=self._division,
        )
        refused = self._verdicts.find(key)
        if refused is None:
            outcome = self._trials.run(graph, files, intra_op_threads=self._threads, integer_division=self._division)
            refused = outcome.refused
            if outcome.said:
                self._verdicts.keep(key, refused)
        if refused:
            raise AdmissionError(refused)

    def close(self) -> None:
        """Ends the trials under way and begins no more."""
        self._trials.close()
