"""The registry's own certificates: its CA, its server leaf, and the credentials of the local operator.

Files below the registry's directory: ca/ (the federation's root), operator/ (what `OperatorClient.open` reads).
"""

from __future__ import annotations

import getpass
import re
from datetime import timedelta

import yaml

from federation.aio.clock import Clock
from federation.aio.files import write_atomic
from federation.errors import StorageFailed
from federation.model.ids import SYSTEM_NAMESPACE, SpiffeId
from federation.registry.settings import RegistrySettings
from federation.trust.authority import MAX_TTL, Authority
from federation.trust.grpc_credentials import registry_server_name
from federation.trust.keys import chain_to_pem
from federation.trust.svid import Svid

OPERATOR_DIRECTORY = "operator"
CA_DIRECTORY = "ca"


def open_authority(settings: RegistrySettings, clock: Clock) -> Authority:
    """The federation's CA, made when there is none; raises CorruptState, StorageFailed, Denied, Conflict."""
    return Authority.open(settings.path / CA_DIRECTORY, trust_domain=settings.federation, clock=clock)


def issue_server(settings: RegistrySettings, authority: Authority) -> Svid:
    """A new leaf for the registry's two ports."""
    return authority.issue_with_key(
        spiffe_id=SpiffeId.workload(settings.federation, SYSTEM_NAMESPACE, "registry"),
        ttl=min(timedelta(seconds=settings.svid_ttl), MAX_TTL),
        dns_names=[registry_server_name(settings.federation)],
    )


def issue_operator(settings: RegistrySettings, authority: Authority, name: str) -> Svid:
    """A new certificate for the operator `name`."""
    return authority.issue_with_key(
        spiffe_id=SpiffeId.parse(f"spiffe://{settings.federation}/operator/{name}"),
        ttl=min(timedelta(seconds=settings.operator_ttl), MAX_TTL),
    )


def write_operator(settings: RegistrySettings, authority: Authority, *, address: str = "") -> Svid:
    """Write fresh credentials to operator/ and return them; `address` is where the registry is dialled.

    Each file is replaced whole; a reader between two replacements fails once and finds a matching pair then.
    """
    directory = settings.path / OPERATOR_DIRECTORY
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageFailed(f"cannot make {directory}: {error.strerror}") from error
    svid = issue_operator(settings, authority, operator_name())
    for name, data in operator_files(settings, authority, svid, address=address).items():
        write_atomic(directory / name, data, mode=0o600)
    return svid


def operator_files(
    settings: RegistrySettings, authority: Authority, svid: Svid, *, address: str = ""
) -> dict[str, bytes]:
    """The credentials of an operator, by file, in the order in which they are to be written."""
    where = {"registry": address or settings.advertise or settings.listen, "federation": settings.federation}
    return {
        "operator.yaml": yaml.safe_dump(where).encode(),
        "ca.pem": chain_to_pem(authority.bundle.roots),
        # One file would be atomic, but people and tools expect a key beside a certificate.
        "operator.key": svid.key_pem,
        "operator.pem": svid.chain_pem,
    }


def operator_name() -> str:
    """The local user's name as part of a SPIFFE ID: audit lines tell who did it."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a uid without a name
        name = ""
    return part_of_id(name)


def part_of_id(name: str) -> str:
    """A person's name as part of a SPIFFE ID."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:64] or "local"
