from federation.proto.v1 import records_pb2 as _records_pb2
from federation.proto.v1 import registry_pb2 as _registry_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentIdentity(_message.Message):
    __slots__ = ("cluster", "trust_domain", "federation", "bundle", "fingerprint")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    trust_domain: str
    federation: str
    bundle: _records_pb2.Bundle
    fingerprint: str
    def __init__(self, cluster: _Optional[str] = ..., trust_domain: _Optional[str] = ..., federation: _Optional[str] = ..., bundle: _Optional[_Union[_records_pb2.Bundle, _Mapping]] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("cluster", "trust_domain", "fingerprint")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    trust_domain: str
    fingerprint: str
    def __init__(self, cluster: _Optional[str] = ..., trust_domain: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class UnpinRequest(_message.Message):
    __slots__ = ("cluster",)
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    def __init__(self, cluster: _Optional[str] = ...) -> None: ...

class ExportRequest(_message.Message):
    __slots__ = ("namespace", "name", "grants")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    grants: _containers.RepeatedCompositeFieldContainer[_records_pb2.Grant]
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., grants: _Optional[_Iterable[_Union[_records_pb2.Grant, _Mapping]]] = ...) -> None: ...

class ExportReply(_message.Message):
    __slots__ = ("path", "changed")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    path: str
    changed: bool
    def __init__(self, path: _Optional[str] = ..., changed: _Optional[bool] = ...) -> None: ...

class PreviewRequest(_message.Message):
    __slots__ = ("export", "withdraw")
    EXPORT_FIELD_NUMBER: _ClassVar[int]
    WITHDRAW_FIELD_NUMBER: _ClassVar[int]
    export: ExportRequest
    withdraw: bool
    def __init__(self, export: _Optional[_Union[ExportRequest, _Mapping]] = ..., withdraw: _Optional[bool] = ...) -> None: ...

class PreviewReply(_message.Message):
    __slots__ = ("path", "changed", "before", "after", "uncarried", "peers")
    class Uncarried(_message.Message):
        __slots__ = ("port", "protocol")
        PORT_FIELD_NUMBER: _ClassVar[int]
        PROTOCOL_FIELD_NUMBER: _ClassVar[int]
        port: int
        protocol: str
        def __init__(self, port: _Optional[int] = ..., protocol: _Optional[str] = ...) -> None: ...
    PATH_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    UNCARRIED_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    path: str
    changed: bool
    before: _records_pb2.Service
    after: _records_pb2.Service
    uncarried: _containers.RepeatedCompositeFieldContainer[PreviewReply.Uncarried]
    peers: _containers.RepeatedCompositeFieldContainer[PreviewPeer]
    def __init__(self, path: _Optional[str] = ..., changed: _Optional[bool] = ..., before: _Optional[_Union[_records_pb2.Service, _Mapping]] = ..., after: _Optional[_Union[_records_pb2.Service, _Mapping]] = ..., uncarried: _Optional[_Iterable[_Union[PreviewReply.Uncarried, _Mapping]]] = ..., peers: _Optional[_Iterable[_Union[PreviewPeer, _Mapping]]] = ...) -> None: ...

class PreviewPeer(_message.Message):
    __slots__ = ("status", "link", "service")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    status: PeerStatus
    link: _records_pb2.Link
    service: _records_pb2.Service
    def __init__(self, status: _Optional[_Union[PeerStatus, _Mapping]] = ..., link: _Optional[_Union[_records_pb2.Link, _Mapping]] = ..., service: _Optional[_Union[_records_pb2.Service, _Mapping]] = ...) -> None: ...

class NamespaceRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class NamespaceReply(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: str
    def __init__(self, state: _Optional[str] = ...) -> None: ...

class ListImportsReply(_message.Message):
    __slots__ = ("imports", "sources")
    IMPORTS_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    imports: _containers.RepeatedCompositeFieldContainer[_records_pb2.Import]
    sources: _containers.RepeatedCompositeFieldContainer[Sources]
    def __init__(self, imports: _Optional[_Iterable[_Union[_records_pb2.Import, _Mapping]]] = ..., sources: _Optional[_Iterable[_Union[Sources, _Mapping]]] = ...) -> None: ...

class Sources(_message.Message):
    __slots__ = ("namespace", "name", "endpoints")
    class Whence(_message.Message):
        __slots__ = ("address", "source")
        ADDRESS_FIELD_NUMBER: _ClassVar[int]
        SOURCE_FIELD_NUMBER: _ClassVar[int]
        address: str
        source: str
        def __init__(self, address: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    endpoints: _containers.RepeatedCompositeFieldContainer[Sources.Whence]
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., endpoints: _Optional[_Iterable[_Union[Sources.Whence, _Mapping]]] = ...) -> None: ...

class ResolveRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ResolveReply(_message.Message):
    __slots__ = ("backends",)
    IMPORT_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    backends: _containers.RepeatedCompositeFieldContainer[ResolvedBackend]
    def __init__(self, backends: _Optional[_Iterable[_Union[ResolvedBackend, _Mapping]]] = ..., **kwargs) -> None: ...

class ResolvedBackend(_message.Message):
    __slots__ = ("cluster", "priority", "ready", "address", "state", "weight", "source")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    priority: int
    ready: int
    address: str
    state: str
    weight: int
    source: str
    def __init__(self, cluster: _Optional[str] = ..., priority: _Optional[int] = ..., ready: _Optional[int] = ..., address: _Optional[str] = ..., state: _Optional[str] = ..., weight: _Optional[int] = ..., source: _Optional[str] = ...) -> None: ...

class ConsumerStatus(_message.Message):
    __slots__ = ("role", "name", "version", "connected", "applied_revision", "offered_revision", "problems", "address", "identity", "names")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    APPLIED_REVISION_FIELD_NUMBER: _ClassVar[int]
    OFFERED_REVISION_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    role: str
    name: str
    version: str
    connected: bool
    applied_revision: int
    offered_revision: int
    problems: _containers.RepeatedCompositeFieldContainer[_records_pb2.Problem]
    address: str
    identity: str
    names: int
    def __init__(self, role: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., connected: _Optional[bool] = ..., applied_revision: _Optional[int] = ..., offered_revision: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[_records_pb2.Problem, _Mapping]]] = ..., address: _Optional[str] = ..., identity: _Optional[str] = ..., names: _Optional[int] = ...) -> None: ...

