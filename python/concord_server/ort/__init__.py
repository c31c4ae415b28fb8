# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: the only room that knows it."""

from __future__ import annotations

from concord_server.ort.library import check_library, library
from concord_server.ort.session import OrtSession, Runtime, api

__all__ = ["VERSION", "OrtSession", "Runtime", "check_library", "library"]

VERSION: str = api().version
"""The release of ONNX Runtime."""
