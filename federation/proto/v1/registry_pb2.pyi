from federation.proto.v1 import records_pb2 as _records_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LookRequest(_message.Message):
    __slots__ = ("token",)
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    token: str
    def __init__(self, token: _Optional[str] = ...) -> None: ...

class LookReply(_message.Message):
    __slots__ = ("expires_ns", "now_ns", "version")
    EXPIRES_NS_FIELD_NUMBER: _ClassVar[int]
    NOW_NS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    expires_ns: int
    now_ns: int
    version: str
    def __init__(self, expires_ns: _Optional[int] = ..., now_ns: _Optional[int] = ..., version: _Optional[str] = ...) -> None: ...

class JoinRequest(_message.Message):
    __slots__ = ("token", "cluster", "bundle", "possession", "locality")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    POSSESSION_FIELD_NUMBER: _ClassVar[int]
    LOCALITY_FIELD_NUMBER: _ClassVar[int]
    token: str
    cluster: str
    bundle: _records_pb2.Bundle
    possession: bytes
    locality: _records_pb2.Locality
    def __init__(self, token: _Optional[str] = ..., cluster: _Optional[str] = ..., bundle: _Optional[_Union[_records_pb2.Bundle, _Mapping]] = ..., possession: _Optional[bytes] = ..., locality: _Optional[_Union[_records_pb2.Locality, _Mapping]] = ...) -> None: ...

class JoinReply(_message.Message):
    __slots__ = ("federation", "trust_domain", "registry_bundle", "single_machine", "registry_address", "epoch_floor")
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_BUNDLE_FIELD_NUMBER: _ClassVar[int]
    SINGLE_MACHINE_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FLOOR_FIELD_NUMBER: _ClassVar[int]
    federation: str
    trust_domain: str
    registry_bundle: _records_pb2.Bundle
    single_machine: bool
    registry_address: str
    epoch_floor: int
    def __init__(self, federation: _Optional[str] = ..., trust_domain: _Optional[str] = ..., registry_bundle: _Optional[_Union[_records_pb2.Bundle, _Mapping]] = ..., single_machine: _Optional[bool] = ..., registry_address: _Optional[str] = ..., epoch_floor: _Optional[int] = ...) -> None: ...

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IssueTokenRequest(_message.Message):
    __slots__ = ("cluster", "ttl_seconds")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    ttl_seconds: int
    def __init__(self, cluster: _Optional[str] = ..., ttl_seconds: _Optional[int] = ...) -> None: ...

class IssueTokenReply(_message.Message):
    __slots__ = ("token", "expires_ns")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_NS_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires_ns: int
    def __init__(self, token: _Optional[str] = ..., expires_ns: _Optional[int] = ...) -> None: ...

class RevokeTokenRequest(_message.Message):
    __slots__ = ("cluster",)
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    def __init__(self, cluster: _Optional[str] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("cluster",)
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    def __init__(self, cluster: _Optional[str] = ...) -> None: ...

class CreateLinkRequest(_message.Message):
    __slots__ = ("a", "b", "fingerprint_a", "fingerprint_b", "grants")
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_A_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_B_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    a: str
    b: str
    fingerprint_a: str
    fingerprint_b: str
    grants: _containers.RepeatedCompositeFieldContainer[_records_pb2.LinkGrant]
    def __init__(self, a: _Optional[str] = ..., b: _Optional[str] = ..., fingerprint_a: _Optional[str] = ..., fingerprint_b: _Optional[str] = ..., grants: _Optional[_Iterable[_Union[_records_pb2.LinkGrant, _Mapping]]] = ...) -> None: ...

class DeleteLinkRequest(_message.Message):
    __slots__ = ("a", "b")
    A_FIELD_NUMBER: _ClassVar[int]
    B_FIELD_NUMBER: _ClassVar[int]
    a: str
    b: str
    def __init__(self, a: _Optional[str] = ..., b: _Optional[str] = ...) -> None: ...

class ClusterInfo(_message.Message):
    __slots__ = ("name", "trust_domain", "state", "locality", "bundle_fingerprint", "joined_ns", "last_seen_ns", "epoch", "sequence", "services", "gateways", "applied_revision", "problems", "agent_version", "outbound_only")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LOCALITY_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    JOINED_NS_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_NS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    APPLIED_REVISION_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    OUTBOUND_ONLY_FIELD_NUMBER: _ClassVar[int]
    name: str
    trust_domain: str
    state: str
    locality: _records_pb2.Locality
    bundle_fingerprint: str
    joined_ns: int
    last_seen_ns: int
    epoch: int
    sequence: int
    services: int
    gateways: int
    applied_revision: int
    problems: _containers.RepeatedCompositeFieldContainer[_records_pb2.Problem]
    agent_version: str
    outbound_only: bool
    def __init__(self, name: _Optional[str] = ..., trust_domain: _Optional[str] = ..., state: _Optional[str] = ..., locality: _Optional[_Union[_records_pb2.Locality, _Mapping]] = ..., bundle_fingerprint: _Optional[str] = ..., joined_ns: _Optional[int] = ..., last_seen_ns: _Optional[int] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., services: _Optional[int] = ..., gateways: _Optional[int] = ..., applied_revision: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[_records_pb2.Problem, _Mapping]]] = ..., agent_version: _Optional[str] = ..., outbound_only: _Optional[bool] = ...) -> None: ...

