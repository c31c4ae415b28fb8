import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from concord_proto.inference.v1 import inference_service_pb2 as _inference_service_pb2
from concord_proto.inference.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BatchingPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BATCHING_POLICY_UNSPECIFIED: _ClassVar[BatchingPolicy]
    BATCHING_POLICY_INLINE: _ClassVar[BatchingPolicy]
    BATCHING_POLICY_DIRECT: _ClassVar[BatchingPolicy]
    BATCHING_POLICY_ADAPTIVE: _ClassVar[BatchingPolicy]

class PolicySource(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POLICY_SOURCE_UNSPECIFIED: _ClassVar[PolicySource]
    POLICY_SOURCE_MEASURED: _ClassVar[PolicySource]
    POLICY_SOURCE_MANIFEST: _ClassVar[PolicySource]
    POLICY_SOURCE_CONFIGURATION: _ClassVar[PolicySource]

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]
    MODEL_STATE_DRAINING: _ClassVar[ModelState]

class ModelKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_KIND_UNSPECIFIED: _ClassVar[ModelKind]
    MODEL_KIND_TABULAR: _ClassVar[ModelKind]
    MODEL_KIND_TENSOR: _ClassVar[ModelKind]
    MODEL_KIND_GENERATOR: _ClassVar[ModelKind]
    MODEL_KIND_RECOMMENDER: _ClassVar[ModelKind]

class FeatureType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEATURE_TYPE_UNSPECIFIED: _ClassVar[FeatureType]
    FEATURE_TYPE_FLOAT: _ClassVar[FeatureType]
    FEATURE_TYPE_DOUBLE: _ClassVar[FeatureType]
    FEATURE_TYPE_INT64: _ClassVar[FeatureType]
    FEATURE_TYPE_BOOL: _ClassVar[FeatureType]
    FEATURE_TYPE_STRING: _ClassVar[FeatureType]
BATCHING_POLICY_UNSPECIFIED: BatchingPolicy
BATCHING_POLICY_INLINE: BatchingPolicy
BATCHING_POLICY_DIRECT: BatchingPolicy
BATCHING_POLICY_ADAPTIVE: BatchingPolicy
POLICY_SOURCE_UNSPECIFIED: PolicySource
POLICY_SOURCE_MEASURED: PolicySource
POLICY_SOURCE_MANIFEST: PolicySource
POLICY_SOURCE_CONFIGURATION: PolicySource
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_FAILED: ModelState
MODEL_STATE_DRAINING: ModelState
MODEL_KIND_UNSPECIFIED: ModelKind
MODEL_KIND_TABULAR: ModelKind
MODEL_KIND_TENSOR: ModelKind
MODEL_KIND_GENERATOR: ModelKind
MODEL_KIND_RECOMMENDER: ModelKind
FEATURE_TYPE_UNSPECIFIED: FeatureType
FEATURE_TYPE_FLOAT: FeatureType
FEATURE_TYPE_DOUBLE: FeatureType
FEATURE_TYPE_INT64: FeatureType
FEATURE_TYPE_BOOL: FeatureType
FEATURE_TYPE_STRING: FeatureType

class Model(_message.Message):
    __slots__ = ("model_id", "default_version", "labels", "versions")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VERSION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    default_version: str
    labels: _containers.ScalarMap[str, str]
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    def __init__(self, model_id: _Optional[str] = ..., default_version: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("version", "state", "error", "kind", "description", "features", "predictions", "outputs", "input_tensors", "output_tensors", "verified", "parity", "batchable", "max_batch_rows", "ready_time", "quality", "execution")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TENSORS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TENSORS_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_FIELD_NUMBER: _ClassVar[int]
    PARITY_FIELD_NUMBER: _ClassVar[int]
    BATCHABLE_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    READY_TIME_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    EXECUTION_FIELD_NUMBER: _ClassVar[int]
    version: str
    state: ModelState
    error: _status_pb2.Status
    kind: ModelKind
    description: str
    features: _containers.RepeatedCompositeFieldContainer[Feature]
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    outputs: _containers.RepeatedCompositeFieldContainer[Output]
    input_tensors: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    output_tensors: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    verified: bool
    parity: ParityRecord
    batchable: bool
    max_batch_rows: int
    ready_time: _timestamp_pb2.Timestamp
    quality: _containers.RepeatedCompositeFieldContainer[Metric]
    execution: Execution
    def __init__(self, version: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., kind: _Optional[_Union[ModelKind, str]] = ..., description: _Optional[str] = ..., features: _Optional[_Iterable[_Union[Feature, _Mapping]]] = ..., predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Output, _Mapping]]] = ..., input_tensors: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., output_tensors: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., verified: _Optional[bool] = ..., parity: _Optional[_Union[ParityRecord, _Mapping]] = ..., batchable: _Optional[bool] = ..., max_batch_rows: _Optional[int] = ..., ready_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., quality: _Optional[_Iterable[_Union[Metric, _Mapping]]] = ..., execution: _Optional[_Union[Execution, _Mapping]] = ...) -> None: ...

