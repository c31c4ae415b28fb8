# SPDX-License-Identifier: Apache-2.0
"""Does the steps of one case against one server."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from concord_proto.conformance.v1 import suite_pb2

from concord_conformance.client import LONGEST_CALL_SECONDS, Client, Exchange
from concord_conformance.fill import FillError
from concord_conformance.judge import step_problems
from concord_conformance.live import Live
from concord_conformance.metrics import MetricsError, Scrape, http_status, metrics_problems, scrape
from concord_conformance.scratch import ScratchError
from concord_conformance.starter import OwnProcess

__all__ = ["BOUND_SECONDS", "Player", "Stage", "needs_metrics"]

# How long a step waits for what must come. Only a server with which it never comes reaches it.
BOUND_SECONDS = 30.0
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class Stage:
    """A server as a case meets it. `metrics`: the URL of its metrics, empty where there is none. `own`: where it is the
    case's own."""

    client: Client
    metrics: str
    own: OwnProcess | None = None


def needs_metrics(steps: Sequence[suite_pb2.Step]) -> bool:
    """Whether steps ask the server's HTTP listener."""
    return any(step.WhichOneof("action") in ("scrape", "metrics", "http") for step in steps)


class _Background:
    """Calls that go on beside the steps."""

    def __init__(self, client: Client, step: suite_pb2.Step) -> None:
        self.step = step
        self.live = Live()
        self.judged = False
        self._exchanges: list[Exchange] = []
        self._error: BaseException | None = None
        self._client = client
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._exchanges = self._client.perform(self.step, self.live)
        except BaseException as error:
            # Raised again in the thread that awaits.
            self._error = error

    def problems(self, bound: float) -> list[str]:
        """Waits for the end and judges. A call ends by its own deadline; load that goes on is a problem."""
        self.judged = True
        self._thread.join(bound)
        if self._thread.is_alive():
            self.live.cancel()
            self._thread.join(bound)
            return [f"still under way after {bound:g} s"]
        if self._error is not None:
            raise self._error
        return step_problems(self.step, self._exchanges, self._client.alone)


class Player:
    """Does the steps of one case. Steps end at the first problem; `close` leaves nothing under way."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._background: dict[str, _Background] = {}
        self._scrapes: dict[str, Scrape] = {}
        # The case has ended the server: there is nothing to be asked any more.
        self.exited = False

    def play(self, steps: Sequence[suite_pb2.Step]) -> list[str]:
        """What does not hold; empty if all does."""
        try:
            for number, step in enumerate(steps, start=1):
                found = self._guarded(lambda step=step: self._step(step))  # type: ignore[misc]
                if found:
                    where = f"step {number}: " if len(steps) > 1 else ""
                    return [where + problem for problem in found]
            return [
                f"{name}: {problem}"
                for name, background in self._background.items()
                if not background.judged
                for problem in self._guarded(lambda b=background: b.problems(_await_seconds()))  # type: ignore[misc]
            ]
        finally:
            self.close()

    def close(self) -> None:
        """Cancels every call that is still under way."""
        for background in self._background.values():
            background.live.cancel()

    def _guarded(self, what: Callable[[], list[str]]) -> list[str]:
        try:
            return what()
        except (FillError, ScratchError) as error:
            return [f"the case is wrong: {error}"]
        except MetricsError as error:
            return [str(error)]

    def _step(self, step: suite_pb2.Step) -> list[str]:
        if step.background:
            self._background[step.background] = _Background(self._stage.client, step)
            return []
        problems = self._action(step) if step.WhichOneof("action") else self._call(step)
        moment = time.perf_counter()
        return problems + [
            f"{name} ended before this did"
            for name in step.while_running
            if not self._background[name].live.none_ended_before(moment)
        ]

    def _call(self, step: suite_pb2.Step) -> list[str]:
        client = self._stage.client

        def once() -> list[str]:
            return step_problems(step, client.perform(step), client.alone)

        return _until(once) if step.until else once()

    def _action(self, step: suite_pb2.Step) -> list[str]:
        match step.WhichOneof("action"):
            case "await":
                return self._background[getattr(step, "await")].problems(_await_seconds())
            case "cancel":
                self._background[step.cancel].live.cancel()
            case "finish":
                self._background[step.finish].live.finish()
                return self._background[step.finish].problems(_await_seconds())
            case "read":
                self._background[step.read].live.read()
            case "arrived":
                live = self._background[step.arrived.call].live
                wanted = step.arrived.messages or live.messages + step.arrived.more
                got = live.wait_for_messages(wanted, BOUND_SECONDS)
                if got < wanted:
                    return [f"{step.arrived.call}: expected {wanted} messages within {BOUND_SECONDS:g} s, got {got}"]
            case "scrape":
                self._scrapes[step.scrape] = scrape(self._stage.metrics)
            case "metrics":
                return self._metrics(step.metrics)
            case "http":
                return self._http(step.http)
            case "repository":
                if self._stage.own is not None:
                    self._stage.own.repository.change(step.repository)
            case "signal":
                if self._stage.own is not None:
                    self._stage.own.process.send(signal.Signals[step.signal])
            case "exit":
                return self._exit(step.exit)
        return []

    def _metrics(self, expect: suite_pb2.MetricsExpectation) -> list[str]:
        before = self._scrapes[expect.since] if expect.since else None
        return _until(
            lambda: metrics_problems(expect, scrape(self._stage.metrics, open_metrics=expect.open_metrics), before)
        )

    def _http(self, expect: suite_pb2.HttpExpectation) -> list[str]:
        url = urlunsplit(urlsplit(self._stage.metrics)._replace(path=expect.path))

        def once() -> list[str]:
            status = http_status(url)
            return [] if status == expect.status else [f"{expect.path}: expected {expect.status}, got {status}"]

        return _until(once)

    def _exit(self, expect: suite_pb2.ExitExpectation) -> list[str]:
        if self._stage.own is None:
            return []
        code = self._stage.own.process.wait_for_exit(LONGEST_CALL_SECONDS)
        if code is None:
            return [f"the server is still there after {LONGEST_CALL_SECONDS:g} s"]
        self.exited = True
        return [] if code == expect.code else [f"exit code: expected {expect.code}, got {code}"]


def _until(once: Callable[[], list[str]]) -> list[str]:
    """Asks until there is no problem any more; at the end of the bound the last problems stand."""
    end = time.monotonic() + BOUND_SECONDS
    while True:
        problems = once()
        if not problems:
            return []
        if time.monotonic() > end:
            return [f"{problem} (for {BOUND_SECONDS:g} s)" for problem in problems]
        time.sleep(_PAUSE_SECONDS)


def _await_seconds() -> float:
    return LONGEST_CALL_SECONDS + 15.0
