# SPDX-License-Identifier: Apache-2.0
"""The server's configuration from flags and a file, checked.

The fields, their names and their types are those of serverconfig.v1.ServerConfig; nothing here lists them twice.
"""

from __future__ import annotations

from concord_server.config.certificates import Certificates
from concord_server.config.check import Address, Config, parse
from concord_server.config.merge import ConfigError, usage

__all__ = ["Address", "Certificates", "Config", "ConfigError", "parse", "usage"]
