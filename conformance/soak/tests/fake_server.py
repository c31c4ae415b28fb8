# SPDX-License-Identifier: Apache-2.0
"""A program like a server: predictions and health over TLS, /metrics, drain. `--fault` names what it does wrong.

Its answers come from the soak's own truth, so a run finds the fault and nothing else.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import signal
import sys
import threading
from collections import Counter
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from concord_proto.inference.v1 import inference_service_pb2 as service
from concord_soak.tally import method_of
from concord_soak.truth import PREDICT, Package

FAULTS = ("none", "wrong byte", "leaks descriptors", "loses requests", "miscounts", "ends badly", "dies")
_WRONG_EACH = 20


class Fake(grpc.GenericRpcHandler):
    """Every method; what is neither a prediction nor health is not served."""

    def __init__(self, models: Path, fault: str) -> None:
        self.fault = fault
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.open = 0
        self._packages: dict[str, Package] = {}
        self._models = models
        self._lock = threading.Lock()
        self._leaked: list[int] = []

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        path = call.method

        def handle(data: bytes, context: Any) -> bytes:
            with self._lock:
                self.open += 1
            answer = self._answer(path, data)
            with self._lock:
                self.open -= 1
                self.counts[*method_of(path), "OK"] += 1
            return answer

        return grpc.unary_unary_rpc_method_handler(handle)

    def _answer(self, path: str, data: bytes) -> bytes:
        if path != PREDICT:
            return b"\x08\x01"
        request = service.PredictRequest.FromString(data)
        if self.fault == "loses requests" and request.request_id.startswith("held-"):
            threading.Event().wait()  # under way at SIGTERM, however fast the machine is
        with self._lock:
            package = self._packages.get(request.model_id)
            if package is None:
                package = self._packages[request.model_id] = Package(self._models / request.model_id / "1")
        response = package.predict(request)
        response.request_id = request.request_id
        response.timing.batch_rows = 1
        with self._lock:
            turn = self.counts.total() % _WRONG_EACH == 0
        if turn and self.fault == "wrong byte" and response.predictions:
            name = min(response.predictions)
            response.predictions[name] += 1e-6 * abs(response.predictions[name]) + 1e-30
        if turn and self.fault == "leaks descriptors":
            self._leaked.append(os.open(os.devnull, os.O_RDONLY))
        if turn and self.fault == "dies" and self.counts.total() > _WRONG_EACH:
            os._exit(9)
        return response.SerializeToString()


def metrics(fake: Fake) -> type[http.server.BaseHTTPRequestHandler]:
    """/metrics of a fake."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            lines = ["# TYPE inference_requests_total counter", f"inference_open_streams {fake.open}"]
            for (called, method, code), count in fake.counts.items():
                count += fake.fault == "miscounts" and method == "Check"
                labels = f'service="{called}",method="{method}",model="",version="",code="{code}"'
                lines.append(f"inference_requests_total{{{labels}}} {count}")
            body = "\n".join(lines).encode() + b"\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", default="none", choices=FAULTS)
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()
    config = json.loads(arguments.config.read_text(encoding="utf-8"))
    fake = Fake(Path(config["models"]), arguments.fault)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((fake,))
    pair = (Path(config["tls_key"]).read_bytes(), Path(config["tls_cert"]).read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), metrics(fake))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    server.start()
    ready = {"grpc": f"127.0.0.1:{port}", "http": f"127.0.0.1:{web.server_port}", "pid": os.getpid()}
    print(json.dumps(ready), flush=True)
    ended.wait()
    if arguments.fault == "loses requests":
        os._exit(0)
    server.stop(60).wait()
    web.shutdown()
    web.server_close()
    return 4 if arguments.fault == "ends badly" else 0


if __name__ == "__main__":
    sys.exit(main())
