# SPDX-License-Identifier: Apache-2.0
"""Several processes that serve on one address: started, watched, restarted and drained together.

A worker is a process of its own from the start, never a fork: neither gRPC nor ONNX Runtime survives one. The kernel
spreads connections over the workers. What there is once only, the HTTP and the admin listener, is here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from concord_server import __version__, telemetry
from concord_server.config import Address, Config
from concord_server.live import Live
from concord_server.serving import EXIT_FAILURE, EXIT_STOPPED, listen_on
from concord_server.worker import VARIABLE, Line

__all__ = ["run"]

_MOST_DEATHS = 5
_DEATHS_SECONDS = 60.0
"""More deaths than that in so short a time are no accident: all end."""
_METRICS_SECONDS = 5.0  # that a worker has to tell its metrics
_LEAVE_SECONDS = 10.0  # that a worker has after the drain to be gone

_log = telemetry.log("concord_server")


def run(config: Config, arguments: Sequence[str]) -> int:
    """Serves with the configuration's number of processes until a signal, then drains; gives the exit code.

    `arguments` are those of the command line, for the workers.
    """
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_Supervisor(config, arguments).run())
    except Exception as error:
        _log.error("cannot serve", cause=str(error))
        code = EXIT_FAILURE
    sys.stdout.flush()
    return code


class _Process:
    """A worker from its start to its end."""

    def __init__(self, popen: subprocess.Popen[bytes], line: Line) -> None:
        self.popen = popen
        self.line = line
        self.ready = asyncio.Event()
        self.gone = asyncio.Event()
        self._asked: asyncio.Future[bytes] | None = None
        self._watch = os.pidfd_open(popen.pid)
        asyncio.get_running_loop().add_reader(self._watch, self._ended)
        self._heard = asyncio.ensure_future(self._hear())

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._watch)
        os.close(self._watch)
        self.popen.wait()
        self.line.close()
        self.gone.set()

    async def _hear(self) -> None:
        while (message := await self.line.hear()) is not None:
            if "ready" in message:
                self.ready.set()
            elif self._asked is not None and not self._asked.done():
                self._asked.set_result(base64.b64decode(message["metrics"]))

    async def metrics(self) -> bytes | None:
        """What it counts; None where it does not answer."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.get_running_loop().create_future()
            self.line.say(ask="metrics")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_METRICS_SECONDS):
                return await asyncio.shield(self._asked)
        return None

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it is still there."""
        if not self.gone.is_set():
            self.popen.send_signal(number)


class _Supervisor:
    def __init__(self, config: Config, arguments: Sequence[str]) -> None:
        self._config = config
        self._arguments = arguments
        self._command = (sys.executable, "-m", "concord_server", *arguments)
        self._workers: list[_Process] = []
        self._deaths: list[float] = []
        self._stop = asyncio.Event()
        self._failed = False
        self._port = 0

    async def run(self) -> int:
        from concord_server.repository import Editor
        from concord_server.server import AdminServer, Health, HttpListener
        from concord_server.server.administration import ADMIN_SERVICE
        from concord_server.telemetry.metrics import Metrics
        from concord_server.telemetry.scrape import Scraped

        config = self._config
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        live = Live(self._arguments, config)  # the workers follow the file by themselves
        self._health = Health(("", ADMIN_SERVICE))
        reserved = _reserve(config.listen)
        addresses = {"grpc": "", "http": ""}
        admin = None
        try:
            self._port = reserved.getsockname()[1]
            addresses["grpc"] = str(config.listen._replace(port=self._port))
            calls = telemetry.Calls(log_ppm=config.request_log_ppm)
            scraped = Scraped(calls.counts, Metrics(__version__, _onnxruntime()), self._metrics)
            listener = HttpListener(self._health, scraped.text)
            if config.http is not None:
                port = await listener.start(config.http.host, config.http.port)
                addresses["http"] = str(config.http._replace(port=port))
            if config.admin_listen is not None:
                editor = Editor(config.models, config.staging, require_manifest=config.require_manifest)
                editor.sweep()
                admin = AdminServer(
                    editor,
                    self._health,
                    max_message_bytes=config.max_message_bytes,
                    reflection=config.admin_reflection,
                    calls=calls,
                )
                port = await admin.start(listen_on(config.admin_listen))
                addresses["admin"] = str(config.admin_listen._replace(port=port))
            self._workers = [await self._start() for _ in range(config.processes)]
            if await self._all_ready():
                _log.info(
                    "serving", **addresses, tls=config.certificates is not None, processes=[*map(_pid, self._workers)]
                )
                print(json.dumps({**addresses, "pid": os.getpid()}, separators=(",", ":")), flush=True)
                async with asyncio.TaskGroup() as group:
                    keeping = [group.create_task(self._keep(place)) for place in range(config.processes)]
                    keeping.append(group.create_task(live.follow(lambda now: calls.set_log_ppm(now.request_log_ppm))))
                    await self._stop.wait()
                    for task in keeping:
                        task.cancel()
            delay, grace = live.config.drain_delay_seconds, live.config.drain_grace_seconds
            self._health.stop()
            _log.info("draining", delay_ms=round(delay * 1000), grace_ms=round(grace * 1000))
            drains = [self._end(delay + grace + _LEAVE_SECONDS)]
            if admin is not None:
                drains.append(admin.drain(delay, grace))
            await asyncio.gather(*drains)
            listener.stop()
        finally:
            for worker in self._workers:
                worker.signal(signal.SIGKILL)
            reserved.close()
        _log.info("stopped")
        clean = not self._failed and all(worker.popen.returncode == 0 for worker in self._workers)
        return EXIT_STOPPED if clean else EXIT_FAILURE

    def _on_signal(self) -> None:
        if self._stop.is_set():  # whoever asks twice does not want to wait
            for worker in self._workers:
                worker.signal(signal.SIGKILL)
            os._exit(EXIT_FAILURE)
        self._stop.set()

    async def _start(self) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            popen = subprocess.Popen(  # noqa: S603, ASYNC220 - our own command; it returns at once
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                env={**os.environ, VARIABLE: str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
            )
        line = await Line.over(ours)
        cores = len(os.sched_getaffinity(0))
        line.say(port=self._port, cores=max(1, cores // self._config.processes))
        return _Process(popen, line)

    async def _all_ready(self) -> bool:
        """Waits until all workers serve; False where one has died before, or where all are to stop."""
        all_ready = asyncio.ensure_future(self._each_ready())
        ends = (self._stop, *(worker.gone for worker in self._workers))
        waits = [all_ready, *(asyncio.ensure_future(_happens(end)) for end in ends)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        dead = [worker for worker in self._workers if worker.gone.is_set()]
        for worker in dead:
            _log.error("worker did not start", pid=_pid(worker), exit_code=worker.popen.returncode)
        self._failed = bool(dead) and not self._stop.is_set()
        if self._failed or self._stop.is_set():
            return False
        self._health.set_serving()
        return True

    async def _each_ready(self) -> None:
        for worker in self._workers:
            await worker.ready.wait()

    async def _keep(self, place: int) -> None:
        """Has a worker in its place for as long as this is not cancelled."""
        while True:
            worker = self._workers[place]
            await worker.gone.wait()
            self._tell_ready()
            now = time.monotonic()
            self._deaths = [death for death in self._deaths if death > now - _DEATHS_SECONDS] + [now]
            again = len(self._deaths) <= _MOST_DEATHS
            code = worker.popen.returncode
            _log.error("worker died", pid=_pid(worker), exit_code=code, deaths=len(self._deaths), restarted=again)
            if not again:
                self._failed = True
                self._stop.set()
                return
            worker = self._workers[place] = await self._start()
            waits = [asyncio.ensure_future(_happens(event)) for event in (worker.ready, worker.gone)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            if worker.ready.is_set():
                _log.info("worker restarted", pid=_pid(worker))
            self._tell_ready()

    def _tell_ready(self) -> None:
        all_ready = all(worker.ready.is_set() and not worker.gone.is_set() for worker in self._workers)
        self._health.set_serving(all_ready)

    async def _end(self, seconds: float) -> None:
        """Has all workers drain, and kills those that are not gone after so many seconds."""
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for worker in self._workers:
                    await worker.gone.wait()
        for worker in self._workers:
            if not worker.gone.is_set():
                _log.error("worker did not stop", pid=_pid(worker))
                worker.signal(signal.SIGKILL)
                await worker.gone.wait()

    async def _metrics(self) -> list[bytes]:
        told = await asyncio.gather(*(worker.metrics() for worker in self._workers if not worker.gone.is_set()))
        return [packed for packed in told if packed is not None]


async def _happens(event: asyncio.Event) -> None:
    await event.wait()


def _pid(worker: _Process) -> int:
    return worker.popen.pid


def _reserve(address: Address) -> socket.socket:
    """Takes the port for the workers, without listening on it. Raises OSError where it is taken."""
    host = address.host or "::"
    family, kind, protocol, _, where = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM)[0]
    if address.port:
        # Sharing is for the workers: another server on this port is an error.
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(where)
    shared = socket.socket(family, kind, protocol)
    try:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        shared.bind(where)
    except OSError:
        shared.close()
        raise
    return shared


def _onnxruntime() -> str:
    """The release of ONNX Runtime, without loading it: nothing runs here."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return ""
