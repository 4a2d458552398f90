"""What is known of the virtual machines of one cluster, and every change of it as a pure function. No I/O, no clock.

A machine is invited (a token is outstanding), then joined (its key is enrolled), then removed. Of any number of keys
that come with one token one wins; who lost the reply comes again with the same key, by token or by key alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from discovery.vms.names import key_label, vm_names
from federation.errors import AlreadyExists, CorruptState, Denied, InvalidInput, NotFound, QuotaExceeded
from federation.model.ids import SYSTEM_NAMESPACE, ServiceName, SpiffeId, parse_label

MAX_VMS = 10_000
MAX_SERVICES = 100
"""Patterns of one machine."""
KEEP_REMOVED = 1_000
"""So many removed machines are remembered by name, those removed last: they are told why they are refused."""
GATEWAY_ACCOUNT = "gateway"
"""The only identity of our own namespace that a machine can have."""


class Invitation(msgspec.Struct, frozen=True):
    """A token that was not used yet, by its hash."""

    hash: bytes
    expires_ns: int


class Vm(msgspec.Struct, frozen=True, kw_only=True):
    """One machine. `services` are patterns NAMESPACE/NAME of what it may register; `key` is the fingerprint of the
    public key that it enrolled, empty before; `redeemed` the hash of the token that it came with."""

    name: str
    namespace: str
    account: str
    services: tuple[str, ...] = ()
    created_ns: int
    invitation: Invitation | None = None
    key: str = ""
    redeemed: bytes = b""
    joined_ns: int = 0

    @property
    def joined(self) -> bool:
        return bool(self.key)

    def identity(self, trust_domain: str) -> SpiffeId:
        return SpiffeId.workload(trust_domain, self.namespace, self.account)

    def may_register(self, service: ServiceName) -> bool:
        """Whether one of its patterns names `service`."""
        return any(_matches(pattern, service) for pattern in self.services)


class Removed(msgspec.Struct, frozen=True):
    """What is remembered of a machine that was removed."""

    name: str
    removed_ns: int


class Picture(msgspec.Struct, frozen=True):
    """Everything durable; a change makes a new one."""

    vms: Mapping[str, Vm] = {}
    removed: Mapping[str, Removed] = {}


@dataclass(frozen=True, slots=True)
class Invited:
    """What an operator asks for, checked."""

    name: str
    namespace: str
    account: str
    services: tuple[str, ...] = ()


def invited(name: str, namespace: str, account: str, services: Iterable[str], *, trust_domain: str) -> Invited:
    """Raises InvalidName, InvalidInput (vm_identity_denied, invalid_pattern, too_many_patterns)."""
    parse_label(name, what="VM")
    SpiffeId.workload(trust_domain, namespace, account)
    if namespace == SYSTEM_NAMESPACE and account != GATEWAY_ACCOUNT:
        raise InvalidInput(
            f"a VM cannot be {namespace}/{account}",
            hint=f"of {SYSTEM_NAMESPACE} there is {GATEWAY_ACCOUNT} alone; choose the namespace of its workload",
            code="vm_identity_denied",
        )
    patterns = tuple(dict.fromkeys(map(parse_pattern, services)))
    if len(patterns) > MAX_SERVICES:
        raise InvalidInput(f"a VM has at most {MAX_SERVICES} patterns of services", code="too_many_patterns")
    vm_names(name, key_label(""), trust_domain)
    return Invited(name, namespace, account, patterns)


def issue(picture: Picture, asked: Invited, invitation: Invitation, *, now_ns: int) -> tuple[Picture, Vm]:
    """Invite a machine. One that was invited and has not joined is invited anew, and its old token is worth nothing.

    Raises AlreadyExists (vm_exists), QuotaExceeded (too_many_vms).
    """
    present = picture.vms.get(asked.name)
    if present is not None and present.joined:
        raise AlreadyExists(
            f"a VM {asked.name} has joined already",
            hint=f"choose another name, or remove it first: fedctl vm remove {asked.name}",
            code="vm_exists",
        )
    if present is None and len(picture.vms) >= MAX_VMS:
        raise QuotaExceeded(f"there are {MAX_VMS} VMs, and no more are kept", code="too_many_vms")
    vm = Vm(
        name=asked.name,
        namespace=asked.namespace,
        account=asked.account,
        services=asked.services,
        created_ns=now_ns,
        invitation=invitation,
    )
    removed = {name: entry for name, entry in picture.removed.items() if name != asked.name}
    return Picture({**picture.vms, vm.name: vm}, removed), vm


def redeem(picture: Picture, name: str, token: bytes, key: str, *, now_ns: int) -> tuple[Picture, Vm]:
    """Enrol the key with this fingerprint by the token with this hash; the same key again changes nothing.

    Raises Denied (vm_removed, token_unknown, token_used, token_expired).
    """
    vm = picture.vms.get(name)
    if vm is None:
        raise _gone(picture, name) or Denied(
            "this token is not known here", hint="ask the operator for a new one", code="token_unknown"
        )
    if vm.redeemed and hmac.compare_digest(vm.redeemed, token):
        if vm.key == key:
            return picture, vm  # the reply was lost; nothing is left to do
        raise Denied(
            f"the token of VM {name} has been used",
            hint=f"if that was not you, tell the operator: fedctl vm remove {name}, then bootstrap it anew",
            code="token_used",
        )
    if vm.invitation is None or not hmac.compare_digest(vm.invitation.hash, token):
        raise Denied(
            "this token is not known here any more", hint="ask the operator for a new one", code="token_unknown"
        )
    if vm.invitation.expires_ns <= now_ns:
        raise Denied(
            f"the token of VM {name} has expired",
            hint="ask the operator for a new one, and compare the clocks",
            code="token_expired",
        )
    vm = msgspec.structs.replace(vm, invitation=None, key=key, redeemed=token, joined_ns=now_ns)
    return msgspec.structs.replace(picture, vms={**picture.vms, name: vm}), vm


def renew(picture: Picture, name: str, key: str) -> Vm:
    """The machine that proved to hold the key with this fingerprint.

    Raises Denied (vm_removed, vm_unknown, vm_not_joined, vm_key_foreign).
    """
    vm = _known(picture, name)
    if not vm.joined:
        raise Denied(
            f"VM {name} has not joined yet", hint="it has to bring its token the first time", code="vm_not_joined"
        )
    if vm.key != key:
        raise _foreign(name)
    return vm


def admit(picture: Picture, name: str, label: str, identity: SpiffeId) -> Vm:
    """The machine to which a certificate was issued; `label` is discovery.vms.names.key_label of its key.

    Raises Denied (vm_removed, vm_unknown, vm_key_foreign, vm_identity_changed).
    """
    vm = _known(picture, name)
    if not vm.joined or key_label(vm.key) != label:
        raise _foreign(name)
    if identity != vm.identity(identity.trust_domain):
        raise Denied(
            f"VM {name} is {vm.namespace}/{vm.account} now; its certificate is of {identity}",
            hint="it gets a new certificate by itself",
            code="vm_identity_changed",
        )
    return vm


def remove(picture: Picture, name: str, *, now_ns: int) -> tuple[Picture, Vm]:
    """Forget a machine, joined or not. Raises NotFound (vm_unknown)."""
    vm = picture.vms.get(name)
    if vm is None:
        raise NotFound(f"there is no VM {name[:80]!r} here", hint="`fedctl vm list` lists them", code="vm_unknown")
    by_age = sorted(picture.removed.values(), key=lambda r: (r.removed_ns, r.name))
    kept = by_age[max(0, len(by_age) + 1 - KEEP_REMOVED) :]
    removed = {entry.name: entry for entry in (*kept, Removed(name, now_ns))}
    return Picture({n: v for n, v in picture.vms.items() if n != name}, removed), vm


def dump(picture: Picture) -> bytes:
    return msgspec.json.encode(picture)


def load(data: bytes) -> Picture:
    """Raises CorruptState."""
    try:
        return msgspec.json.decode(data, type=Picture)
    except msgspec.MsgspecError as error:
        raise CorruptState(f"not a table of VMs: {error}") from error


def parse_pattern(text: str) -> str:
    """`text` if it is NAMESPACE/NAME, either of which may be *; raises InvalidInput (invalid_pattern)."""
    namespace, slash, name = text.partition("/")
    try:
        if not slash:
            raise InvalidInput("it has no /")
        for part, what in ((namespace, "namespace"), (name, "service")):
            if part != "*":
                parse_label(part, what=what)
    except InvalidInput as error:
        raise InvalidInput(
            f"{text[:80]!r} is no pattern of services: {error.message}",
            hint="write NAMESPACE/NAME; either may be *",
            code="invalid_pattern",
        ) from error
    return text


def _matches(pattern: str, service: ServiceName) -> bool:
    namespace, _, name = pattern.partition("/")
    return namespace in ("*", service.namespace) and name in ("*", service.name)


def _known(picture: Picture, name: str) -> Vm:
    vm = picture.vms.get(name)
    if vm is None:
        raise _gone(picture, name) or Denied(
            f"no VM {name[:80]!r} has joined here",
            hint="ask the operator to bootstrap it: fedctl vm bootstrap",
            code="vm_unknown",
        )
    return vm


def _gone(picture: Picture, name: str) -> Denied | None:
    if name not in picture.removed:
        return None
    return Denied(
        f"VM {name} was removed from this cluster",
        hint=f"if that was a mistake, ask the operator: fedctl vm bootstrap {name}",
        code="vm_removed",
    )


def _foreign(name: str) -> Denied:
    return Denied(
        f"another key is enrolled for VM {name}",
        hint=f"was it bootstrapped anew elsewhere? fedctl vm remove {name}, then bootstrap it again",
        code="vm_key_foreign",
    )
