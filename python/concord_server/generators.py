# SPDX-License-Identifier: Apache-2.0
"""What text generators are made with, put together for the repository."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from concord_server.config import Generation
from concord_server.generate import Decoder, Open, Package, Sizes, Tokenizer

__all__ = ["Generators"]


@dataclass(frozen=True, slots=True)
class Generators:
    """A repository.load.Generators."""

    settings_of: Callable[[str], Generation]
    """Those of a model by its id, at the time of a load."""
    judge: Callable[[Package, Sizes], None]
    """Raises AdmissionError where a package must not be opened."""
    opener: Open
    processors: int
    """Those that are this process's share."""

    def sizes(self, model_id: str) -> Sizes:
        """What bounds the decoder of a model's versions."""
        settings = self.settings_of(model_id)
        return Sizes(settings.slots, settings.max_kv_bytes, settings.threads or self.processors)

    def chunk_tokens(self, model_id: str) -> int:
        """Most tokens of a prompt in one run."""
        return self.settings_of(model_id).prefill_chunk_tokens

    def admit(self, package: Package, sizes: Sizes) -> None:
        """Judges a package before it is opened. Raises AdmissionError."""
        self.judge(package, sizes)

    def open(self, package: Package, sizes: Sizes) -> tuple[Tokenizer, Decoder]:
        """Makes a package's tokenizer and decoder. Raises SessionError."""
        return self.opener(package, sizes)
