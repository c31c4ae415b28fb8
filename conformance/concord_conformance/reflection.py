# SPDX-License-Identifier: Apache-2.0
"""Holds what server reflection tells against the published contract."""

from __future__ import annotations

from concord_proto.conformance.v1 import suite_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import Default
from grpc_reflection.v1alpha import reflection_pb2

from concord_conformance.client import Exchange

__all__ = ["reflection_problems"]


def reflection_problems(expect: suite_pb2.Expectation, exchange: Exchange) -> list[str]:
    """What does not hold of an answer of the reflection service."""
    answers = [reflection_pb2.ServerReflectionResponse.FromString(data) for data in exchange.responses]
    if len(answers) != 1:
        return [f"expected one answer, got {len(answers)}"]
    answer = answers[0]
    if answer.WhichOneof("message_response") == "error_response":
        return [f"reflection: {answer.error_response.error_message}"]
    services = {service.name for service in answer.list_services_response.service}
    problems = [f"service {name!r} is missing" for name in expect.reflection.services if name not in services]
    if expect.reflection.as_published:
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in answer.file_descriptor_response.file_descriptor_proto
        ]
        problems += [] if files else ["no file came"]
        for file in files:
            problems += _published_problems(file)
    return problems


def _published_problems(file: descriptor_pb2.FileDescriptorProto) -> list[str]:
    """A file that the server describes against the same file of the stubs; other files are left out."""
    if file.name.startswith("google/"):
        return []
    try:
        published = descriptor_pb2.FileDescriptorProto.FromString(Default().FindFileByName(file.name).serialized_pb)
    except KeyError:
        return []
    wanted, got = _surface(published), _surface(file)
    problems = [f"{file.name}: {item} is missing" for item in sorted(wanted - got)]
    return problems + [f"{file.name}: {item} is not in the published contract" for item in sorted(got - wanted)]


def _surface(file: descriptor_pb2.FileDescriptorProto) -> set[str]:
    """What of a file is on the wire, a line for each field, value and method."""
    lines: set[str] = set()

    def message(prefix: str, definition: descriptor_pb2.DescriptorProto) -> None:
        name = f"{prefix}.{definition.name}"
        for field in definition.field:
            lines.add(f"{name}.{field.name} = {field.number} {field.type} {field.label} {field.type_name}")
        for enum in definition.enum_type:
            lines.update(f"{name}.{enum.name}.{value.name} = {value.number}" for value in enum.value)
        for nested in definition.nested_type:
            message(name, nested)

    for definition in file.message_type:
        message(file.package, definition)
    for enum in file.enum_type:
        lines.update(f"{file.package}.{enum.name}.{value.name} = {value.number}" for value in enum.value)
    for service in file.service:
        for method in service.method:
            arrow = "stream " if method.server_streaming else ""
            lines.add(f"{service.name}.{method.name}({method.input_type}) returns ({arrow}{method.output_type})")
    return lines
