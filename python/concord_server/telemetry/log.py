# SPDX-License-Identifier: Apache-2.0
"""Logs: JSON lines on stderr, or lines for people where stderr is a terminal. Never the content of a request."""

from __future__ import annotations

import datetime
import json
import logging
import re
import sys
from typing import Any, TextIO

__all__ = ["Log", "log", "start"]

_LEVELS = {logging.WARNING: "WARN", logging.CRITICAL: "ERROR"}


class Log:
    """A logger whose lines carry fields."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def info(self, message: str, **fields: Any) -> None:
        """What an operator wants to know."""
        self._logger.info(message, extra={"fields": fields})

    def warning(self, message: str, **fields: Any) -> None:
        """What an operator should look at."""
        self._logger.warning(message, extra={"fields": fields})

    def error(self, message: str, *, cause: BaseException | str | None = None, **fields: Any) -> None:
        """What failed; an exception as the cause brings its stack along."""
        if isinstance(cause, BaseException):
            self._logger.error(message, extra={"fields": fields}, exc_info=cause)
        else:
            self._logger.error(message, extra={"fields": fields | ({"cause": cause} if cause else {})})


def log(name: str) -> Log:
    """The log of a room."""
    return Log(logging.getLogger(name))


def start(stream: TextIO = sys.stderr) -> None:
    """Sends the logs of this process, those of libraries as well, to `stream`."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_Lines() if stream.isatty() else _Json())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _time(record).isoformat(timespec="milliseconds"),
            "level": _LEVELS.get(record.levelno, record.levelname),
            "msg": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["stack"] = self.formatException(record.exc_info)
        return _json(line)


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        level = _LEVELS.get(record.levelno, record.levelname)
        parts = [f"{_time(record):%H:%M:%S}", f"{level:<5}", record.getMessage()]
        parts += [f"{name}={_json(value)}" for name, value in _fields(record).items()]
        line = " ".join(parts)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


# Those that JSON itself leaves as they are: a terminal or a line reader would act on them.
_CONTROL = re.compile("[\x7f-\x9f\u2028\u2029]")


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _time(record: logging.LogRecord) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(record.created).astimezone()


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields
