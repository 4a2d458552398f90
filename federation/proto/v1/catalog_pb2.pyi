from federation.proto.v1 import records_pb2 as _records_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    CLUSTER: _ClassVar[Kind]
    GATEWAY: _ClassVar[Kind]
    SERVICE: _ClassVar[Kind]
    LINK: _ClassVar[Kind]
    IMPORT: _ClassVar[Kind]
    EXPORT: _ClassVar[Kind]
    PEER: _ClassVar[Kind]
    ENDPOINTS: _ClassVar[Kind]
KIND_UNSPECIFIED: Kind
CLUSTER: Kind
GATEWAY: Kind
SERVICE: Kind
LINK: Kind
IMPORT: Kind
EXPORT: Kind
PEER: Kind
ENDPOINTS: Kind

class Record(_message.Message):
    __slots__ = ("origin", "kind", "name", "epoch", "sequence", "payload", "deleted")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    origin: str
    kind: Kind
    name: str
    epoch: int
    sequence: int
    payload: bytes
    deleted: bool
    def __init__(self, origin: _Optional[str] = ..., kind: _Optional[_Union[Kind, str]] = ..., name: _Optional[str] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., payload: _Optional[bytes] = ..., deleted: _Optional[bool] = ...) -> None: ...

class Origin(_message.Message):
    __slots__ = ("name", "epoch", "sequence", "state", "complete")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        UNKNOWN: _ClassVar[Origin.State]
        LIVE: _ClassVar[Origin.State]
        STALE: _ClassVar[Origin.State]
        GONE: _ClassVar[Origin.State]
    UNKNOWN: Origin.State
    LIVE: Origin.State
    STALE: Origin.State
    GONE: Origin.State
    NAME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    name: str
    epoch: int
    sequence: int
    state: Origin.State
    complete: bool
    def __init__(self, name: _Optional[str] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., state: _Optional[_Union[Origin.State, str]] = ..., complete: _Optional[bool] = ...) -> None: ...

