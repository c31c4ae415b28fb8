# SPDX-License-Identifier: Apache-2.0
"""Makes the calls of a case over gRPC and records what came back, as bytes: nothing is interpreted here.

Only the contract's stubs are used, and only for their message types: any server can be spoken to.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
from concord_proto.conformance.v1 import suite_pb2
from concord_proto.inference.v1 import (
    inference_service_pb2,
    model_catalog_service_pb2,
    model_inference_pb2,
)
from concord_proto.recommender.v1 import recommender_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from grpc_reflection.v1alpha import reflection_pb2

from concord_conformance.bits import to_bits
from concord_conformance.fill import apply_fill, hex_bytes
from concord_conformance.live import Live
from concord_conformance.relay import Relay

__all__ = ["LONGEST_CALL_SECONDS", "METHODS", "Client", "Exchange", "Method", "Target"]

# No case should come near it; a server that hangs fails the case and not the run.
LONGEST_CALL_SECONDS = 60.0
# How long a watched stream is looked at to see that it stays open and silent.
SILENCE_SECONDS = 0.25
_DETAILS_KEY = "grpc-status-details-bin"
_TIMEOUT_KEY = "grpc-timeout"
_REFLECTION = ("grpc.reflection.v1", "grpc.reflection.v1alpha")


@dataclass(frozen=True)
class Target:
    """A server's address and what is needed to speak TLS with it: PEM bytes, or nothing for plaintext."""

    address: str
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None


@dataclass(frozen=True)
class Method:
    """A method of the contract: its path, its messages, whether it answers with a stream."""

    path: str
    request: type[Message]
    response: type[Message]
    streaming: bool = False


_SERVICE = "/inference.v1.InferenceService/"
_TENSORS = "/inference.v1.ModelInference/"
_CATALOG = "/inference.v1.ModelCatalogService/"
_HEALTH = (inference_service_pb2.HealthCheckRequest, inference_service_pb2.HealthCheckResponse)

# By the name of the member of Call.rpc.
METHODS = {
    "predict": Method(
        _SERVICE + "Predict", inference_service_pb2.PredictRequest, inference_service_pb2.PredictResponse
    ),
    "batch_predict": Method(
        _SERVICE + "BatchPredict",
        inference_service_pb2.BatchPredictRequest,
        inference_service_pb2.BatchPredictResponse,
    ),
    "stream_predict": Method(
        _SERVICE + "StreamPredict", inference_service_pb2.PredictRequest, inference_service_pb2.PredictToken, True
    ),
    "tensor_predict": Method(
        _TENSORS + "Predict", model_inference_pb2.PredictionRequest, model_inference_pb2.PredictionResponse
    ),
    "tensor_batch_predict": Method(
        _TENSORS + "BatchPredict",
        model_inference_pb2.BatchPredictionRequest,
        model_inference_pb2.BatchPredictionResponse,
    ),
    "check": Method(_SERVICE + "Check", *_HEALTH),
    "health_check": Method("/grpc.health.v1.Health/Check", *_HEALTH),
    "health_watch": Method("/grpc.health.v1.Health/Watch", *_HEALTH, True),
    "list_models": Method(
        _CATALOG + "ListModels",
        model_catalog_service_pb2.ListModelsRequest,
        model_catalog_service_pb2.ListModelsResponse,
    ),
    "get_model": Method(
        _CATALOG + "GetModel", model_catalog_service_pb2.GetModelRequest, model_catalog_service_pb2.GetModelResponse
    ),
    "recommend": Method(
        "/recommender.v1.Recommender/GetRecommendations",
        recommender_pb2.RecommendationRequest,
        recommender_pb2.RecommendationResponse,
    ),
}


@dataclass
class Exchange:
    """One call and what came back."""

    rpc: str
    index: int
    request: Message | None
    code: str = "OK"
    message: str = ""
    details: status_pb2.Status | None = None
    details_broken: bool = False
    responses: list[bytes] = field(default_factory=list)
    elapsed_ms: float = 0.0
    received_wire_bytes: int | None = None
    trailers: list[tuple[str, str | bytes]] = field(default_factory=list)
    # A watched stream ended, or said more, while it was to stay open and silent.
    stayed_open: bool = True
    # ListModels: every page, and one page with all.
    pages: list[bytes] = field(default_factory=list)
    whole: bytes = b""


