# SPDX-License-Identifier: Apache-2.0
"""A fake server in this process, and a client for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The fake server is also a program that the runner starts, so it is a module beside the tests and not in here.
sys.path.insert(0, str(Path(__file__).resolve().parent))
# What builds fixtures and cases.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from concord_conformance.client import Client, Target
from fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    client = Client(Target(server.address))
    client.wait_until_reachable(10)
    yield client
    client.close()
