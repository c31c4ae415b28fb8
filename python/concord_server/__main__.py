# SPDX-License-Identifier: Apache-2.0
"""`python -m concord_server` serves a repository of ONNX models over gRPC; `--help` lists its flags."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Sequence

from concord_server import __version__, serving, supervisor, telemetry
from concord_server.config import Config, ConfigError, parse, quoted, usage
from concord_server.serving import EXIT_CONFIG, EXIT_STOPPED
from concord_server.worker import Worker


def main(arguments: Sequence[str]) -> int:
    """Serves until a signal, then drains. 0 after a stop, 2 for a bad configuration, 1 for every other failure."""
    try:
        config = parse(arguments)
        if config == "help":
            print(usage())
            return EXIT_STOPPED
        if isinstance(config, str):
            print(_version())
            return EXIT_STOPPED
        _check_library(config)
    except ConfigError as error:
        print(f"concord_server: {error}", file=sys.stderr)
        return EXIT_CONFIG
    telemetry.start()
    _open_files()
    if config.processes > 1 and not Worker.is_one():
        return supervisor.run(config, arguments)
    return serving.run(config, arguments)


def _open_files() -> None:
    """Takes as many descriptors as the system gives: the usual soft limit of 1024 would be as many clients."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _version() -> str:
    from concord_server import ort

    return f"concord_server {__version__} (ONNX Runtime {ort.VERSION})"


def _check_library(config: Config) -> None:
    genai = config.onnxruntime_genai
    if genai is not None and not genai.is_file():
        text = f"expected libonnxruntime-genai.so, got {quoted(str(genai))}, which is no file"
        raise ConfigError(f"onnxruntime_genai: {text}")
    if config.onnxruntime is None and config.device == "cpu":
        return
    from concord_server import ort

    if config.onnxruntime is not None and (wrong := ort.check_library(config.onnxruntime)):
        raise ConfigError(f"onnxruntime: {wrong}")
    if wrong := ort.check_device(config.device):
        raise ConfigError(f"device: {wrong}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
