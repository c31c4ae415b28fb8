# SPDX-License-Identifier: Apache-2.0
"""The server's configuration from flags and a file, checked.

The fields, their names and their types are those of serverconfig.v1.ServerConfig; nothing here lists them twice.
"""

from __future__ import annotations

from concord_server.config.batching import Batching, Generation, ModelSettings
from concord_server.config.certificates import Certificates
from concord_server.config.check import Address, Config, parse
from concord_server.config.live import Change, config_file, reread
from concord_server.config.merge import ConfigError, quoted, usage

__all__ = [
    "Address",
    "Batching",
    "Certificates",
    "Change",
    "Config",
    "ConfigError",
    "Generation",
    "ModelSettings",
    "config_file",
    "parse",
    "quoted",
    "reread",
    "usage",
]
