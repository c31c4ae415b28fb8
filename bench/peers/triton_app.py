# SPDX-License-Identifier: Apache-2.0
"""Triton through nvidia-pytriton: a Python function behind Triton's own server and dynamic batcher."""

import os

import model
import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

session = model.load()


@batch
def infer(**inputs):
    scores = session.run([model.OUTPUT], inputs)[0]
    return {model.OUTPUT: scores.reshape(len(scores), -1)}


port = int(os.environ["PORT"])
config = TritonConfig(
    http_address="127.0.0.1",
    http_port=port + 1,
    grpc_address="127.0.0.1",
    grpc_port=port,
    allow_metrics=False,
)
with Triton(config=config) as triton:
    triton.bind(
        model_name=model.NAME,
        infer_func=infer,
        inputs=[Tensor(name=model.INPUT, dtype=np.float32, shape=(model.WIDTH,))],
        outputs=[Tensor(name=model.OUTPUT, dtype=np.float32, shape=(len(model.CLASSES),))],
        config=ModelConfig(max_batch_size=64, batching=True, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
    )
    triton.serve()
