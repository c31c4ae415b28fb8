# SPDX-License-Identifier: Apache-2.0
"""Text from tokens: several generations of one model side by side, and what a request of them says and gets.

It knows no gRPC and no ONNX Runtime: a Tokenizer and a Decoder are what a generation runs on.
"""

from __future__ import annotations

from concord_server.generate.decoder import Decoder, Logits, Row
from concord_server.generate.engine import Engine
from concord_server.generate.features import FEATURES, OUTPUTS, put_answer, put_ending
from concord_server.generate.generation import Asked, Ending, Generation, Token
from concord_server.generate.generator import Generator
from concord_server.generate.package import GENAI_CONFIG, Open, Package, Sizes
from concord_server.generate.tokenizer import TextStream, Tokenizer, TokenizerError
from concord_server.generate.watcher import Watcher

__all__ = [
    "FEATURES",
    "GENAI_CONFIG",
    "OUTPUTS",
    "Asked",
    "Decoder",
    "Ending",
    "Engine",
    "Generation",
    "Generator",
    "Logits",
    "Open",
    "Package",
    "Row",
    "Sizes",
    "TextStream",
    "Token",
    "Tokenizer",
    "TokenizerError",
    "Watcher",
    "put_answer",
    "put_ending",
]
