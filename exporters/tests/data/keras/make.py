# SPDX-License-Identifier: Apache-2.0
"""Makes the Keras export that the tests hold: Keras's own ONNX of a model, and rows with the model's own answers.

    python exporters/tests/data/keras/make.py

It needs tensorflow (tensorflow-cpu will do) and tf2onnx, by which Keras writes ONNX; nothing else here needs them.
"""

from __future__ import annotations

from pathlib import Path

import keras  # type: ignore[import-not-found]
import numpy as np

HERE = Path(__file__).parent


def main() -> None:
    """Writes the graph, and the rows, beside this file."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((64,), name="pixels"),
        keras.layers.Reshape((8, 8, 1)),
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, activation="softmax", name="probabilities"),
    ]
    model = keras.Sequential(layers)
    rows = np.random.default_rng(0).integers(0, 17, (40, 64)).astype(np.float32)
    answers = model.predict(rows, verbose=0)
    model.export(str(HERE / "model.onnx"), format="onnx", verbose=False)
    # Keras names the output after the last operation.
    np.savez(HERE / "rows.npz", **{"pixels": rows, "Identity:0": answers})


if __name__ == "__main__":
    main()