class PeerStatus(_message.Message):
    __slots__ = ("cluster", "state", "services", "gateways", "detail")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    state: str
    services: int
    gateways: _containers.RepeatedCompositeFieldContainer[_records_pb2.Gateway]
    detail: str
    def __init__(self, cluster: _Optional[str] = ..., state: _Optional[str] = ..., services: _Optional[int] = ..., gateways: _Optional[_Iterable[_Union[_records_pb2.Gateway, _Mapping]]] = ..., detail: _Optional[str] = ...) -> None: ...

class AgentStatus(_message.Message):
    __slots__ = ("cluster", "version", "registry_connected", "registry_last_seen_ns", "registry_revision", "epoch", "sequence", "exports", "imports", "peers", "consumers", "problems", "registry_detail", "exports_down", "replica")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_CONNECTED_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_LAST_SEEN_NS_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_REVISION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXPORTS_FIELD_NUMBER: _ClassVar[int]
    IMPORTS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_DETAIL_FIELD_NUMBER: _ClassVar[int]
    EXPORTS_DOWN_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    version: str
    registry_connected: bool
    registry_last_seen_ns: int
    registry_revision: int
    epoch: int
    sequence: int
    exports: int
    imports: int
    peers: _containers.RepeatedCompositeFieldContainer[PeerStatus]
    consumers: _containers.RepeatedCompositeFieldContainer[ConsumerStatus]
    problems: _containers.RepeatedCompositeFieldContainer[_records_pb2.Problem]
    registry_detail: str
    exports_down: int
    replica: ReplicaStatus
    def __init__(self, cluster: _Optional[str] = ..., version: _Optional[str] = ..., registry_connected: _Optional[bool] = ..., registry_last_seen_ns: _Optional[int] = ..., registry_revision: _Optional[int] = ..., epoch: _Optional[int] = ..., sequence: _Optional[int] = ..., exports: _Optional[int] = ..., imports: _Optional[int] = ..., peers: _Optional[_Iterable[_Union[PeerStatus, _Mapping]]] = ..., consumers: _Optional[_Iterable[_Union[ConsumerStatus, _Mapping]]] = ..., problems: _Optional[_Iterable[_Union[_records_pb2.Problem, _Mapping]]] = ..., registry_detail: _Optional[str] = ..., exports_down: _Optional[int] = ..., replica: _Optional[_Union[ReplicaStatus, _Mapping]] = ...) -> None: ...

