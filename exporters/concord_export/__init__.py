# SPDX-License-Identifier: Apache-2.0
"""Turns fitted models into verified, pickle-free model packages that Concord servers serve."""

from __future__ import annotations

__version__ = "0.1.0"
