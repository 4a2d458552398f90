"""What is read from gRPC's auth context, and when credentials are made anew."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from types import SimpleNamespace

import pytest

from federation.errors import Denied, InvalidInput
from federation.model.ids import SpiffeId
from federation.trust.authority import Authority
from federation.trust.grpc_credentials import _Configuration, peer_chain, peer_identity, server_credentials
from federation.trust.keys import chain_to_pem

EAST = "east.fed.test"


@pytest.fixture
def east(authority: Callable[[str], Authority]) -> Authority:
    return authority(EAST)


def test_the_chain_of_either_side_is_put_together(east: Authority) -> None:
    chain = east.issue_with_key(spiffe_id=SpiffeId.workload(EAST, "a", "b")).chain
    leaf = [chain_to_pem(chain[:1])]
    assert peer_chain({"x509_pem_cert": leaf, "x509_pem_cert_chain": [chain_to_pem(chain[1:])]}) == chain
    assert peer_chain({"x509_pem_cert": leaf, "x509_pem_cert_chain": [chain_to_pem(chain)]}) == chain
    assert peer_chain({"x509_pem_cert": leaf}) == chain[:1]
    assert peer_chain({}) == ()
    with pytest.raises(Denied) as caught:
        peer_chain({"x509_pem_cert": [b"garbage"]})
    assert caught.value.error_code == "svid_malformed"


def test_who_shows_nothing_is_refused(east: Authority, now: datetime) -> None:
    context = SimpleNamespace(auth_context=dict)
    with pytest.raises(Denied) as caught:
        peer_identity(context, {EAST: east.bundle}, now=now)
    assert caught.value.error_code == "svid_missing"


def test_a_configuration_is_made_only_after_a_change(east: Authority, authority: Callable[[str], Authority]) -> None:
    state = [east.issue_with_key(spiffe_id=SpiffeId.workload(EAST, "a", "b")), [east.bundle]]
    configuration = _Configuration(lambda: (state[0], state[1]), present_root=False)  # type: ignore[arg-type, return-value]
    assert configuration.make() is not None
    assert configuration.changed() is None
    state[1] = [east.bundle, authority("west.fed.test").bundle]  # a cluster joins
    assert configuration.changed() is not None
    assert configuration.changed() is None
    state[0] = east.issue_with_key(spiffe_id=SpiffeId.workload(EAST, "a", "b"))  # the leaf is renewed
    assert configuration.changed() is not None
    assert configuration.changed() is None


def test_a_failure_does_not_count_as_a_change(east: Authority) -> None:
    svid = east.issue_with_key(spiffe_id=SpiffeId.workload(EAST, "a", "b"))
    bundles = [east.bundle]
    configuration = _Configuration(lambda: (svid, bundles), present_root=True)
    configuration.make()
    bundles.clear()
    for _ in range(2):
        with pytest.raises(InvalidInput):
            configuration.changed()
    bundles.append(east.bundle)
    configuration.changed()
    assert configuration.changed() is None


def test_to_present_its_root_a_server_needs_its_bundle(east: Authority) -> None:
    svid = east.issue_with_key(spiffe_id=SpiffeId.workload(EAST, "a", "b"))
    with pytest.raises(InvalidInput):
        server_credentials(lambda: (svid, []), require_client=False)
