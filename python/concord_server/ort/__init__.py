# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: the only room that knows it."""

from __future__ import annotations

from concord_server.ort import device
from concord_server.ort.decoder import OrtDecoder, processors
from concord_server.ort.genai import (
    GenAI,
    GenAITokenizer,
    UnwrittenError,
    genai_library,
    open_genai,
    tokenizer_folder,
)
from concord_server.ort.generator import Generators
from concord_server.ort.library import check_library, library
from concord_server.ort.session import OrtSession, Runtime, api

__all__ = [
    "VERSION",
    "GenAI",
    "GenAITokenizer",
    "Generators",
    "OrtDecoder",
    "OrtSession",
    "Runtime",
    "UnwrittenError",
    "check_device",
    "check_library",
    "genai_library",
    "library",
    "open_genai",
    "processors",
    "tokenizer_folder",
]

VERSION: str = api().version
"""The release of ONNX Runtime."""


def check_device(name: str) -> str | None:
    """Why sessions cannot run on "cuda:N": what is missing; None where they can, as on "cpu"."""
    number = device.number(name)
    return None if number == device.CPU else device.check_gpu(api(), number, VERSION)
