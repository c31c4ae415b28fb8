# SPDX-License-Identifier: Apache-2.0
"""A protoc plugin: Python messages, services and their types below the package `concord_proto`.

It runs the generators of grpcio-tools and mypy-protobuf and then roots their imports: generated code imports by
proto path, and a bare top-level `inference` would collide with other people's packages.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tempfile

from google.protobuf import descriptor_pb2
from google.protobuf.compiler import plugin_pb2

ROOT = "concord_proto"
LICENCE = "# SPDX-License-Identifier: Apache-2.0\n"


def rooted(source: str, packages: set[str]) -> str:
    """`source` with every import of, and reference to, a module of `packages` below ROOT."""
    names = "|".join(re.escape(p) for p in sorted(packages, key=len, reverse=True))
    source = re.sub(rf"^from ({names}) import ", rf"from {ROOT}.\1 import ", source, flags=re.M)
    source = re.sub(rf"^import ({names})\.", rf"import {ROOT}.\1.", source, flags=re.M)
    return re.sub(rf"(?<![\w./])({names})\.(\w+_pb2)\b", rf"{ROOT}.\1.\2", source)


def main() -> None:
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    # The onnx package has ONNX's own messages, and a process can register them only once.
    files = sorted(name for name in request.file_to_generate if not name.startswith("onnx/"))
    packages = {name.rpartition("/")[0].replace("/", ".") for name in files}
    with tempfile.TemporaryDirectory() as folder:
        tmp = pathlib.Path(folder)
        descriptors = descriptor_pb2.FileDescriptorSet(file=request.proto_file)
        (tmp / "descriptors").write_bytes(descriptors.SerializeToString())
        out = tmp / "out"
        out.mkdir()
        mypy_grpc = pathlib.Path(sys.executable).parent / "protoc-gen-mypy_grpc"
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"--descriptor_set_in={tmp / 'descriptors'}",
                f"--python_out={out}",
                f"--pyi_out={out}",
                f"--grpc_python_out={out}",
                f"--plugin=protoc-gen-mypy_grpc={mypy_grpc}",
                f"--mypy_grpc_out=quiet:{out}",
                *files,
            ],
            check=True,
        )
        response.file.add(
            name="__init__.py",
            content=f'{LICENCE}"""Generated stubs of the inference contract; see proto/."""\n',
        )
        response.file.add(name="py.typed")
        folders: set[pathlib.PurePath] = set()
        for path in sorted(p for p in out.rglob("*") if p.is_file()):
            content = rooted(path.read_text(), packages)
            # A file without services has nothing to say in its grpc half.
            if path.stem.endswith("_pb2_grpc") and "Stub" not in content:
                continue
            name = path.relative_to(out)
            response.file.add(name=name.as_posix(), content=content)
            folders.update(parent for parent in name.parents if parent.name)
        for folder_name in sorted(folders):
            response.file.add(name=f"{folder_name.as_posix()}/__init__.py")
    sys.stdout.buffer.write(response.SerializeToString())


if __name__ == "__main__":
    main()
