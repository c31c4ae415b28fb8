# SPDX-License-Identifier: Apache-2.0
"""One process that serves: its rooms are put together here, and taken apart when it is asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from concord_server import __version__, allocator, telemetry
from concord_server.config import Address, Config
from concord_server.live import Live
from concord_server.worker import Worker

if TYPE_CHECKING:
    from concord_server.batch import Settings

__all__ = ["EXIT_CONFIG", "EXIT_FAILURE", "EXIT_STOPPED", "listen_on", "run"]

EXIT_STOPPED = 0
EXIT_FAILURE = 1
EXIT_CONFIG = 2

_TRACES_SECONDS = 5.0  # that what is left of traces has to be sent

_log = telemetry.log("concord_server")


def run(config: Config, arguments: Sequence[str]) -> int:
    """Serves until a signal, then drains; gives the exit code.

    `arguments` are those of the command line: the configuration is read again when its file changes.
    """
    allocator.few_arenas()
    # The event loop answers health while threads are busy with Python: it must not wait 5 ms for each of its turns.
    sys.setswitchinterval(0.001)
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(_serve(config, arguments))
    except Exception as error:
        _log.error("cannot serve", cause=str(error))
        code = EXIT_FAILURE
    sys.stdout.flush()
    return code


async def _serve(config: Config, arguments: Sequence[str]) -> int:
    # After the configuration is known to be good: a bad one is told at once.
    from concord_server import ort
    from concord_server.admission import Admission, Limits, Trials, Verdicts
    from concord_server.batch import Engine, cores
    from concord_server.fault import Fault
    from concord_server.generators import Generators
    from concord_server.repository import Editor, Follower, Repository, State
    from concord_server.server import AdminServer, Health, HttpListener, Server, Transport
    from concord_server.server.administration import ADMIN_SERVICE
    from concord_server.server.server import SERVICE_NAMES
    from concord_server.telemetry.gpu import gpu
    from concord_server.telemetry.metrics import Metrics
    from concord_server.telemetry.scrape import Scraped

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    worker = await Worker.started() if Worker.is_one() else None
    live = Live(arguments, config, log=worker is None)

    def on_signal() -> None:
        # Whoever asks twice does not want to wait; a worker's supervisor kills it where that is so.
        if stop.is_set() and worker is None:
            os._exit(EXIT_FAILURE)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    if worker is not None:
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # a terminal's goes to all; the supervisor decides

    with_admin = config.admin_listen is not None and worker is None
    health = Health((*SERVICE_NAMES, ADMIN_SERVICE) if with_admin else SERVICE_NAMES)

    def changed(model_id: str, ready: bool | None) -> None:
        loop.call_soon_threadsafe(health.set_model, model_id, ready)

    counts = telemetry.Counts()
    traces = telemetry.traces()
    calls = telemetry.Calls(counts, traces, config.request_log_ppm)
    scraped = Scraped(counts, Metrics(__version__, ort.VERSION, gpu(config.device)))

    def tell_state(model_id: str, version: str, state: State | None) -> None:
        counts.set_state(model_id, version, state and state.name.lower())
        if state is State.READY:
            # It may have left already.
            with contextlib.suppress(Fault):
                model = repository.resolve(model_id, version)
                if model.generator is not None:
                    server.generations.serve(model)  # its memory is told before anybody asks for a text

    def state(model_id: str, version: str, state: State | None) -> None:
        loop.call_soon_threadsafe(tell_state, model_id, version, state)

    processors = worker.cores if worker else cores()
    open_generator = ort.Generators(str(config.onnxruntime_genai or ""), config.device)
    admission = Admission(
        Trials(Limits(config.admission_timeout_seconds, config.admission_memory_bytes)),
        Verdicts(config.admission_cache),
        runtime=ort.VERSION,
        intra_op_threads=config.intra_op_threads,
        allow_integer_division=config.allow_integer_division,
        genai=open_generator.library,
        processors=processors,
    )
    runtime_of = functools.partial(ort.Runtime, device=config.device)
    repository = Repository(
        config.models,
        runtime_of(config.intra_op_threads).load,
        loader_of=lambda model_id: runtime_of(live.config.settings_of(model_id).intra_op_threads).load,
        require_manifest=config.require_manifest,
        admit=admission.admit,
        generators=Generators(
            lambda model_id: live.config.settings_of(model_id).generation,
            admission.admit_generator,
            open_generator,
            processors,
        ),
        changed=changed,
        state=state,
    )
    engine = Engine(
        lambda model_id: _settings_of(live.config, model_id),
        watch=counts.watch,
        max_output_bytes=config.max_output_bytes,
        processors=processors,
    )
    transport = Transport(
        config.max_concurrent_streams,
        config.max_header_bytes,
        config.max_connection_age_seconds,
        config.drain_grace_seconds,
    )
    server = Server(
        repository,
        health,
        engine,
        max_message_bytes=config.max_message_bytes,
        max_batch_requests=config.max_batch_requests,
        reflection=config.reflection,
        max_request_seconds=config.max_request_seconds,
        calls=calls,
        watch_generations=counts.watch_generations,
        share_port=worker is not None,
        transport=transport,
    )
    # Listed before the first request, so that none is told that a model which is only loading does not exist.
    repository.list()
    stopping = asyncio.ensure_future(stop.wait())
    addresses = {"grpc": "", "http": ""}
    admin = None
    # Before gRPC, which would not let itself be forgotten once it has started.
    listener = HttpListener(health, scraped.text)
    if worker is not None:
        worker.follow(scraped.packed, stop.set)
        # While a worker loads, the others have the connections.
        loading = loop.run_in_executor(None, repository.load)
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        await server.start(listen_on(config.listen._replace(port=worker.port)), config.certificates)
    else:
        if config.http is not None:
            port = await listener.start(config.http.host, config.http.port)
            addresses["http"] = str(config.http._replace(port=port))
        port = await server.start(listen_on(config.listen), config.certificates)
        addresses["grpc"] = str(config.listen._replace(port=port))
    if config.admin_listen is not None and worker is None:
        editor = Editor(config.models, config.staging, require_manifest=config.require_manifest)
        editor.sweep()
        admin = AdminServer(
            editor,
            health,
            max_message_bytes=config.max_message_bytes,
            reflection=config.admin_reflection,
            calls=calls,
            transport=transport,
        )
        try:
            port = await admin.start(listen_on(config.admin_listen))
        except BaseException:
            await server.stop(0)
            raise
        addresses["admin"] = str(config.admin_listen._replace(port=port))

    if worker is None:
        loading = loop.run_in_executor(None, repository.load)
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if loading.done():
        loading.result()
        health.set_serving()
        if worker is not None:
            worker.ready()
        else:
            print(json.dumps({**addresses, "pid": os.getpid()}, separators=(",", ":")), flush=True)
            _log.info("serving", **addresses, tls=config.certificates is not None)
        follower = Follower(repository, config.repository_poll_seconds)

        def apply(now: Config) -> None:
            server.apply(max_batch_requests=now.max_batch_requests, max_request_seconds=now.max_request_seconds)
            engine.apply(lambda model_id: _settings_of(now, model_id), max_output_bytes=now.max_output_bytes)
            follower.set_period(now.repository_poll_seconds)
            calls.set_log_ppm(now.request_log_ppm)

        following = [asyncio.ensure_future(follower.run()), asyncio.ensure_future(live.follow(apply))]
        await stopping
        for task in following:
            task.cancel()

    delay, grace = live.config.drain_delay_seconds, live.config.drain_grace_seconds
    _log.info("draining", delay_ms=round(delay * 1000), grace_ms=round(grace * 1000))
    await asyncio.gather(server.drain(delay, grace), *([admin.drain(delay, grace)] if admin else []))
    listener.stop()
    if traces is not None:
        await asyncio.to_thread(traces.stop, _TRACES_SECONDS)
    engine.close()
    admission.close()
    repository.close()
    if engine.busy or server.generations.busy or (admin and admin.busy) or repository.busy:
        _log.warning("work under way did not finish within the grace")
        _log.info("stopped")
        # Python would wait for its threads; the grace is over.
        sys.stdout.flush()
        os._exit(EXIT_STOPPED)
    _log.info("stopped")
    return EXIT_STOPPED


def listen_on(address: Address) -> str:
    """The address as gRPC takes it."""
    return str(address) if address.host else f"[::]:{address.port}"


def _settings_of(config: Config, model_id: str) -> Settings:
    """What the configuration says of a model, as the room batch takes it."""
    from concord_server.batch import Policy, Settings

    said = config.batching_of(model_id)
    return Settings(
        policy=Policy.UNSPECIFIED if said.policy == "auto" else Policy[said.policy.upper()],
        own_policy=said.own_policy,
        max_batch_rows=said.max_batch_rows,
        own_max_batch_rows=said.own_max_batch_rows,
        max_delay_seconds=said.max_delay_seconds,
        max_queue_rows=said.max_queue_rows,
        executors=said.executors,
    )