class ListClustersReply(_message.Message):
    __slots__ = ("clusters",)
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    clusters: _containers.RepeatedCompositeFieldContainer[ClusterInfo]
    def __init__(self, clusters: _Optional[_Iterable[_Union[ClusterInfo, _Mapping]]] = ...) -> None: ...

class LinkInfo(_message.Message):
    __slots__ = ("link", "state", "detail")
    LINK_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    link: _records_pb2.Link
    state: str
    detail: str
    def __init__(self, link: _Optional[_Union[_records_pb2.Link, _Mapping]] = ..., state: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class ListLinksReply(_message.Message):
    __slots__ = ("links",)
    LINKS_FIELD_NUMBER: _ClassVar[int]
    links: _containers.RepeatedCompositeFieldContainer[LinkInfo]
    def __init__(self, links: _Optional[_Iterable[_Union[LinkInfo, _Mapping]]] = ...) -> None: ...

class ServiceInfo(_message.Message):
    __slots__ = ("cluster", "service")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    service: _records_pb2.Service
    def __init__(self, cluster: _Optional[str] = ..., service: _Optional[_Union[_records_pb2.Service, _Mapping]] = ...) -> None: ...

class ListServicesReply(_message.Message):
    __slots__ = ("services",)
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    services: _containers.RepeatedCompositeFieldContainer[ServiceInfo]
    def __init__(self, services: _Optional[_Iterable[_Union[ServiceInfo, _Mapping]]] = ...) -> None: ...

class GatewayInfo(_message.Message):
    __slots__ = ("cluster", "gateway", "stale")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    STALE_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    gateway: _records_pb2.Gateway
    stale: bool
    def __init__(self, cluster: _Optional[str] = ..., gateway: _Optional[_Union[_records_pb2.Gateway, _Mapping]] = ..., stale: _Optional[bool] = ...) -> None: ...

class ListGatewaysReply(_message.Message):
    __slots__ = ("gateways",)
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    gateways: _containers.RepeatedCompositeFieldContainer[GatewayInfo]
    def __init__(self, gateways: _Optional[_Iterable[_Union[GatewayInfo, _Mapping]]] = ...) -> None: ...

class RegistryStatus(_message.Message):
    __slots__ = ("federation", "version", "history", "revision", "started_ns", "streams", "problems", "now_ns")
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    STARTED_NS_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    NOW_NS_FIELD_NUMBER: _ClassVar[int]
    federation: str
    version: str
    history: str
    revision: int
    started_ns: int
    streams: int
    problems: _containers.RepeatedCompositeFieldContainer[_records_pb2.Problem]
    now_ns: int
    def __init__(self, federation: _Optional[str] = ..., version: _Optional[str] = ..., history: _Optional[str] = ..., revision: _Optional[int] = ..., started_ns: _Optional[int] = ..., streams: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[_records_pb2.Problem, _Mapping]]] = ..., now_ns: _Optional[int] = ...) -> None: ...
