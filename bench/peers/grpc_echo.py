# SPDX-License-Identifier: Apache-2.0
"""What gRPC costs in Python: grpc.aio on uvloop takes the contract's messages and answers what the model would."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import grpc
import uvloop
from concord_proto.inference.v1 import inference_service_pb2 as pb
from concord_proto.inference.v1 import inference_service_pb2_grpc, timing_pb2

described = json.loads(Path(sys.argv[1]).read_text())
predictions = dict(zip(described["classes"], described["answer"], strict=True))


class Echo(inference_service_pb2_grpc.InferenceServiceServicer):
    async def Predict(self, request, context):
        return pb.PredictResponse(
            request_id=request.request_id,
            predictions=predictions,
            latency_ms=0.1,
            model_version="1",
            timing=timing_pb2.Timing(queue_ms=0.01, compute_ms=0.05, batch_rows=1),
        )


async def main():
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
    inference_service_pb2_grpc.add_InferenceServiceServicer_to_server(Echo(), server)
    server.add_insecure_port(sys.argv[2])
    await server.start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(server.stop(0)))
    await server.wait_for_termination()


uvloop.run(main())
