# SPDX-License-Identifier: Apache-2.0
"""A generator's package to its tokenizer and its decoder."""

from __future__ import annotations

from pathlib import Path

from concord_server.generate import GENAI_CONFIG, Package, Sizes
from concord_server.generate.settings import SettingsError, parse_settings
from concord_server.model import SessionError
from concord_server.ort.decoder import OrtDecoder, processors
from concord_server.ort.genai import GenAITokenizer, genai_library, open_genai
from concord_server.ort.session import Runtime

__all__ = ["Generators"]


class Generators:
    """A generate.Open."""

    def __init__(self, library: str = "", device: str = "cpu") -> None:
        """`library` is the setting onnxruntime_genai. It is not looked for before the first generator.

        `device` is the server's; there are no generators but on the CPU.
        """
        self._library = library
        self._device = device

    def library(self) -> Path:
        """The library that opens tokenizers. Raises SessionError where there is none."""
        try:
            return genai_library(self._library)
        except FileNotFoundError as error:
            raise SessionError(str(error)) from None

    def __call__(self, package: Package, sizes: Sizes) -> tuple[GenAITokenizer, OrtDecoder]:
        """Raises SessionError where a file of the package is refused, or where the library is missing."""
        try:
            settings = parse_settings(package.files.get(GENAI_CONFIG, b""))
        except SettingsError as error:
            raise SessionError(str(error)) from None
        tokenizer = open_genai(self.library()).tokenizer(package.files)
        try:
            if self._device != "cpu":
                raise SessionError(f"text generation runs on the CPU, not on {self._device}")
            session = Runtime(sizes.threads or processors()).load(package.graph, package.external)
            return tokenizer, OrtDecoder(session, settings, sizes)
        except BaseException:
            tokenizer.close()
            raise
