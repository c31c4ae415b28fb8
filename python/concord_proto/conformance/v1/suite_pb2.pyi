from concord_proto.inference.v1 import inference_service_pb2 as _inference_service_pb2
from concord_proto.inference.v1 import model_pb2 as _model_pb2
from concord_proto.inference.v1 import model_catalog_service_pb2 as _model_catalog_service_pb2
from concord_proto.inference.v1 import model_inference_pb2 as _model_inference_pb2
from concord_proto.recommender.v1 import recommender_pb2 as _recommender_pb2
from concord_proto.serverconfig.v1 import server_config_pb2 as _server_config_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Level(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEVEL_UNSPECIFIED: _ClassVar[Level]
    LEVEL_MUST: _ClassVar[Level]
    LEVEL_SHOULD: _ClassVar[Level]
    LEVEL_MAY: _ClassVar[Level]
LEVEL_UNSPECIFIED: Level
LEVEL_MUST: Level
LEVEL_SHOULD: Level
LEVEL_MAY: Level

class Suite(_message.Message):
    __slots__ = ("profile", "level", "description", "probe", "cases")
    PROFILE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    CASES_FIELD_NUMBER: _ClassVar[int]
    profile: str
    level: Level
    description: str
    probe: Step
    cases: _containers.RepeatedCompositeFieldContainer[Case]
    def __init__(self, profile: _Optional[str] = ..., level: _Optional[_Union[Level, str]] = ..., description: _Optional[str] = ..., probe: _Optional[_Union[Step, _Mapping]] = ..., cases: _Optional[_Iterable[_Union[Case, _Mapping]]] = ...) -> None: ...

class Case(_message.Message):
    __slots__ = ("id", "description", "level", "steps", "server")
    ID_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    id: str
    description: str
    level: Level
    steps: _containers.RepeatedCompositeFieldContainer[Step]
    server: OwnServer
    def __init__(self, id: _Optional[str] = ..., description: _Optional[str] = ..., level: _Optional[_Union[Level, str]] = ..., steps: _Optional[_Iterable[_Union[Step, _Mapping]]] = ..., server: _Optional[_Union[OwnServer, _Mapping]] = ...) -> None: ...

class OwnServer(_message.Message):
    __slots__ = ("models", "config")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedScalarFieldContainer[str]
    config: _server_config_pb2.ServerConfig
    def __init__(self, models: _Optional[_Iterable[str]] = ..., config: _Optional[_Union[_server_config_pb2.ServerConfig, _Mapping]] = ...) -> None: ...

class Step(_message.Message):
    __slots__ = ("call", "expect", "shares", "background", "until", "while_running", "cancel", "finish", "arrived", "scrape", "metrics", "http", "repository", "signal", "exit", "read")
    CALL_FIELD_NUMBER: _ClassVar[int]
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    BACKGROUND_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    WHILE_RUNNING_FIELD_NUMBER: _ClassVar[int]
    AWAIT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    ARRIVED_FIELD_NUMBER: _ClassVar[int]
    SCRAPE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    REPOSITORY_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    EXIT_FIELD_NUMBER: _ClassVar[int]
    READ_FIELD_NUMBER: _ClassVar[int]
    call: Call
    expect: Expectation
    shares: _containers.RepeatedCompositeFieldContainer[Share]
    background: str
    until: bool
    while_running: _containers.RepeatedScalarFieldContainer[str]
    cancel: str
    finish: str
    arrived: Arrival
    scrape: str
    metrics: MetricsExpectation
    http: HttpExpectation
    repository: RepositoryChange
    signal: str
    exit: ExitExpectation
    read: str
    def __init__(self, call: _Optional[_Union[Call, _Mapping]] = ..., expect: _Optional[_Union[Expectation, _Mapping]] = ..., shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ..., background: _Optional[str] = ..., until: _Optional[bool] = ..., while_running: _Optional[_Iterable[str]] = ..., cancel: _Optional[str] = ..., finish: _Optional[str] = ..., arrived: _Optional[_Union[Arrival, _Mapping]] = ..., scrape: _Optional[str] = ..., metrics: _Optional[_Union[MetricsExpectation, _Mapping]] = ..., http: _Optional[_Union[HttpExpectation, _Mapping]] = ..., repository: _Optional[_Union[RepositoryChange, _Mapping]] = ..., signal: _Optional[str] = ..., exit: _Optional[_Union[ExitExpectation, _Mapping]] = ..., read: _Optional[str] = ..., **kwargs) -> None: ...

class Share(_message.Message):
    __slots__ = ("expect", "at_least", "at_most")
    EXPECT_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_FIELD_NUMBER: _ClassVar[int]
    expect: Expectation
    at_least: int
    at_most: int
    def __init__(self, expect: _Optional[_Union[Expectation, _Mapping]] = ..., at_least: _Optional[int] = ..., at_most: _Optional[int] = ...) -> None: ...

class Arrival(_message.Message):
    __slots__ = ("call", "messages", "more")
    CALL_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    call: str
    messages: int
    more: int
    def __init__(self, call: _Optional[str] = ..., messages: _Optional[int] = ..., more: _Optional[int] = ...) -> None: ...

class MetricsExpectation(_message.Message):
    __slots__ = ("since", "samples", "families", "only_prefix", "forbidden_labels", "open_metrics")
    SINCE_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    FAMILIES_FIELD_NUMBER: _ClassVar[int]
    ONLY_PREFIX_FIELD_NUMBER: _ClassVar[int]
    FORBIDDEN_LABELS_FIELD_NUMBER: _ClassVar[int]
    OPEN_METRICS_FIELD_NUMBER: _ClassVar[int]
    since: str
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    families: _containers.RepeatedCompositeFieldContainer[Family]
    only_prefix: str
    forbidden_labels: _containers.RepeatedScalarFieldContainer[str]
    open_metrics: bool
    def __init__(self, since: _Optional[str] = ..., samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ..., families: _Optional[_Iterable[_Union[Family, _Mapping]]] = ..., only_prefix: _Optional[str] = ..., forbidden_labels: _Optional[_Iterable[str]] = ..., open_metrics: _Optional[bool] = ...) -> None: ...

class Sample(_message.Message):
    __slots__ = ("name", "labels", "equals", "at_least", "at_most", "absent")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    EQUALS_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    AT_MOST_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    labels: _containers.ScalarMap[str, str]
    equals: float
    at_least: float
    at_most: float
    absent: bool
    def __init__(self, name: _Optional[str] = ..., labels: _Optional[_Mapping[str, str]] = ..., equals: _Optional[float] = ..., at_least: _Optional[float] = ..., at_most: _Optional[float] = ..., absent: _Optional[bool] = ...) -> None: ...

class Family(_message.Message):
    __slots__ = ("name", "type", "labels", "buckets", "optional")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    buckets: _containers.RepeatedScalarFieldContainer[float]
    optional: bool
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., buckets: _Optional[_Iterable[float]] = ..., optional: _Optional[bool] = ...) -> None: ...

