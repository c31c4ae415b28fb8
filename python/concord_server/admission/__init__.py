# SPDX-License-Identifier: Apache-2.0
"""Which ONNX graphs may be loaded: what they may use, how large they may grow, what could bring the process down.

The rules, with their reasons, are in docs/admission.md; the Go server follows the same ones and refuses with the same
words. Judging imports the `onnx` package and takes the time that a hostile graph makes it take, so it belongs in a
child process.
"""

from __future__ import annotations

__all__: list[str] = []
