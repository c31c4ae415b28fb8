# SPDX-License-Identifier: Apache-2.0
"""MLServer with a runtime of one's own, as its documentation has it."""

import model
import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Model(MLModel):
    async def load(self) -> bool:
        self.session = model.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        scores = self.session.run([model.OUTPUT], {model.INPUT: rows})[0]
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(model.OUTPUT, scores)])
