# SPDX-License-Identifier: Apache-2.0
"""The gRPC side: services, the one table from faults to statuses, health, and the drain."""

from __future__ import annotations

import os

# gRPC's core would print its own complaints as plain lines among our JSON.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from concord_server.server.administration import AdminServer
from concord_server.server.health import Health
from concord_server.server.http import HttpListener
from concord_server.server.listener import Transport
from concord_server.server.server import Server

__all__ = ["AdminServer", "Health", "HttpListener", "Server", "Transport"]
