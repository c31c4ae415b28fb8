# SPDX-License-Identifier: Apache-2.0
"""The conformance suite of the Concord inference contract: runs cases against any server, over gRPC alone."""

from __future__ import annotations

import importlib.metadata

__all__ = ["__version__"]

__version__ = importlib.metadata.version("concord-conformance")
