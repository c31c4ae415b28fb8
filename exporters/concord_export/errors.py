# SPDX-License-Identifier: Apache-2.0
"""What can go wrong.

ExportError
├── PackageError            a package cannot be written, or is not what its manifest says
│   ├── PackageNameError    a model id, version or file name breaks its grammar
│   ├── PackageExistsError  the version is there already
│   └── PackageInvalidError a package does not hold what it must hold
├── SourceError             the model, rows or metadata handed over cannot be exported as they are
├── ConversionError         the converter has no ONNX for this model
└── ParityError             the export does not answer like its source
"""

from __future__ import annotations

__all__ = [
    "ConversionError",
    "ExportError",
    "PackageError",
    "PackageExistsError",
    "PackageInvalidError",
    "PackageNameError",
    "ParityError",
    "SourceError",
]


class ExportError(Exception):
    """Any failure of this package; its text is meant for the author of the model."""


class PackageError(ExportError):
    """A package cannot be written, or is not what its manifest says."""


class PackageNameError(PackageError):
    """A model id, a version or a file name breaks its grammar."""


class PackageExistsError(PackageError):
    """The version is there already."""


class PackageInvalidError(PackageError):
    """A package does not hold what it must hold."""


class SourceError(ExportError):
    """The model, rows or metadata handed over cannot be exported as they are."""


class ConversionError(ExportError):
    """The converter has no ONNX for this model."""


class ParityError(ExportError):
    """The export does not answer like its source."""