class HttpExpectation(_message.Message):
    __slots__ = ("path", "status")
    PATH_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    path: str
    status: int
    def __init__(self, path: _Optional[str] = ..., status: _Optional[int] = ...) -> None: ...

class RepositoryChange(_message.Message):
    __slots__ = ("copy", "remove", "write")
    COPY_FIELD_NUMBER: _ClassVar[int]
    REMOVE_FIELD_NUMBER: _ClassVar[int]
    WRITE_FIELD_NUMBER: _ClassVar[int]
    copy: PackageCopy
    remove: str
    write: TextFile
    def __init__(self, copy: _Optional[_Union[PackageCopy, _Mapping]] = ..., remove: _Optional[str] = ..., write: _Optional[_Union[TextFile, _Mapping]] = ...) -> None: ...

class PackageCopy(_message.Message):
    __slots__ = ("to", "files", "bytes")
    FROM_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    to: str
    files: _containers.RepeatedScalarFieldContainer[str]
    bytes: int
    def __init__(self, to: _Optional[str] = ..., files: _Optional[_Iterable[str]] = ..., bytes: _Optional[int] = ..., **kwargs) -> None: ...

class TextFile(_message.Message):
    __slots__ = ("path", "text")
    PATH_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    path: str
    text: str
    def __init__(self, path: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class ExitExpectation(_message.Message):
    __slots__ = ("code",)
    CODE_FIELD_NUMBER: _ClassVar[int]
    code: int
    def __init__(self, code: _Optional[int] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("predict", "batch_predict", "stream_predict", "tensor_predict", "tensor_batch_predict", "check", "health_check", "health_watch", "list_models", "get_model", "recommend", "reflection", "raw", "fills", "append_hex", "batch_size", "metadata", "deadline_ms", "cancel_after_ms", "gzip", "repeat", "concurrency", "connections", "append_pieces", "pause_ms", "unread")
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    BATCH_PREDICT_FIELD_NUMBER: _ClassVar[int]
    STREAM_PREDICT_FIELD_NUMBER: _ClassVar[int]
    TENSOR_PREDICT_FIELD_NUMBER: _ClassVar[int]
    TENSOR_BATCH_PREDICT_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    HEALTH_CHECK_FIELD_NUMBER: _ClassVar[int]
    HEALTH_WATCH_FIELD_NUMBER: _ClassVar[int]
    LIST_MODELS_FIELD_NUMBER: _ClassVar[int]
    GET_MODEL_FIELD_NUMBER: _ClassVar[int]
    RECOMMEND_FIELD_NUMBER: _ClassVar[int]
    REFLECTION_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    FILLS_FIELD_NUMBER: _ClassVar[int]
    APPEND_HEX_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_MS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    GZIP_FIELD_NUMBER: _ClassVar[int]
    REPEAT_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    APPEND_PIECES_FIELD_NUMBER: _ClassVar[int]
    PAUSE_MS_FIELD_NUMBER: _ClassVar[int]
    UNREAD_FIELD_NUMBER: _ClassVar[int]
    predict: _inference_service_pb2.PredictRequest
    batch_predict: _inference_service_pb2.BatchPredictRequest
    stream_predict: _inference_service_pb2.PredictRequest
    tensor_predict: _model_inference_pb2.PredictionRequest
    tensor_batch_predict: _model_inference_pb2.BatchPredictionRequest
    check: _inference_service_pb2.HealthCheckRequest
    health_check: _inference_service_pb2.HealthCheckRequest
    health_watch: _inference_service_pb2.HealthCheckRequest
    list_models: _model_catalog_service_pb2.ListModelsRequest
    get_model: _model_catalog_service_pb2.GetModelRequest
    recommend: _recommender_pb2.RecommendationRequest
    reflection: ReflectionCall
    raw: RawCall
    fills: _containers.RepeatedCompositeFieldContainer[Fill]
    append_hex: str
    batch_size: int
    metadata: _containers.RepeatedCompositeFieldContainer[Metadata]
    deadline_ms: int
    cancel_after_ms: int
    gzip: bool
    repeat: int
    concurrency: int
    connections: int
    append_pieces: _containers.RepeatedCompositeFieldContainer[RepeatedHex]
    pause_ms: int
    unread: bool
    def __init__(self, predict: _Optional[_Union[_inference_service_pb2.PredictRequest, _Mapping]] = ..., batch_predict: _Optional[_Union[_inference_service_pb2.BatchPredictRequest, _Mapping]] = ..., stream_predict: _Optional[_Union[_inference_service_pb2.PredictRequest, _Mapping]] = ..., tensor_predict: _Optional[_Union[_model_inference_pb2.PredictionRequest, _Mapping]] = ..., tensor_batch_predict: _Optional[_Union[_model_inference_pb2.BatchPredictionRequest, _Mapping]] = ..., check: _Optional[_Union[_inference_service_pb2.HealthCheckRequest, _Mapping]] = ..., health_check: _Optional[_Union[_inference_service_pb2.HealthCheckRequest, _Mapping]] = ..., health_watch: _Optional[_Union[_inference_service_pb2.HealthCheckRequest, _Mapping]] = ..., list_models: _Optional[_Union[_model_catalog_service_pb2.ListModelsRequest, _Mapping]] = ..., get_model: _Optional[_Union[_model_catalog_service_pb2.GetModelRequest, _Mapping]] = ..., recommend: _Optional[_Union[_recommender_pb2.RecommendationRequest, _Mapping]] = ..., reflection: _Optional[_Union[ReflectionCall, _Mapping]] = ..., raw: _Optional[_Union[RawCall, _Mapping]] = ..., fills: _Optional[_Iterable[_Union[Fill, _Mapping]]] = ..., append_hex: _Optional[str] = ..., batch_size: _Optional[int] = ..., metadata: _Optional[_Iterable[_Union[Metadata, _Mapping]]] = ..., deadline_ms: _Optional[int] = ..., cancel_after_ms: _Optional[int] = ..., gzip: _Optional[bool] = ..., repeat: _Optional[int] = ..., concurrency: _Optional[int] = ..., connections: _Optional[int] = ..., append_pieces: _Optional[_Iterable[_Union[RepeatedHex, _Mapping]]] = ..., pause_ms: _Optional[int] = ..., unread: _Optional[bool] = ...) -> None: ...

class Fill(_message.Message):
    __slots__ = ("path", "text", "indexed_text", "indexed_float", "indexed_int64", "floats", "int64s", "float_bits", "double_bits", "float_array_bits", "hex", "padding_to_message_bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INDEXED_TEXT_FIELD_NUMBER: _ClassVar[int]
    INDEXED_FLOAT_FIELD_NUMBER: _ClassVar[int]
    INDEXED_INT64_FIELD_NUMBER: _ClassVar[int]
    FLOATS_FIELD_NUMBER: _ClassVar[int]
    INT64S_FIELD_NUMBER: _ClassVar[int]
    FLOAT_BITS_FIELD_NUMBER: _ClassVar[int]
    DOUBLE_BITS_FIELD_NUMBER: _ClassVar[int]
    FLOAT_ARRAY_BITS_FIELD_NUMBER: _ClassVar[int]
    HEX_FIELD_NUMBER: _ClassVar[int]
    PADDING_TO_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    text: RepeatedText
    indexed_text: str
    indexed_float: Line
    indexed_int64: IntegerLine
    floats: Range
    int64s: IntegerRange
    float_bits: str
    double_bits: str
    float_array_bits: HexList
    hex: str
    padding_to_message_bytes: int
    def __init__(self, path: _Optional[str] = ..., text: _Optional[_Union[RepeatedText, _Mapping]] = ..., indexed_text: _Optional[str] = ..., indexed_float: _Optional[_Union[Line, _Mapping]] = ..., indexed_int64: _Optional[_Union[IntegerLine, _Mapping]] = ..., floats: _Optional[_Union[Range, _Mapping]] = ..., int64s: _Optional[_Union[IntegerRange, _Mapping]] = ..., float_bits: _Optional[str] = ..., double_bits: _Optional[str] = ..., float_array_bits: _Optional[_Union[HexList, _Mapping]] = ..., hex: _Optional[str] = ..., padding_to_message_bytes: _Optional[int] = ...) -> None: ...

class RepeatedText(_message.Message):
    __slots__ = ("text", "count")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    text: str
    count: int
    def __init__(self, text: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class RepeatedHex(_message.Message):
    __slots__ = ("hex", "count")
    HEX_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    hex: str
    count: int
    def __init__(self, hex: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Line(_message.Message):
    __slots__ = ("start", "step")
    START_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    start: float
    step: float
    def __init__(self, start: _Optional[float] = ..., step: _Optional[float] = ...) -> None: ...

class IntegerLine(_message.Message):
    __slots__ = ("start", "step")
    START_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    start: int
    step: int
    def __init__(self, start: _Optional[int] = ..., step: _Optional[int] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("start", "step", "count")
    START_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    start: float
    step: float
    count: int
    def __init__(self, start: _Optional[float] = ..., step: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...

class IntegerRange(_message.Message):
    __slots__ = ("start", "step", "count")
    START_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    start: int
    step: int
    count: int
    def __init__(self, start: _Optional[int] = ..., step: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class HexList(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, values: _Optional[_Iterable[str]] = ...) -> None: ...

class ReflectionCall(_message.Message):
    __slots__ = ("list_services", "symbol")
    LIST_SERVICES_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    list_services: bool
    symbol: str
    def __init__(self, list_services: _Optional[bool] = ..., symbol: _Optional[str] = ...) -> None: ...

class RawCall(_message.Message):
    __slots__ = ("method", "hex", "server_streaming")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    HEX_FIELD_NUMBER: _ClassVar[int]
    SERVER_STREAMING_FIELD_NUMBER: _ClassVar[int]
    method: str
    hex: str
    server_streaming: bool
    def __init__(self, method: _Optional[str] = ..., hex: _Optional[str] = ..., server_streaming: _Optional[bool] = ...) -> None: ...

class Metadata(_message.Message):
    __slots__ = ("key", "value", "value_count")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    VALUE_COUNT_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    value_count: int
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ..., value_count: _Optional[int] = ...) -> None: ...

class Expectation(_message.Message):
    __slots__ = ("code", "other_allowed_codes", "reason", "message", "message_pattern", "violations", "error_metadata", "details_optional", "forbidden", "max_elapsed_ms", "max_received_wire_bytes", "fills", "absolute_tolerance", "relative_tolerance", "any_nan", "trailers", "predict", "batch", "stream", "tensor_predict", "health", "model", "models", "recommend", "reflection")
    class ErrorMetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CODE_FIELD_NUMBER: _ClassVar[int]
    OTHER_ALLOWED_CODES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_PATTERN_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    ERROR_METADATA_FIELD_NUMBER: _ClassVar[int]
    DETAILS_OPTIONAL_FIELD_NUMBER: _ClassVar[int]
    FORBIDDEN_FIELD_NUMBER: _ClassVar[int]
    MAX_ELAPSED_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_RECEIVED_WIRE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILLS_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    RELATIVE_TOLERANCE_FIELD_NUMBER: _ClassVar[int]
    ANY_NAN_FIELD_NUMBER: _ClassVar[int]
    TRAILERS_FIELD_NUMBER: _ClassVar[int]
    PREDICT_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TENSOR_PREDICT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    RECOMMEND_FIELD_NUMBER: _ClassVar[int]
    REFLECTION_FIELD_NUMBER: _ClassVar[int]
    code: str
    other_allowed_codes: _containers.RepeatedScalarFieldContainer[str]
    reason: str
    message: str
    message_pattern: str
    violations: _containers.RepeatedCompositeFieldContainer[Violation]
    error_metadata: _containers.ScalarMap[str, str]
    details_optional: bool
    forbidden: _containers.RepeatedScalarFieldContainer[str]
    max_elapsed_ms: int
    max_received_wire_bytes: int
    fills: _containers.RepeatedCompositeFieldContainer[Fill]
    absolute_tolerance: float
    relative_tolerance: float
    any_nan: bool
    trailers: _containers.RepeatedCompositeFieldContainer[Trailer]
    predict: _inference_service_pb2.PredictResponse
    batch: BatchExpectation
    stream: StreamExpectation
    tensor_predict: _model_inference_pb2.PredictionResponse
    health: HealthExpectation
    model: _model_pb2.Model
    models: ListExpectation
    recommend: _recommender_pb2.RecommendationResponse
    reflection: ReflectionExpectation
    def __init__(self, code: _Optional[str] = ..., other_allowed_codes: _Optional[_Iterable[str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., message_pattern: _Optional[str] = ..., violations: _Optional[_Iterable[_Union[Violation, _Mapping]]] = ..., error_metadata: _Optional[_Mapping[str, str]] = ..., details_optional: _Optional[bool] = ..., forbidden: _Optional[_Iterable[str]] = ..., max_elapsed_ms: _Optional[int] = ..., max_received_wire_bytes: _Optional[int] = ..., fills: _Optional[_Iterable[_Union[Fill, _Mapping]]] = ..., absolute_tolerance: _Optional[float] = ..., relative_tolerance: _Optional[float] = ..., any_nan: _Optional[bool] = ..., trailers: _Optional[_Iterable[_Union[Trailer, _Mapping]]] = ..., predict: _Optional[_Union[_inference_service_pb2.PredictResponse, _Mapping]] = ..., batch: _Optional[_Union[BatchExpectation, _Mapping]] = ..., stream: _Optional[_Union[StreamExpectation, _Mapping]] = ..., tensor_predict: _Optional[_Union[_model_inference_pb2.PredictionResponse, _Mapping]] = ..., health: _Optional[_Union[HealthExpectation, _Mapping]] = ..., model: _Optional[_Union[_model_pb2.Model, _Mapping]] = ..., models: _Optional[_Union[ListExpectation, _Mapping]] = ..., recommend: _Optional[_Union[_recommender_pb2.RecommendationResponse, _Mapping]] = ..., reflection: _Optional[_Union[ReflectionExpectation, _Mapping]] = ...) -> None: ...

class Trailer(_message.Message):
    __slots__ = ("key", "pattern")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    key: str
    pattern: str
    def __init__(self, key: _Optional[str] = ..., pattern: _Optional[str] = ...) -> None: ...

class Violation(_message.Message):
    __slots__ = ("field", "description")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    field: str
    description: str
    def __init__(self, field: _Optional[str] = ..., description: _Optional[str] = ...) -> None: ...

class BatchExpectation(_message.Message):
    __slots__ = ("results", "equals_singles")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    EQUALS_SINGLES_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Expectation]
    equals_singles: bool
    def __init__(self, results: _Optional[_Iterable[_Union[Expectation, _Mapping]]] = ..., equals_singles: _Optional[bool] = ...) -> None: ...

class StreamExpectation(_message.Message):
    __slots__ = ("messages", "text", "token_ids", "token_count", "finish_reason", "usage", "seed", "beginning", "equals_predict", "least_different", "most_different")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    BEGINNING_FIELD_NUMBER: _ClassVar[int]
    EQUALS_PREDICT_FIELD_NUMBER: _ClassVar[int]
    LEAST_DIFFERENT_FIELD_NUMBER: _ClassVar[int]
    MOST_DIFFERENT_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[_inference_service_pb2.PredictToken]
    text: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    token_count: int
    finish_reason: _inference_service_pb2.FinishReason
    usage: _inference_service_pb2.Usage
    seed: int
    beginning: bool
    equals_predict: bool
    least_different: int
    most_different: int
    def __init__(self, messages: _Optional[_Iterable[_Union[_inference_service_pb2.PredictToken, _Mapping]]] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., token_count: _Optional[int] = ..., finish_reason: _Optional[_Union[_inference_service_pb2.FinishReason, str]] = ..., usage: _Optional[_Union[_inference_service_pb2.Usage, _Mapping]] = ..., seed: _Optional[int] = ..., beginning: _Optional[bool] = ..., equals_predict: _Optional[bool] = ..., least_different: _Optional[int] = ..., most_different: _Optional[int] = ...) -> None: ...

class HealthExpectation(_message.Message):
    __slots__ = ("statuses", "stays_open")
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    STAYS_OPEN_FIELD_NUMBER: _ClassVar[int]
    statuses: _containers.RepeatedScalarFieldContainer[str]
    stays_open: bool
    def __init__(self, statuses: _Optional[_Iterable[str]] = ..., stays_open: _Optional[bool] = ...) -> None: ...

class ListExpectation(_message.Message):
    __slots__ = ("includes", "excludes", "all_pages", "first_page_count")
    INCLUDES_FIELD_NUMBER: _ClassVar[int]
    EXCLUDES_FIELD_NUMBER: _ClassVar[int]
    ALL_PAGES_FIELD_NUMBER: _ClassVar[int]
    FIRST_PAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    includes: _containers.RepeatedScalarFieldContainer[str]
    excludes: _containers.RepeatedScalarFieldContainer[str]
    all_pages: bool
    first_page_count: int
    def __init__(self, includes: _Optional[_Iterable[str]] = ..., excludes: _Optional[_Iterable[str]] = ..., all_pages: _Optional[bool] = ..., first_page_count: _Optional[int] = ...) -> None: ...

class ReflectionExpectation(_message.Message):
    __slots__ = ("services", "as_published")
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    AS_PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    services: _containers.RepeatedScalarFieldContainer[str]
    as_published: bool
    def __init__(self, services: _Optional[_Iterable[str]] = ..., as_published: _Optional[bool] = ...) -> None: ...
