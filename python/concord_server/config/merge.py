# SPDX-License-Identifier: Apache-2.0
"""Flags over a file: one ServerConfig, not yet checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from concord_proto.serverconfig.v1 import server_config_pb2
from google.protobuf.descriptor import FieldDescriptor

__all__ = ["ConfigError", "ServerConfig", "config_file", "merge", "quoted", "usage", "within"]

ServerConfig = server_config_pb2.ServerConfig

_MAX_FILE_BYTES = 1 << 20
_MAX_INT32 = (1 << 31) - 1
_SHOWN = 80

# The help of each field: what its value is, and what it does.
_USAGE = {
    "models": ("DIR", "the model repository; required"),
    "listen": ("HOST:PORT", "the gRPC listener; port 0 picks a free one (default 127.0.0.1:50051)"),
    "http": ("HOST:PORT|off", "the HTTP listener of /healthz and /readyz (default 127.0.0.1:9090)"),
    "tls_cert": ("FILE", "PEM certificate chain of the server; with --tls-key"),
    "tls_key": ("FILE", "PEM private key of --tls-cert"),
    "tls_client_ca": ("FILE", "PEM authorities; clients must show a certificate of one of them"),
    "plaintext": ("", "allow plaintext gRPC on an address that is not loopback"),
    "require_manifest": ("", "refuse model versions without a manifest"),
    "reflection": ("", "serve gRPC reflection (default: only on loopback)"),
    "max_message_bytes": ("N", "largest message received and sent, 1024 to 2147483647 (default 104857600)"),
    "max_batch_requests": ("N", "most requests in one BatchPredict (default 10000)"),
    "drain_delay_ms": ("N", "at SIGTERM: time between health NOT_SERVING and GOAWAY (default 0)"),
    "drain_grace_ms": ("N", "at SIGTERM: time for work in flight after GOAWAY (default 30000)"),
    "intra_op_threads": ("N", "threads within one operator (default 1)"),
    "onnxruntime": ("FILE", "libonnxruntime; must be the one of the onnxruntime package, which this server runs"),
    "admin_listen": ("HOST:PORT|off", "the gRPC listener of ModelAdminService, loopback only (default off)"),
    "staging": ("DIR", "where LoadModel takes packages from: DIR/<model id>/<version>"),
    "repository_poll_ms": ("N", "how often the repository is looked at; 0 is once, at start (default 1000)"),
    "allow_integer_division": ("", "admit graphs that divide integers by what an input can make 0 or -1"),
    "admission_cache": ("DIR|off", "where verdicts of trial loads are kept (default: concord in the user's cache)"),
    "admission_timeout_ms": ("N", "longest trial load of one version (default 60000)"),
    "admission_memory_bytes": ("N", "largest address space of a trial load, 268435456 or more (default 17179869184)"),
    "device": ("cpu|cuda:N", "where models run (default cpu)"),
    "processes": ("N", "processes that share the gRPC address, 1 to 64 (default 1)"),
    "batching": ("POLICY", "auto, inline, direct or adaptive; auto measures each model at load (default auto)"),
    "max_batch_rows": ("N", "most rows that requests bring into one execution, 1 to 1024 (default 64)"),
    "max_delay_ms": ("N", "how long an execution waits for more rows, 0 to 1000 (default 0)"),
    "max_queue_rows": ("N", "most rows that wait for one version (default 1024)"),
    "executors": ("N", "executions of one version at once, 1 to 256 (default: chosen with the policy)"),
    "max_request_ms": ("N", "longest time of one request (default 300000)"),
    "max_connection_age_ms": ("N", "age at which a gRPC connection is told to go, 0 never (default 1800000)"),
    "max_concurrent_streams": ("N", "most calls at once on one connection (default 1024)"),
    "max_header_bytes": ("N", "largest headers of a call, at least 4096 (default 65536)"),
    "max_output_bytes": (
        "N",
        "largest outputs of one execution for one request, at least 1024 (default: max_message_bytes)",
    ),
    "request_log_ppm": ("N", "share of requests that are logged, in parts of a million (default 0)"),
    "fast_decode": ("", "concerns the Go server only; accepted here without effect (default true)"),
    "generation_slots": ("N", "most generations of one text generator at once, 1 to 64 (default 8)"),
    "max_kv_bytes": (
        "N",
        "most memory of one text generator's keys and values, at least 1048576 (default 1073741824)",
    ),
    "prefill_chunk_tokens": ("N", "most tokens of a prompt in one execution, 1 to 8192 (default 512)"),
    "onnxruntime_genai": (
        "FILE",
        "ONNX Runtime GenAI's C library, for text generators (default: of the package onnxruntime-genai)",
    ),
}

# The one field that is no flag.
_MODEL_SETTINGS = "model_settings"

_FIELDS: Mapping[str, Any] = {name: ServerConfig.DESCRIPTOR.fields_by_name[name] for name in _USAGE}


_MODEL_FIELDS: Mapping[str, Any] = server_config_pb2.ModelSettings.DESCRIPTOR.fields_by_name


class ConfigError(Exception):
    """A configuration that cannot be: one line that says which field, what was expected, what came."""


def usage() -> str:
    """The text of --help."""
    lines = [
        "Usage: python -m concord_server --models DIR [flags]",
        "",
        "Serves the models of a repository over gRPC.",
        "",
    ]
    rows = [(f"--{_flag(name)} {_USAGE[name][0]}".rstrip(), _USAGE[name][1]) for name in _FIELDS]
    rows.append(("--config FILE", 'the same fields in YAML or JSON, with "_" for "-"; a flag wins'))
    rows.append(("--help", "print this and exit"))
    rows.append(("--version", "print the version and exit"))
    width = max(len(flag) for flag, _ in rows)
    lines.extend(f"  {flag:<{width}}  {text}" for flag, text in rows)
    return "\n".join(lines)


def merge(arguments: Sequence[str]) -> ServerConfig | str:
    """Reads the flags over the file that they name; "help" or "version" where they ask for a text instead.

    Raises ConfigError.
    """
    given: dict[str, str] = {}
    for name, value in _flags(arguments):
        if name in ("help", "version"):
            return name
        given[name] = value
    message = ServerConfig()
    if "config" in given:
        path = given.pop("config")
        try:
            _read_file(Path(path), message)
        except ConfigError as error:
            raise ConfigError(f"config {quoted(path)}: {error}") from None
    for name, written in given.items():
        setattr(message, name, _parse(_FIELDS[name], written))
    return message


def config_file(arguments: Sequence[str]) -> Path | None:
    """The configuration file that the arguments name. They have been parsed before."""
    given = dict(_flags(arguments)).get("config")
    return Path(given) if given else None


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The fields' names and what was written for them: --flag VALUE, --flag=VALUE, --flag for a switch."""
    rest = iter(arguments)
    for argument in rest:
        if argument == "-h":
            yield "help", ""
            continue
        if not argument.startswith("--") or argument == "--":
            raise ConfigError(f"expected flags only, got {quoted(argument)}")
        flag, separator, value = argument[2:].partition("=")
        name = flag.replace("-", "_")
        if flag in ("help", "version") and not separator:
            yield flag, ""
            continue
        known = name == "config" or (name in _FIELDS and _flag(name) == flag)
        if not known:
            raise ConfigError(f"unknown flag: --{flag}")
        if not separator:
            if name in _FIELDS and _FIELDS[name].cpp_type == FieldDescriptor.CPPTYPE_BOOL:
                value = "true"
            else:
                following = next(rest, None)
                if following is None:
                    raise ConfigError(f"flag needs an argument: --{flag}")
                value = following
        yield name, value


