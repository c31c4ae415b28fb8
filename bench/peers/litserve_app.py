# SPDX-License-Identifier: Apache-2.0
"""LitServe as its documentation has it. BATCH: rows in a batch at most, 1 is none."""

import os

import litserve
import model
import numpy as np

BATCH = int(os.environ.get("BATCH", "1"))


class Api(litserve.LitAPI):
    def setup(self, device):
        self.session = model.load()

    def decode_request(self, request):
        return model.row_of(request["features"])

    def batch(self, rows):
        return np.stack(rows)

    def predict(self, rows):
        if BATCH == 1:
            scores, *labels = self.session.run(model.OUTPUTS, {model.INPUT: rows[None]})
            return scores[0], labels[0][0] if labels else None
        scores, *labels = self.session.run(model.OUTPUTS, {model.INPUT: rows})
        return scores, labels[0] if labels else [None] * len(scores)

    def unbatch(self, output):
        return list(zip(*output, strict=True))

    def encode_response(self, output):
        scores, label = output
        outputs = {} if label is None else {"label": label}
        return {"predictions": model.predictions_of(scores), "outputs": outputs, "model_version": "1"}


if __name__ == "__main__":
    api = Api(max_batch_size=BATCH, batch_timeout=0.002) if BATCH > 1 else Api()
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=int(os.environ.get("WORKERS", "1")), timeout=60
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
