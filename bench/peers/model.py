# SPDX-License-Identifier: Apache-2.0
"""The model that a peer serves: ONNX Runtime as Concord's servers set it up, and the names of what goes in and out.

The peers import this and nothing of Concord. FILES names the folder, MODEL the model.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime

NAME = os.environ.get("MODEL", "m1")
FILE = Path(os.environ["FILES"]) / f"{NAME}.onnx"
DESCRIBED = json.loads(FILE.with_suffix(".json").read_text())
INPUT, OUTPUT, LABEL = DESCRIBED["input"], DESCRIBED["output"], DESCRIBED["label"]
NAMES, CLASSES, WIDTH = DESCRIBED["names"], DESCRIBED["classes"], DESCRIBED["width"]
OUTPUTS = [OUTPUT, LABEL] if LABEL else [OUTPUT]


def load():
    """One thread in each run and no spinning: calls at once use the cores, as with Concord's servers."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(FILE), options, providers=["CPUExecutionProvider"])


def row_of(features):
    """[width], of features by name."""
    if len(NAMES) == 1:
        return np.asarray(features[NAMES[0]], np.float32)
    return np.array([features[name] for name in NAMES], np.float32)


def predictions_of(scores):
    """By class, of one row's scores."""
    return dict(zip(CLASSES, np.atleast_1d(scores).tolist(), strict=True))