def _identity(data: bytes) -> bytes:
    return data


def _open(target: Target, *, own_connection: bool, authority: str | None = None) -> grpc.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        # A call that is quietly repeated would hide what the server did.
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", int(own_connection)),
    ]
    if authority:
        options += [("grpc.default_authority", authority), ("grpc.ssl_target_name_override", authority)]
    if target.ca is None:
        return grpc.insecure_channel(target.address, options)
    credentials = grpc.ssl_channel_credentials(target.ca, target.key, target.certificate)
    return grpc.secure_channel(target.address, credentials, options)


class Client:
    """Speaks with one server over one connection; cases that ask for more get their own."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._channel = _open(target, own_connection=True)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def wait_until_reachable(self, seconds: float) -> None:
        """Returns once a connection stands. Raises grpc.FutureTimeoutError."""
        grpc.channel_ready_future(self._channel).result(timeout=seconds)

    def perform(self, step: suite_pb2.Step, live: Live | None = None) -> list[Exchange]:
        """Makes the calls of a step; one exchange for each, by index. With `live` another thread sees and ends them."""
        call, expect = step.call, step.expect
        live = live or Live()
        rounds, callers = max(call.repeat, 1), max(call.concurrency, 1)
        with contextlib.ExitStack() as stack:
            relay: Relay | None = None
            channels = [self._channel]
            if expect.max_received_wire_bytes:
                relay = stack.enter_context(Relay(self.target.address))
                host = self.target.address.rpartition(":")[0].strip("[]")
                channels = [_open(replace(self.target, address=relay.address), own_connection=True, authority=host)]
            elif call.connections:
                channels = [_open(self.target, own_connection=True) for _ in range(call.connections)]
            for channel in channels:
                if channel is not self._channel:
                    stack.callback(channel.close)

            def caller(number: int) -> list[Exchange]:
                channel = channels[number % len(channels)]
                made: list[Exchange] = []
                for turn in range(rounds):
                    if made and (live.over or live.rest(call.pause_ms / 1000)):
                        break
                    made.append(self._call(channel, call, expect, number * rounds + turn, live))
                    live.one_ended()
                return made

            if callers == 1:
                exchanges = caller(0)
            else:
                with ThreadPoolExecutor(callers) as pool:
                    exchanges = [exchange for made in pool.map(caller, range(callers)) for exchange in made]
            if relay is not None:
                for exchange in exchanges:
                    exchange.received_wire_bytes = relay.received_bytes
        return exchanges

    def alone(self, rpc: str, request: Message) -> Exchange:
        """One unary call with a message of `bits`; for comparing a batch with its requests one by one."""
        exchange = Exchange(rpc, 0, request)
        data = request.SerializeToString(deterministic=True)
        self._unary(self._channel, METHODS[rpc].path, data, suite_pb2.Call(), exchange, Live())
        return exchange

    def _call(
        self, channel: grpc.Channel, call: suite_pb2.Call, expect: suite_pb2.Expectation, index: int, live: Live
    ) -> Exchange:
        rpc = call.WhichOneof("rpc") or ""
        exchange = Exchange(rpc, index, None)
        if rpc == "reflection":
            self._reflect(channel, call, exchange)
            return exchange
        if rpc == "raw":
            path, streaming, data = call.raw.method, call.raw.server_streaming, hex_bytes(call.raw.hex)
        else:
            method = METHODS[rpc]
            path, streaming = method.path, method.streaming
            exchange.request = request_message(call, index)
            data = exchange.request.SerializeToString(deterministic=True)
        data += hex_bytes(call.append_hex)
        data += b"".join(hex_bytes(piece.hex) * max(piece.count, 1) for piece in call.append_pieces)
        if rpc == "health_watch":
            self._watch(channel, path, data, call, expect, exchange, live)
        elif streaming:
            self._stream(channel, path, data, call, exchange, live)
        else:
            self._unary(channel, path, data, call, exchange, live)
        if rpc == "list_models" and expect.models.all_pages and exchange.code == "OK":
            self._follow_pages(channel, call, exchange)
        return exchange

    def _unary(
        self, channel: grpc.Channel, path: str, data: bytes, call: suite_pb2.Call, exchange: Exchange, live: Live
    ) -> None:
        begin = time.perf_counter()
        future = channel.unary_unary(path, _identity, _identity).future(data, **_options(call))
        live.add(future)
        if call.cancel_after_ms:
            with contextlib.suppress(grpc.FutureTimeoutError, grpc.FutureCancelledError, grpc.RpcError):
                future.exception(timeout=call.cancel_after_ms / 1000)
            future.cancel()
        try:
            exchange.responses.append(future.result(timeout=LONGEST_CALL_SECONDS + 5))
            exchange.trailers = list(future.trailing_metadata() or ())
        except grpc.RpcError as error:
            _record_error(exchange, error)
        except grpc.FutureCancelledError:
            exchange.code, exchange.message = "CANCELLED", "cancelled by the client"
        except grpc.FutureTimeoutError:
            exchange.code, exchange.message = "DEADLINE_EXCEEDED", "the client gave up waiting"
            future.cancel()
        live.remove(future)
        live.arrived()
        exchange.elapsed_ms = (time.perf_counter() - begin) * 1000

    def _stream(
        self, channel: grpc.Channel, path: str, data: bytes, call: suite_pb2.Call, exchange: Exchange, live: Live
    ) -> None:
        begin = time.perf_counter()
        stream = channel.unary_stream(path, _identity, _identity)(data, **_options(call))
        live.add(stream)
        timer = threading.Timer(call.cancel_after_ms / 1000, stream.cancel) if call.cancel_after_ms else None
        if timer is not None:
            timer.start()
        if call.unread:
            # The library asks for a message when it is iterated, and for none before.
            live.wait_for_reading(lambda: not stream.is_active(), LONGEST_CALL_SECONDS)
        try:
            for message in stream:
                exchange.responses.append(message)
                live.arrived()
        except grpc.RpcError as error:
            _record_error(exchange, error)
        finally:
            live.remove(stream)
            if timer is not None:
                timer.cancel()
        exchange.elapsed_ms = (time.perf_counter() - begin) * 1000

    def _watch(
        self,
        channel: grpc.Channel,
        path: str,
        data: bytes,
        call: suite_pb2.Call,
        expect: suite_pb2.Expectation,
        exchange: Exchange,
        live: Live,
    ) -> None:
        begin = time.perf_counter()
        stream = channel.unary_stream(path, _identity, _identity)(data, **_options(call))
        live.add(stream)
        arrivals: queue.SimpleQueue[bytes | grpc.RpcError | None] = queue.SimpleQueue()

        def read() -> None:
            try:
                for message in stream:
                    arrivals.put(message)
                arrivals.put(None)
            except grpc.RpcError as error:
                arrivals.put(error)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        wanted = len(expect.health.statuses)
        while True:
            enough = len(exchange.responses) >= wanted and expect.code in ("", "OK")
            if enough and not expect.health.stays_open:
                break
            try:
                arrival = arrivals.get(timeout=SILENCE_SECONDS if enough else LONGEST_CALL_SECONDS)
            except queue.Empty:
                break
            if isinstance(arrival, bytes):
                exchange.responses.append(arrival)
                live.arrived()
                if enough:
                    break
            else:
                exchange.stayed_open = False
                if arrival is not None:
                    _record_error(exchange, arrival)
                break
        stream.cancel()
        live.remove(stream)
        reader.join(timeout=5)
        exchange.elapsed_ms = (time.perf_counter() - begin) * 1000

    def _follow_pages(self, channel: grpc.Channel, call: suite_pb2.Call, exchange: Exchange) -> None:
        answer = model_catalog_service_pb2.ListModelsResponse
        exchange.pages.append(exchange.responses[0])
        path = METHODS["list_models"].path
        # A server whose tokens go round in a circle must not hold up the run.
        for _ in range(10_000):
            try:
                token = answer.FromString(exchange.pages[-1]).next_page_token
            except DecodeError:
                return
            if not token:
                break
            request = model_catalog_service_pb2.ListModelsRequest(
                page_size=call.list_models.page_size, page_token=token
            )
            page = Exchange("list_models", 0, None)
            self._unary(channel, path, request.SerializeToString(), suite_pb2.Call(), page, Live())
            if page.code != "OK":
                exchange.code, exchange.message, exchange.details = page.code, page.message, page.details
                return
            exchange.pages.extend(page.responses)
        whole = Exchange("list_models", 0, None)
        request = model_catalog_service_pb2.ListModelsRequest(page_size=1000)
        self._unary(channel, path, request.SerializeToString(), suite_pb2.Call(), whole, Live())
        if whole.code != "OK":
            exchange.code, exchange.message, exchange.details = whole.code, whole.message, whole.details
            return
        exchange.whole = whole.responses[0]

    def _reflect(self, channel: grpc.Channel, call: suite_pb2.Call, exchange: Exchange) -> None:
        question = call.reflection
        # The messages of v1 and v1alpha are the same but for their package.
        if question.WhichOneof("question") == "symbol":
            request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=question.symbol)
        else:
            request = reflection_pb2.ServerReflectionRequest(list_services="*")
        begin = time.perf_counter()
        for package in _REFLECTION:
            exchange.code, exchange.message, exchange.details = "OK", "", None
            asked = channel.stream_stream(f"/{package}.ServerReflection/ServerReflectionInfo", _identity, _identity)(
                iter([request.SerializeToString()]), **_options(call)
            )
            try:
                exchange.responses.extend(asked)
                break
            except grpc.RpcError as error:
                _record_error(exchange, error)
                if exchange.code != "UNIMPLEMENTED":
                    break
        exchange.elapsed_ms = (time.perf_counter() - begin) * 1000


def request_message(call: suite_pb2.Call, index: int) -> Message:
    """The request of a call, as a message of `bits`, with all that is filled in. Raises fill.FillError."""
    rpc = call.WhichOneof("rpc") or ""
    message = to_bits(getattr(call, rpc))
    if rpc in ("batch_predict", "tensor_batch_predict"):
        batch: Any = message
        given = list(batch.requests)
        if call.batch_size and given:
            made = [given[i % len(given)] for i in range(call.batch_size)]
            batch = type(message)(requests=made)
        for fill in call.fills:
            if fill.path.startswith("requests"):
                apply_fill(batch, fill, index)
            else:
                for number, request in enumerate(batch.requests):
                    apply_fill(request, fill, number)
        filled: Message = batch
        return filled
    for fill in call.fills:
        apply_fill(message, fill, index)
    return message


def _options(call: suite_pb2.Call) -> dict[str, Any]:
    timeout: float | None = call.deadline_ms / 1000 if call.deadline_ms else LONGEST_CALL_SECONDS
    if any(entry.key == _TIMEOUT_KEY for entry in call.metadata):
        # The library would put its own over the case's.
        timeout = None
    return {
        "timeout": timeout,
        "metadata": list(_metadata(call)),
        "compression": grpc.Compression.Gzip if call.gzip else grpc.Compression.NoCompression,
    }


def _metadata(call: suite_pb2.Call) -> Iterator[tuple[str, str | bytes]]:
    for entry in call.metadata:
        value = entry.value * max(entry.value_count, 1)
        yield entry.key, (value.encode() if entry.key.endswith("-bin") else value)


def _record_error(exchange: Exchange, error: grpc.RpcError) -> None:
    exchange.code = error.code().name
    exchange.message = error.details() or ""
    exchange.details = None
    trailing: Any = error.trailing_metadata() or ()
    exchange.trailers = list(trailing)
    for key, value in trailing:
        if key == _DETAILS_KEY:
            try:
                exchange.details = status_pb2.Status.FromString(value)
            except DecodeError:
                exchange.details_broken = True