class Execution(_message.Message):
    __slots__ = ("policy", "source", "executors", "max_batch_rows", "max_delay_ms", "max_queue_rows", "device", "cpu_nodes", "measurements", "unbatchable_reason", "generation_slots", "context_length", "kv_cache_bytes", "prefill_chunk_tokens")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    EXECUTORS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUE_ROWS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CPU_NODES_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENTS_FIELD_NUMBER: _ClassVar[int]
    UNBATCHABLE_REASON_FIELD_NUMBER: _ClassVar[int]
    GENERATION_SLOTS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_LENGTH_FIELD_NUMBER: _ClassVar[int]
    KV_CACHE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PREFILL_CHUNK_TOKENS_FIELD_NUMBER: _ClassVar[int]
    policy: BatchingPolicy
    source: PolicySource
    executors: int
    max_batch_rows: int
    max_delay_ms: int
    max_queue_rows: int
    device: str
    cpu_nodes: int
    measurements: _containers.RepeatedCompositeFieldContainer[Measurement]
    unbatchable_reason: str
    generation_slots: int
    context_length: int
    kv_cache_bytes: int
    prefill_chunk_tokens: int
    def __init__(self, policy: _Optional[_Union[BatchingPolicy, str]] = ..., source: _Optional[_Union[PolicySource, str]] = ..., executors: _Optional[int] = ..., max_batch_rows: _Optional[int] = ..., max_delay_ms: _Optional[int] = ..., max_queue_rows: _Optional[int] = ..., device: _Optional[str] = ..., cpu_nodes: _Optional[int] = ..., measurements: _Optional[_Iterable[_Union[Measurement, _Mapping]]] = ..., unbatchable_reason: _Optional[str] = ..., generation_slots: _Optional[int] = ..., context_length: _Optional[int] = ..., kv_cache_bytes: _Optional[int] = ..., prefill_chunk_tokens: _Optional[int] = ...) -> None: ...

class Measurement(_message.Message):
    __slots__ = ("rows", "microseconds")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MICROSECONDS_FIELD_NUMBER: _ClassVar[int]
    rows: int
    microseconds: float
    def __init__(self, rows: _Optional[int] = ..., microseconds: _Optional[float] = ...) -> None: ...

class Metric(_message.Message):
    __slots__ = ("name", "value", "rows")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    rows: int
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., rows: _Optional[int] = ...) -> None: ...

class Feature(_message.Message):
    __slots__ = ("name", "type", "shape", "required", "default_value", "description", "max_length")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: FeatureType
    shape: _containers.RepeatedScalarFieldContainer[int]
    required: bool
    default_value: _inference_service_pb2.FeatureValue
    description: str
    max_length: int
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[FeatureType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., required: _Optional[bool] = ..., default_value: _Optional[_Union[_inference_service_pb2.FeatureValue, _Mapping]] = ..., description: _Optional[str] = ..., max_length: _Optional[int] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("name", "description")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    description: str
    def __init__(self, name: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class Output(_message.Message):
    __slots__ = ("name", "type", "shape", "description")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: FeatureType
    shape: _containers.RepeatedScalarFieldContainer[int]
    description: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[FeatureType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., description: _Optional[str] = ...) -> None: ...

class TensorSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape", "max_shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    MAX_SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: _tensor_pb2.DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    max_shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[_tensor_pb2.DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., max_shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ParityRecord(_message.Message):
    __slots__ = ("rows", "max_absolute_error", "max_ulp_error", "absolute_limit", "relative_limit", "labels_compared", "batched_equals_single")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    MAX_ABSOLUTE_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_ULP_ERROR_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_LIMIT_FIELD_NUMBER: _ClassVar[int]
    LABELS_COMPARED_FIELD_NUMBER: _ClassVar[int]
    BATCHED_EQUALS_SINGLE_FIELD_NUMBER: _ClassVar[int]
    rows: int
    max_absolute_error: float
    max_ulp_error: int
    absolute_limit: float
    relative_limit: float
    labels_compared: int
    batched_equals_single: bool
    def __init__(self, rows: _Optional[int] = ..., max_absolute_error: _Optional[float] = ..., max_ulp_error: _Optional[int] = ..., absolute_limit: _Optional[float] = ..., relative_limit: _Optional[float] = ..., labels_compared: _Optional[int] = ..., batched_equals_single: _Optional[bool] = ...) -> None: ...