class ReplicaStatus(_message.Message):
    __slots__ = ("identity", "leader", "since_ns", "leading", "reporting", "expired")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    SINCE_NS_FIELD_NUMBER: _ClassVar[int]
    LEADING_FIELD_NUMBER: _ClassVar[int]
    REPORTING_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_FIELD_NUMBER: _ClassVar[int]
    identity: str
    leader: str
    since_ns: int
    leading: bool
    reporting: bool
    expired: bool
    def __init__(self, identity: _Optional[str] = ..., leader: _Optional[str] = ..., since_ns: _Optional[int] = ..., leading: _Optional[bool] = ..., reporting: _Optional[bool] = ..., expired: _Optional[bool] = ...) -> None: ...

class InviteVmRequest(_message.Message):
    __slots__ = ("name", "namespace", "account", "services", "ttl_seconds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    TTL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    namespace: str
    account: str
    services: _containers.RepeatedScalarFieldContainer[str]
    ttl_seconds: int
    def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ..., account: _Optional[str] = ..., services: _Optional[_Iterable[str]] = ..., ttl_seconds: _Optional[int] = ...) -> None: ...

class InviteVmReply(_message.Message):
    __slots__ = ("token", "expires_ns", "bundle", "fingerprint", "enrolment_addresses", "agent_addresses", "suffix")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_NS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ENROLMENT_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    AGENT_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    SUFFIX_FIELD_NUMBER: _ClassVar[int]
    token: str
    expires_ns: int
    bundle: _records_pb2.Bundle
    fingerprint: str
    enrolment_addresses: _containers.RepeatedScalarFieldContainer[str]
    agent_addresses: _containers.RepeatedScalarFieldContainer[str]
    suffix: str
    def __init__(self, token: _Optional[str] = ..., expires_ns: _Optional[int] = ..., bundle: _Optional[_Union[_records_pb2.Bundle, _Mapping]] = ..., fingerprint: _Optional[str] = ..., enrolment_addresses: _Optional[_Iterable[str]] = ..., agent_addresses: _Optional[_Iterable[str]] = ..., suffix: _Optional[str] = ...) -> None: ...

class VmStatus(_message.Message):
    __slots__ = ("name", "namespace", "account", "services", "state", "address", "version", "seen_ns", "created_ns", "joined_ns", "token_expires_ns", "problems")
    NAME_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SEEN_NS_FIELD_NUMBER: _ClassVar[int]
    CREATED_NS_FIELD_NUMBER: _ClassVar[int]
    JOINED_NS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRES_NS_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    namespace: str
    account: str
    services: _containers.RepeatedScalarFieldContainer[str]
    state: str
    address: str
    version: str
    seen_ns: int
    created_ns: int
    joined_ns: int
    token_expires_ns: int
    problems: _containers.RepeatedCompositeFieldContainer[_records_pb2.Problem]
    def __init__(self, name: _Optional[str] = ..., namespace: _Optional[str] = ..., account: _Optional[str] = ..., services: _Optional[_Iterable[str]] = ..., state: _Optional[str] = ..., address: _Optional[str] = ..., version: _Optional[str] = ..., seen_ns: _Optional[int] = ..., created_ns: _Optional[int] = ..., joined_ns: _Optional[int] = ..., token_expires_ns: _Optional[int] = ..., problems: _Optional[_Iterable[_Union[_records_pb2.Problem, _Mapping]]] = ...) -> None: ...

class ListVmsReply(_message.Message):
    __slots__ = ("vms",)
    VMS_FIELD_NUMBER: _ClassVar[int]
    vms: _containers.RepeatedCompositeFieldContainer[VmStatus]
    def __init__(self, vms: _Optional[_Iterable[_Union[VmStatus, _Mapping]]] = ...) -> None: ...

class RemoveVmRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ExamineRequest(_message.Message):
    __slots__ = ("timeout_ms",)
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    timeout_ms: int
    def __init__(self, timeout_ms: _Optional[int] = ...) -> None: ...

