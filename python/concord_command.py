# SPDX-License-Identifier: Apache-2.0
"""Starts `concord`, also as `python -m concord_command`; the command itself is concord_client.command.

Apart from concord_client, since gRPC reads its log level when it loads, and concord_client loads it.
"""

from __future__ import annotations

import importlib.util
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command. Exit codes: 0 done, 1 an answer was an error, 2 wrong use."""
    missing = [name for name in ("click", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"concord: {' and '.join(missing)} not installed: pip install 'concord[cli]'", file=sys.stderr)
        sys.exit(2)
    # gRPC's log lines are for those who debug gRPC; the command tells in words what failed.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from concord_client.command.program import program

    code: object = 0
    try:
        program(prog_name="concord")
    except SystemExit as end:
        code = end.code
    if isinstance(code, int) and code != 0:
        # Python would wait for threads that still wait for an answer; nothing is lost with them.
        _flush()
        os._exit(code)
    sys.exit(code)  # type: ignore[arg-type]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # nobody reads any more


if __name__ == "__main__":
    main()