def _read_file(path: Path, message: ServerConfig) -> None:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_FILE_BYTES + 1)
    except OSError:
        raise ConfigError("expected a file that can be read, got none") from None
    if len(data) > _MAX_FILE_BYTES:
        raise ConfigError(f"expected a file of at most {_MAX_FILE_BYTES} bytes that can be read")
    document = _load_yaml(data)
    if not isinstance(document, dict):
        raise ConfigError("expected fields and their values")
    models = _take(document, ServerConfig.DESCRIPTOR.fields_by_name[_MODEL_SETTINGS], "")
    if models is not None:
        _read_models(models, message)
    _read_fields("", document, _FIELDS, message)


def _read_models(models: Any, message: ServerConfig) -> None:
    """The settings of single models."""
    if not isinstance(models, dict):
        text = f"expected model ids and their settings, got {_shown(models)}"
        raise ConfigError(f"{_MODEL_SETTINGS}: {text}")
    for model_id in sorted(models):
        settings = message.model_settings[model_id]
        if (given := models[model_id]) is None:
            continue
        path = f"{_MODEL_SETTINGS}.{model_id}"
        if not isinstance(given, dict):
            raise ConfigError(f"{path}: expected fields and their values, got {_shown(given)}")
        _read_fields(path, given, _MODEL_FIELDS, settings)


