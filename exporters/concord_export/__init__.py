# SPDX-License-Identifier: Apache-2.0
"""Turns fitted models into verified, pickle-free model packages that Concord servers serve.

`export_sklearn` writes a package of a fitted estimator, `export_torch` one of a PyTorch module, `wrap_onnx` one of any
ONNX graph; `Source` and `Feature` say what the command line needs to know of an estimator; `verify_package` checks a
package in this process. Every failure is an `ExportError`.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from concord_export.errors import ExportError
    from concord_export.from_sklearn import Report, export_sklearn
    from concord_export.from_torch import TorchSource, export_torch
    from concord_export.lowercase import ascii_lower
    from concord_export.package import Package, read_package, write_package
    from concord_export.source import Feature, Metric, Source
    from concord_export.verification import Verification, verify_package
    from concord_export.wrapping import Wrapped, Wrapping, wrap_onnx

__all__ = [
    "ExportError",
    "Feature",
    "Metric",
    "Package",
    "Report",
    "Source",
    "TorchSource",
    "Verification",
    "Wrapped",
    "Wrapping",
    "__version__",
    "ascii_lower",
    "export_sklearn",
    "export_torch",
    "read_package",
    "verify_package",
    "wrap_onnx",
    "write_package",
]

__version__ = "0.1.0"

# ONNX Runtime sends telemetry unless told not to before it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "ExportError": "errors",
    "Feature": "source",
    "Metric": "source",
    "Package": "package",
    "Report": "from_sklearn",
    "Source": "source",
    "Verification": "verification",
    "ascii_lower": "lowercase",
    "export_sklearn": "from_sklearn",
    "read_package": "package",
    "TorchSource": "from_torch",
    "Wrapped": "wrapping",
    "export_torch": "from_torch",
    "Wrapping": "wrapping",
    "verify_package": "verification",
    "wrap_onnx": "wrapping",
    "write_package": "package",
}


def __getattr__(name: str) -> Any:
    # On first use: who only writes or reads packages need not wait for scikit-learn and skl2onnx.
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
