# SPDX-License-Identifier: Apache-2.0
"""What gRPC costs in Python, by the ways there are to serve it: grpc_echo.py FILE ADDRESS [WAY].

It takes the contract's messages and answers what the model would. WAY is the library's server and what its handlers
take: aio (on uvloop, messages) or asyncio (the same on the standard loop), aio-bytes (on uvloop, bytes that nobody
reads, and a constant answer), sync and sync-bytes (the server with a pool of threads).
"""

import asyncio
import json
import signal
import sys
from concurrent import futures
from pathlib import Path

import grpc
import uvloop
from concord_proto.inference.v1 import inference_service_pb2 as pb
from concord_proto.inference.v1 import timing_pb2

described = json.loads(Path(sys.argv[1]).read_text())
predictions = dict(zip(described["classes"], described["answer"], strict=True))
way = sys.argv[3] if len(sys.argv) > 3 else "aio"
OPTIONS = [("grpc.max_receive_message_length", 64 << 20)]
THREADS = 8


def answer(request):
    return pb.PredictResponse(
        request_id=request.request_id,
        predictions=predictions,
        latency_ms=0.1,
        model_version="1",
        timing=timing_pb2.Timing(queue_ms=0.01, compute_ms=0.05, batch_rows=1),
    )


packed = answer(pb.PredictRequest()).SerializeToString()


def handler():
    if way.startswith("sync"):

        def predict(request, context):
            return packed if way == "sync-bytes" else answer(request)

    else:

        async def predict(request, context):
            return packed if way == "aio-bytes" else answer(request)

    ends = ()
    if not way.endswith("bytes"):
        ends = (pb.PredictRequest.FromString, pb.PredictResponse.SerializeToString)
    methods = {"Predict": grpc.unary_unary_rpc_method_handler(predict, *ends)}
    return grpc.method_handlers_generic_handler("inference.v1.InferenceService", methods)


async def main():
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((handler(),))
    server.add_insecure_port(sys.argv[2])
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(server.stop(0)))
    await server.wait_for_termination()


def threads():
    server = grpc.server(futures.ThreadPoolExecutor(THREADS), options=OPTIONS)
    server.add_generic_rpc_handlers((handler(),))
    server.add_insecure_port(sys.argv[2])
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: server.stop(0))
    server.wait_for_termination()


if way.startswith("sync"):
    threads()
elif way == "asyncio":
    asyncio.run(main())
else:
    uvloop.run(main())