def _read_fields(path: str, document: dict[str, Any], fields: Mapping[str, Any], message: Any) -> None:
    """Reads what are fields of a message. The path is where it is in the file, for errors."""
    dot, colon = (f"{path}.", f"{path}: ") if path else ("", "")
    for name, field in fields.items():
        value = _take(document, field, dot)
        if value is None:
            continue
        try:
            setattr(message, name, _parse(field, _literal(field, value)))
        except ConfigError as error:
            raise ConfigError(f"{dot}{error}") from None
    for name in sorted(document):
        raise ConfigError(f"{colon}{quoted(name)}: there is no such field")


def _take(document: dict[str, Any], field: Any, dot: str) -> Any:
    """Takes a field's value out, by either of its names."""
    given = field.name in document
    value = document.pop(field.name, None)
    if field.json_name != field.name and field.json_name in document:
        if given:
            raise ConfigError(f"{dot}{field.name}: expected once, got {field.json_name} as well")
        value = document.pop(field.json_name)
    return value


def _load_yaml(data: bytes) -> Any:
    # Imported here: most servers have no file.
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML as JSON sees it: true and false are the only booleans, and no key comes twice."""

        yaml_implicit_resolvers = {  # noqa: RUF012 - the library's own way to say it
            first: [pair for pair in pairs if pair[0] in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")]
            for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
        pairs = [(loader.construct_object(key, deep=True), value) for key, value in node.value]
        built: dict[Any, Any] = {}
        for key, value in pairs:
            if isinstance(key, int) and not isinstance(key, bool):
                key = str(key)  # a model may be called 12
            if not isinstance(key, str):
                raise ConfigError(f"expected YAML or JSON: a field's name is a text, got {quoted(str(key))}")
            if key in built:
                raise ConfigError(f"expected YAML or JSON: {quoted(key)} comes twice")
            built[key] = loader.construct_object(value, deep=True)
        return built

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    boolean = re.compile(r"true|True|TRUE|false|False|FALSE")
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(rf"^(?:{boolean.pattern})$"), list("tTfF"))
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
    number = r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?$"
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(number), list("-+.0123456789"))
    Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
    Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))
    try:
        return yaml.load(data, Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"expected YAML or JSON: {_one_line(str(error))}") from None


def _literal(field: FieldDescriptor, value: Any) -> str:
    """The text of a value of the file that is of the field's type."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        if isinstance(value, str):
            return value
        raise ConfigError(f"{field.name}: expected a text, got {_shown(value)}")
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if isinstance(value, bool):
            return "true" if value else "false"
        raise ConfigError(f"{field.name}: expected true or false, got {_shown(value)}")
    if isinstance(value, str):
        return value  # proto JSON writes 64-bit integers so
    return json.dumps(value, default=str)


def _parse(field: FieldDescriptor, written: str) -> str | bool | int:
    """A value of the field's type from its text."""
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return written
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if written in ("true", "false"):
            return written == "true"
        raise ConfigError(f"{field.name}: expected true or false, got {_shown(written)}")
    number = _integer(written)
    if number is None:
        raise ConfigError(f"{field.name}: expected an integer, got {_shown(written)}")
    if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 and not -_MAX_INT32 - 1 <= number <= _MAX_INT32:
        raise ConfigError(f"{field.name}: expected an integer of 32 bits, got {number}")
    return number


def _integer(written: str) -> int | None:
    """A 64-bit integer; a whole number may be written as 1e3."""
    if re.fullmatch(r"[-+]?[0-9]{1,19}", written):
        number = int(written)
        return number if -(1 << 63) <= number < 1 << 63 else None
    if re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?", written) and len(written) < _SHOWN:
        value = float(written)
        if value.is_integer() and abs(value) <= 1 << 53:
            return int(value)
    return None


def within(field: str, value: int, low: int, high: int = _MAX_INT32) -> int:
    """The value of a field where it is in its range. Raises ConfigError."""
    if not low <= value <= high:
        raise ConfigError(f"{field}: expected {low} to {high}, got {value}")
    return value


def quoted(text: str) -> str:
    """A text of the user's in one line."""
    return json.dumps(text, ensure_ascii=False)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _one_line(text: str) -> str:
    return " ".join(text.split())
