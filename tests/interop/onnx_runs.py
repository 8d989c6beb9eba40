"""Exports, run by onnxruntime."""

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common.data_types import (
    BooleanTensorType,
    DoubleTensorType,
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
)

import sktorch_mlp.onnx  # noqa: F401 - registers the converters

#: Types of skl2onnx by the kind and size of a dtype.
TYPES = {"b1": BooleanTensorType, "f4": FloatTensorType, "f8": DoubleTensorType, "i8": Int64TensorType}


def run(model, X, **arguments):
    """Outputs for an array."""
    return outputs(to_onnx(model, X[:1], **arguments), {"X": X})


def outputs(exported, feed):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # no warnings of shapes that skl2onnx leaves open
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(exported.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def run_frame(model, frame, **arguments):
    """Outputs for a frame, each of whose columns is an input; missing strings are empty ones."""
    feed = {name: column_of(frame[name]) for name in frame}
    types = [(name, type_of(column)([None, 1])) for name, column in feed.items()]
    return outputs(to_onnx(model, initial_types=types, **arguments), feed)


def column_of(values):
    if values.dtype.kind in "bfi":
        return values.to_numpy().reshape(-1, 1)
    return values.astype(object).where(values.notna(), "").to_numpy(object).reshape(-1, 1)


def type_of(column):
    return TYPES.get(np.dtype(column.dtype).str[1:], StringTensorType)
