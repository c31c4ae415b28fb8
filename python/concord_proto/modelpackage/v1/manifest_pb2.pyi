from concord_proto.inference.v1 import model_pb2 as _model_pb2
from concord_proto.inference.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Manifest(_message.Message):
    __slots__ = ("kind", "description", "features", "predictions", "outputs", "files", "opsets", "producer", "library_versions", "batching", "parity", "quality", "axis_limits", "gpu_classes")
    class OpsetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LibraryVersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    OPSETS_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    LIBRARY_VERSIONS_FIELD_NUMBER: _ClassVar[int]
    BATCHING_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    AXIS_LIMITS_FIELD_NUMBER: _ClassVar[int]
    GPU_CLASSES_FIELD_NUMBER: _ClassVar[int]
    kind: _model_pb2.ModelKind
    description: str
    features: _containers.RepeatedCompositeFieldContainer[FeatureBinding]
    predictions: _containers.RepeatedCompositeFieldContainer[PredictionBinding]
    outputs: _containers.RepeatedCompositeFieldContainer[OutputBinding]
    files: _containers.RepeatedCompositeFieldContainer[File]
    opsets: _containers.ScalarMap[str, int]
    producer: str
    library_versions: _containers.ScalarMap[str, str]
    batching: Batching
    parity: _model_pb2.ParityRecord
    quality: _containers.RepeatedCompositeFieldContainer[_model_pb2.Metric]
    axis_limits: _containers.RepeatedCompositeFieldContainer[AxisLimit]
    gpu_classes: _containers.RepeatedCompositeFieldContainer[DeviceClass]
    def __init__(self, kind: _Optional[_Union[_model_pb2.ModelKind, str]] = ..., description: _Optional[str] = ..., features: _Optional[_Iterable[_Union[FeatureBinding, _Mapping]]] = ..., predictions: _Optional[_Iterable[_Union[PredictionBinding, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[OutputBinding, _Mapping]]] = ..., files: _Optional[_Iterable[_Union[File, _Mapping]]] = ..., opsets: _Optional[_Mapping[str, int]] = ..., producer: _Optional[str] = ..., library_versions: _Optional[_Mapping[str, str]] = ..., batching: _Optional[_Union[Batching, _Mapping]] = ..., parity: _Optional[_Union[_model_pb2.ParityRecord, _Mapping]] = ..., quality: _Optional[_Iterable[_Union[_model_pb2.Metric, _Mapping]]] = ..., axis_limits: _Optional[_Iterable[_Union[AxisLimit, _Mapping]]] = ..., gpu_classes: _Optional[_Iterable[_Union[DeviceClass, _Mapping]]] = ...) -> None: ...

class DeviceClass(_message.Message):
    __slots__ = ("dtype", "absolute_tolerance", "relative_tolerance")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    dtype: _tensor_pb2.DataType
    absolute_tolerance: float
    relative_tolerance: float
    def __init__(self, dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., absolute_tolerance: _Optional[float] = ..., relative_tolerance: _Optional[float] = ...) -> None: ...

class FeatureBinding(_message.Message):
    __slots__ = ("feature", "input", "column")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    feature: _model_pb2.Feature
    input: str
    column: int
    def __init__(self, feature: _Optional[_Union[_model_pb2.Feature, _Mapping]] = ..., input: _Optional[str] = ..., column: _Optional[int] = ...) -> None: ...

class PredictionBinding(_message.Message):
    __slots__ = ("prediction", "output", "index")
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    prediction: _model_pb2.Prediction
    output: str
    index: int
    def __init__(self, prediction: _Optional[_Union[_model_pb2.Prediction, _Mapping]] = ..., output: _Optional[str] = ..., index: _Optional[int] = ...) -> None: ...

class OutputBinding(_message.Message):
    __slots__ = ("output", "onnx_output", "index")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    ONNX_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    output: _model_pb2.Output
    onnx_output: str
    index: int
    def __init__(self, output: _Optional[_Union[_model_pb2.Output, _Mapping]] = ..., onnx_output: _Optional[str] = ..., index: _Optional[int] = ...) -> None: ...

class AxisLimit(_message.Message):
    __slots__ = ("input", "axis", "max_length")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    AXIS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    input: str
    axis: int
    max_length: int
    def __init__(self, input: _Optional[str] = ..., axis: _Optional[int] = ..., max_length: _Optional[int] = ...) -> None: ...

class File(_message.Message):
    __slots__ = ("name", "sha256", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    sha256: str
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., sha256: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Batching(_message.Message):
    __slots__ = ("batchable", "max_batch_rows", "policy")
    BATCHABLE_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    batchable: bool
    max_batch_rows: int
    policy: _model_pb2.BatchingPolicy
    def __init__(self, batchable: _Optional[bool] = ..., max_batch_rows: _Optional[int] = ..., policy: _Optional[_Union[_model_pb2.BatchingPolicy, str]] = ...) -> None: ...
