# SPDX-License-Identifier: Apache-2.0
"""Each room knows only what it may know, proved from the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

import concord_server
import pytest

ROOT = Path(next(iter(concord_server.__path__)))
SOURCES = sorted(path for path in ROOT.rglob("*.py"))

# Whom a room may import, of the others. Arrows point inward.
ROOMS = {
    "allocator": set(),
    "fault": set(),
    "telemetry": {"fault"},
    "tensor": {"fault"},
    "feature": {"fault", "tensor"},
    "model": {"fault", "tensor", "feature", "generate"},
    "generate": {"fault", "telemetry", "model"},
    "batch": {"fault", "tensor", "model"},
    "ort": {"allocator", "fault", "tensor", "model", "generate"},
    "config": set(),
}
ALONE = {"onnxruntime": "ort", "grpc": "server", "grpc_health": "server", "grpc_reflection": "server"}
NEVER = {"pickle", "joblib", "dill", "cloudpickle", "torch", "sklearn", "skl2onnx", "marshal", "shelve"}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    own = room(path)
    for name in imports(path):
        top, *rest = name.split(".")
        assert top not in NEVER
        assert ALONE.get(top, own) == own, f"{own} imports {name}"
        if top == "concord_server" and rest and own in ROOMS and (ROOT / rest[0]).with_suffix("").name in ROOMS:
            assert rest[0] == own or rest[0] in ROOMS[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_source_names_its_licence(path: Path) -> None:
    assert path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")
