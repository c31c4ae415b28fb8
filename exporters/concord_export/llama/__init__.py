# SPDX-License-Identifier: Apache-2.0
"""Language models of the Llama family: from weights in GGUF or safetensors to a package that generates text.

`architecture` says what such a model computes, `gguf_file` and `safetensors_folder` read one, `graph` writes it as
ONNX, `reference` computes the same in NumPy, `package` puts all of it together and proves it.
"""

from __future__ import annotations

from concord_export.llama.package import Generated, export_llama

__all__ = ["Generated", "export_llama"]
