# SPDX-License-Identifier: Apache-2.0
"""Admission as the repository calls it: a verdict that is kept, else a trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from concord_server.admission.refused import AdmissionError
from concord_server.admission.trial import TextGenerator, Trials
from concord_server.admission.verdicts import Verdicts, digest_of, key_of
from concord_server.generate import Package, Sizes
from concord_server.model import SessionError

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
        genai: Callable[[], Path] | None = None,
        processors: int = 1,
    ) -> None:
        """`runtime` is the release of ONNX Runtime.

        `genai` gives the library of onnxruntime-genai or raises OSError or SessionError; `processors` is how many
        threads a text generator has whose sizes do not say.
        """
        self._trials = trials
        self._verdicts = verdicts
        self._runtime = runtime
        self._threads = intra_op_threads
        self._division = allow_integer_division
        self._genai = genai
        self._processors = processors

    def admit(self, graph: bytes, files: Mapping[str, bytes]) -> None:
        """Raises AdmissionError unless a graph and its files may be loaded here."""
        self._admit(graph, files, self._threads, None)

    def admit_generator(self, package: Package, sizes: Sizes) -> None:
        """Raises AdmissionError unless a text generator may be opened here."""
        try:
            if self._genai is None:
                raise SessionError("no way to look for it")
            library = self._genai()
            digest_of(library)
        except (OSError, SessionError):
            raise AdmissionError("kind generator: this server has no onnxruntime-genai") from None
        threads = sizes.threads or self._processors
        self._admit(package.graph, package.external, threads, TextGenerator(package.files, library))

    def _admit(
        self, graph: bytes, files: Mapping[str, bytes], intra_op_threads: int, generator: TextGenerator | None
    ) -> None:
        key = key_of(
            graph,
            {**files, **generator.files} if generator else files,
            runtime=self._runtime,
            intra_op_threads=intra_op_threads,
            allow_integer_division=self._division,
            genai=digest_of(generator.library) if generator else "",
        )
        refused = self._verdicts.find(key)
        if refused is None:
            outcome = self._trials.run(
                graph,
                files,
                intra_op_threads=intra_op_threads,
                integer_division=self._division,
                generator=generator,
            )
            refused = outcome.refused
            if outcome.said:
                self._verdicts.keep(key, refused)
        if refused:
            raise AdmissionError(refused)

    def close(self) -> None:
        """Ends the trials under way and begins no more."""
        self._trials.close()