class ExamineReply(_message.Message):
    __slots__ = ("cluster", "now_ns", "network", "pod_ranges", "certificates", "pins", "gateways", "dns", "exports_down", "imports_homeless", "imports_unaddressed", "version", "cluster_dns", "clusterset")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NOW_NS_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    POD_RANGES_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    PINS_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    DNS_FIELD_NUMBER: _ClassVar[int]
    EXPORTS_DOWN_FIELD_NUMBER: _ClassVar[int]
    IMPORTS_HOMELESS_FIELD_NUMBER: _ClassVar[int]
    IMPORTS_UNADDRESSED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_DNS_FIELD_NUMBER: _ClassVar[int]
    CLUSTERSET_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    now_ns: int
    network: str
    pod_ranges: _containers.RepeatedScalarFieldContainer[str]
    certificates: _containers.RepeatedCompositeFieldContainer[Certificate]
    pins: _containers.RepeatedCompositeFieldContainer[PinStatus]
    gateways: _containers.RepeatedCompositeFieldContainer[GatewayReach]
    dns: DnsReach
    exports_down: _containers.RepeatedScalarFieldContainer[str]
    imports_homeless: _containers.RepeatedScalarFieldContainer[str]
    imports_unaddressed: _containers.RepeatedScalarFieldContainer[str]
    version: str
    cluster_dns: DnsReach
    clusterset: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cluster: _Optional[str] = ..., now_ns: _Optional[int] = ..., network: _Optional[str] = ..., pod_ranges: _Optional[_Iterable[str]] = ..., certificates: _Optional[_Iterable[_Union[Certificate, _Mapping]]] = ..., pins: _Optional[_Iterable[_Union[PinStatus, _Mapping]]] = ..., gateways: _Optional[_Iterable[_Union[GatewayReach, _Mapping]]] = ..., dns: _Optional[_Union[DnsReach, _Mapping]] = ..., exports_down: _Optional[_Iterable[str]] = ..., imports_homeless: _Optional[_Iterable[str]] = ..., imports_unaddressed: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., cluster_dns: _Optional[_Union[DnsReach, _Mapping]] = ..., clusterset: _Optional[_Iterable[str]] = ...) -> None: ...

class Certificate(_message.Message):
    __slots__ = ("what", "not_before_ns", "not_after_ns", "renews_ns")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_NS_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_NS_FIELD_NUMBER: _ClassVar[int]
    RENEWS_NS_FIELD_NUMBER: _ClassVar[int]
    what: str
    not_before_ns: int
    not_after_ns: int
    renews_ns: int
    def __init__(self, what: _Optional[str] = ..., not_before_ns: _Optional[int] = ..., not_after_ns: _Optional[int] = ..., renews_ns: _Optional[int] = ...) -> None: ...

class PinStatus(_message.Message):
    __slots__ = ("cluster", "fingerprint", "shown", "linked")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    LINKED_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    fingerprint: str
    shown: str
    linked: bool
    def __init__(self, cluster: _Optional[str] = ..., fingerprint: _Optional[str] = ..., shown: _Optional[str] = ..., linked: _Optional[bool] = ...) -> None: ...

class GatewayReach(_message.Message):
    __slots__ = ("cluster", "name", "address", "own", "code", "detail", "took_ns", "not_after_ns")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    TOOK_NS_FIELD_NUMBER: _ClassVar[int]
    NOT_AFTER_NS_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    name: str
    address: str
    own: bool
    code: str
    detail: str
    took_ns: int
    not_after_ns: int
    def __init__(self, cluster: _Optional[str] = ..., name: _Optional[str] = ..., address: _Optional[str] = ..., own: _Optional[bool] = ..., code: _Optional[str] = ..., detail: _Optional[str] = ..., took_ns: _Optional[int] = ..., not_after_ns: _Optional[int] = ...) -> None: ...

class DnsReach(_message.Message):
    __slots__ = ("server", "name", "addresses", "code", "detail")
    SERVER_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    server: str
    name: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    code: str
    detail: str
    def __init__(self, server: _Optional[str] = ..., name: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., code: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("namespace", "name", "cluster", "timeout_ms", "ports")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    PORTS_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    name: str
    cluster: str
    timeout_ms: int
    ports: _containers.RepeatedCompositeFieldContainer[_records_pb2.Port]
    def __init__(self, namespace: _Optional[str] = ..., name: _Optional[str] = ..., cluster: _Optional[str] = ..., timeout_ms: _Optional[int] = ..., ports: _Optional[_Iterable[_Union[_records_pb2.Port, _Mapping]]] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("attempts",)
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    def __init__(self, attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("port", "app", "way", "gateway", "address", "code", "detail", "status", "took_ns", "clusters")
    PORT_FIELD_NUMBER: _ClassVar[int]
    APP_FIELD_NUMBER: _ClassVar[int]
    WAY_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TOOK_NS_FIELD_NUMBER: _ClassVar[int]
    CLUSTERS_FIELD_NUMBER: _ClassVar[int]
    port: int
    app: str
    way: str
    gateway: str
    address: str
    code: str
    detail: str
    status: int
    took_ns: int
    clusters: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, port: _Optional[int] = ..., app: _Optional[str] = ..., way: _Optional[str] = ..., gateway: _Optional[str] = ..., address: _Optional[str] = ..., code: _Optional[str] = ..., detail: _Optional[str] = ..., status: _Optional[int] = ..., took_ns: _Optional[int] = ..., clusters: _Optional[_Iterable[str]] = ...) -> None: ...
