# SPDX-License-Identifier: Apache-2.0
"""Everything at once against one server, every answer checked bit for bit; see docs/soak.md."""

__version__ = "0.1.0"