class Update(_message.Message):
    __slots__ = ("hello", "batch", "progress", "goodbye")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    batch: Batch
    progress: Progress
    goodbye: Goodbye
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("history", "resumed", "heartbeat_ms")
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_MS_FIELD_NUMBER: _ClassVar[int]
    history: str
    resumed: bool
    heartbeat_ms: int
    def __init__(self, history: _Optional[str] = ..., resumed: _Optional[bool] = ..., heartbeat_ms: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("revision", "records", "more", "origins", "absent", "since", "part")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    ORIGINS_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    revision: int
    records: _containers.RepeatedCompositeFieldContainer[Record]
    more: bool
    origins: _containers.RepeatedCompositeFieldContainer[Origin]
    absent: _containers.RepeatedScalarFieldContainer[str]
    since: int
    part: int
    def __init__(self, revision: _Optional[int] = ..., records: _Optional[_Iterable[_Union[Record, _Mapping]]] = ..., more: _Optional[bool] = ..., origins: _Optional[_Iterable[_Union[Origin, _Mapping]]] = ..., absent: _Optional[_Iterable[str]] = ..., since: _Optional[int] = ..., part: _Optional[int] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("revision", "digest", "count", "since", "demand")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    revision: int
    digest: bytes
    count: int
    since: int
    demand: int
    def __init__(self, revision: _Optional[int] = ..., digest: _Optional[bytes] = ..., count: _Optional[int] = ..., since: _Optional[int] = ..., demand: _Optional[int] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("code", "detail", "retry_after_ms")
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_MS_FIELD_NUMBER: _ClassVar[int]
    code: str
    detail: str
    retry_after_ms: int
    def __init__(self, code: _Optional[str] = ..., detail: _Optional[str] = ..., retry_after_ms: _Optional[int] = ...) -> None: ...

class Demand(_message.Message):
    __slots__ = ("subscribe", "ack", "presence", "goodbye")
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    subscribe: Subscribe
    ack: Ack
    presence: Presence
    goodbye: Goodbye
    def __init__(self, subscribe: _Optional[_Union[Subscribe, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., presence: _Optional[_Union[Presence, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class Subscribe(_message.Message):
    __slots__ = ("history", "revision", "kinds", "wildcard", "names", "known", "dropped", "origins", "demand")
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    WILDCARD_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    ORIGINS_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    history: str
    revision: int
    kinds: _containers.RepeatedScalarFieldContainer[Kind]
    wildcard: bool
    names: _containers.RepeatedScalarFieldContainer[str]
    known: _containers.RepeatedScalarFieldContainer[str]
    dropped: _containers.RepeatedScalarFieldContainer[str]
    origins: _containers.RepeatedScalarFieldContainer[str]
    demand: int
    def __init__(self, history: _Optional[str] = ..., revision: _Optional[int] = ..., kinds: _Optional[_Iterable[_Union[Kind, str]]] = ..., wildcard: _Optional[bool] = ..., names: _Optional[_Iterable[str]] = ..., known: _Optional[_Iterable[str]] = ..., dropped: _Optional[_Iterable[str]] = ..., origins: _Optional[_Iterable[str]] = ..., demand: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("revision", "digest", "rejections")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    digest: bytes
    rejections: _containers.RepeatedCompositeFieldContainer[Rejection]
    def __init__(self, revision: _Optional[int] = ..., digest: _Optional[bytes] = ..., rejections: _Optional[_Iterable[_Union[Rejection, _Mapping]]] = ...) -> None: ...

class Rejection(_message.Message):
    __slots__ = ("kind", "name", "code", "detail")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    name: str
    code: str
    detail: str
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., name: _Optional[str] = ..., code: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class Presence(_message.Message):
    __slots__ = ("role", "name", "version", "gateway", "problems", "via_gateway", "workloads")
    class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        ROLE_UNSPECIFIED: _ClassVar[Presence.Role]
        AGENT: _ClassVar[Presence.Role]
        GATEWAY_PROCESS: _ClassVar[Presence.Role]
        SIDECAR: _ClassVar[Presence.Role]
    ROLE_UNSPECIFIED: Presence.Role
    AGENT: Presence.Role
    GATEWAY_PROCESS: Presence.Role
    SIDECAR: Presence.Role
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    VIA_GATEWAY_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    role: Presence.Role
    name: str
    version: str
    gateway: _records_pb2.Gateway
    problems: _containers.RepeatedCompositeFieldContainer[_records_pb2.Problem]
    via_gateway: _containers.RepeatedScalarFieldContainer[str]
    workloads: Workloads
    def __init__(self, role: _Optional[_Union[Presence.Role, str]] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., gateway: _Optional[_Union[_records_pb2.Gateway, _Mapping]] = ..., problems: _Optional[_Iterable[_Union[_records_pb2.Problem, _Mapping]]] = ..., via_gateway: _Optional[_Iterable[str]] = ..., workloads: _Optional[_Union[Workloads, _Mapping]] = ...) -> None: ...

class Workloads(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Workload]
    def __init__(self, items: _Optional[_Iterable[_Union[Workload, _Mapping]]] = ...) -> None: ...

class Workload(_message.Message):
    __slots__ = ("namespace", "name", "ports", "targets", "address", "locality", "ready", "draining", "exported", "grants", "labels", "secure")
    class TargetsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    LOCALITY_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    EXPORTED_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SECURE_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    ports: _containers.RepeatedCompositeFieldContainer[_records_pb2.Port]
    targets: _containers.ScalarMap[int, int]
    address: str
    locality: _records_pb2.Locality
    ready: bool
    draining: bool
    exported: bool
    grants: _containers.RepeatedCompositeFieldContainer[_records_pb2.Grant]
    labels: _containers.ScalarMap[str, str]
    secure: bool
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., ports: _Optional[_Iterable[_Union[_records_pb2.Port, _Mapping]]] = ..., targets: _Optional[_Mapping[int, int]] = ..., address: _Optional[str] = ..., locality: _Optional[_Union[_records_pb2.Locality, _Mapping]] = ..., ready: _Optional[bool] = ..., draining: _Optional[bool] = ..., exported: _Optional[bool] = ..., grants: _Optional[_Iterable[_Union[_records_pb2.Grant, _Mapping]]] = ..., labels: _Optional[_Mapping[str, str]] = ..., secure: _Optional[bool] = ...) -> None: ...
