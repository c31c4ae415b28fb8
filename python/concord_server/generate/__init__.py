# SPDX-License-Identifier: Apache-2.0
"""Text from tokens: several generations of one model side by side, and what a request of them says and gets.

It knows no gRPC and no ONNX Runtime: a Tokenizer and a Decoder are what a generation runs on.
"""

from __future__ import annotations

from concord_server.generate.decoder import Decoder, Logits, Row
from concord_server.generate.package import GENAI_CONFIG, Open, Package, Sizes
from concord_server.generate.tokenizer import TextStream, Tokenizer, TokenizerError

__all__ = [
    "GENAI_CONFIG",
    "Decoder",
    "Logits",
    "Open",
    "Package",
    "Row",
    "Sizes",
    "TextStream",
    "Tokenizer",
    "TokenizerError",
]
