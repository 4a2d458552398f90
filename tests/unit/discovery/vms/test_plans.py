"""The decisions on virtual machines, one table for each."""

from __future__ import annotations

import msgspec
import pytest

from discovery.vms import plans
from discovery.vms.names import key_label
from discovery.vms.plans import Invitation, Invited, Picture, Vm, invited, parse_pattern
from federation.errors import AlreadyExists, CorruptState, Denied, InvalidInput, InvalidName, NotFound, QuotaExceeded
from federation.model.ids import ServiceName, SpiffeId

TD = "dc1.fed.example"
ASKED = Invited("web-1", "shop", "web", ("shop/*",))
TOKEN, OTHER = b"t" * 32, b"o" * 32
KEY, FOREIGN = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def invite(picture: Picture | None = None, *, token: bytes = TOKEN, asked: Invited = ASKED, now: int = 0) -> Picture:
    return plans.issue(picture or Picture(), asked, Invitation(token, now + 100), now_ns=now)[0]


JOINED = plans.redeem(invite(), "web-1", TOKEN, KEY, now_ns=50)[0]
REMOVED = plans.remove(JOINED, "web-1", now_ns=60)[0]


@pytest.mark.parametrize(
    ("picture", "name", "token", "key", "now", "code"),
    [
        (invite(), "web-1", TOKEN, KEY, 99, ""),
        (invite(), "web-1", TOKEN, KEY, 100, "token_expired"),
        (invite(), "web-1", OTHER, KEY, 50, "token_unknown"),
        (invite(), "web-2", TOKEN, KEY, 50, "token_unknown"),
        (invite(invite(), token=OTHER), "web-1", TOKEN, KEY, 50, "token_unknown"),  # a newer token replaces it
        (JOINED, "web-1", TOKEN, KEY, 50, ""),  # the reply was lost
        (JOINED, "web-1", TOKEN, KEY, 10**18, ""),  # however late
        (JOINED, "web-1", TOKEN, FOREIGN, 50, "token_used"),
        (JOINED, "web-1", OTHER, KEY, 50, "token_unknown"),
        (REMOVED, "web-1", TOKEN, KEY, 70, "vm_removed"),
        (REMOVED, "web-1", OTHER, KEY, 70, "vm_removed"),
        (invite(REMOVED, token=OTHER, now=70), "web-1", OTHER, FOREIGN, 80, ""),
        (invite(REMOVED, token=OTHER, now=70), "web-1", TOKEN, KEY, 80, "token_unknown"),
    ],
)
def test_redeem(picture: Picture, name: str, token: bytes, key: str, now: int, code: str) -> None:
    if code:
        with pytest.raises(Denied) as caught:
            plans.redeem(picture, name, token, key, now_ns=now)
        assert caught.value.error_code == code
        return
    after, vm = plans.redeem(picture, name, token, key, now_ns=now)
    assert after.vms[name] == vm
    assert (vm.key, vm.redeemed, vm.invitation) == (key, token, None)


@pytest.mark.parametrize(
    ("picture", "key", "code"),
    [
        (JOINED, KEY, ""),
        (JOINED, FOREIGN, "vm_key_foreign"),
        (invite(), KEY, "vm_not_joined"),
        (Picture(), KEY, "vm_unknown"),
        (REMOVED, KEY, "vm_removed"),
        (invite(REMOVED), KEY, "vm_not_joined"),
    ],
)
def test_renew(picture: Picture, key: str, code: str) -> None:
    if not code:
        assert plans.renew(picture, "web-1", key) == picture.vms["web-1"]
        return
    with pytest.raises(Denied) as caught:
        plans.renew(picture, "web-1", key)
    assert caught.value.error_code == code


@pytest.mark.parametrize(
    ("picture", "key", "account", "code"),
    [
        (JOINED, KEY, "web", ""),
        (JOINED, FOREIGN, "web", "vm_key_foreign"),
        (JOINED, KEY, "admin", "vm_identity_changed"),
        (invite(), KEY, "web", "vm_key_foreign"),
        (invite(), "", "web", "vm_key_foreign"),
        (REMOVED, KEY, "web", "vm_removed"),
        (Picture(), KEY, "web", "vm_unknown"),
    ],
)
def test_admit(picture: Picture, key: str, account: str, code: str) -> None:
    identity = SpiffeId.workload(TD, "shop", account)
    if not code:
        assert plans.admit(picture, "web-1", key_label(key), identity) == picture.vms["web-1"]
        return
    with pytest.raises(Denied) as caught:
        plans.admit(picture, "web-1", key_label(key), identity)
    assert caught.value.error_code == code


def test_a_machine_that_has_joined_is_not_invited_again() -> None:
    with pytest.raises(AlreadyExists, match="fedctl vm remove web-1") as caught:
        invite(JOINED)
    assert caught.value.error_code == "vm_exists"
    again = invite(invite(), token=OTHER, asked=Invited("web-1", "shop", "api"))
    assert again.vms["web-1"].account == "api"
    assert again.vms["web-1"].services == ()


def test_the_number_of_machines_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "MAX_VMS", 1)
    picture = invite(invite())  # the same once more
    with pytest.raises(QuotaExceeded) as caught:
        invite(picture, asked=Invited("web-2", "shop", "web"))
    assert caught.value.error_code == "too_many_vms"


def test_who_is_removed_is_remembered_and_the_oldest_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "KEEP_REMOVED", 2)
    picture = Picture()
    for number in range(4):
        picture = invite(picture, asked=Invited(f"vm-{number}", "shop", "web"))
        picture, vm = plans.remove(picture, f"vm-{number}", now_ns=number)
        assert vm.name == f"vm-{number}"
    assert sorted(picture.removed) == ["vm-2", "vm-3"]
    with pytest.raises(NotFound) as caught:
        plans.remove(picture, "vm-3", now_ns=9)
    assert caught.value.error_code == "vm_unknown"


@pytest.mark.parametrize(
    ("name", "namespace", "account", "services", "error", "code"),
    [
        ("web-1", "shop", "web", ["shop/*", "shop/*"], None, ""),
        ("gw", "isthmus-system", "gateway", [], None, ""),
        ("Web", "shop", "web", [], InvalidName, "invalid_name"),
        ("a.b", "shop", "web", [], InvalidName, "invalid_name"),
        ("web-1", "shop!", "web", [], InvalidName, "invalid_name"),
        ("web-1", "isthmus-system", "agent", [], InvalidInput, "vm_identity_denied"),
        ("web-1", "shop", "web", ["shop"], InvalidInput, "invalid_pattern"),
        ("web-1", "shop", "web", ["shop/a*"], InvalidInput, "invalid_pattern"),
        ("web-1", "shop", "web", [f"shop/s{n}" for n in range(101)], InvalidInput, "too_many_patterns"),
    ],
)
def test_what_an_operator_asks_for(
    name: str, namespace: str, account: str, services: list[str], error: type[Exception] | None, code: str
) -> None:
    if error is None:
        asked = invited(name, namespace, account, services, trust_domain=TD)
        assert asked == Invited(name, namespace, account, tuple(dict.fromkeys(services)))
        return
    with pytest.raises(error) as caught:
        invited(name, namespace, account, services, trust_domain=TD)
    assert getattr(caught.value, "error_code", "") == code


@pytest.mark.parametrize(
    ("pattern", "service", "matches"),
    [
        ("shop/db", "shop/db", True),
        ("shop/*", "shop/db", True),
        ("*/db", "shop/db", True),
        ("*/*", "shop/db", True),
        ("shop/db", "shop/db2", False),
        ("shop/*", "pay/db", False),
        ("*/db", "shop/web", False),
    ],
)
def test_what_a_machine_may_register(pattern: str, service: str, matches: bool) -> None:
    vm = Vm(name="x", namespace="shop", account="web", services=(parse_pattern(pattern),), created_ns=0)
    assert vm.may_register(ServiceName.parse(service)) is matches
    assert not msgspec.structs.replace(vm, services=()).may_register(ServiceName.parse(service))


def test_the_table_as_bytes() -> None:
    assert plans.load(plans.dump(JOINED)) == JOINED
    assert plans.load(plans.dump(REMOVED)) == REMOVED
    with pytest.raises(CorruptState):
        plans.load(b'{"vms": 3}')
