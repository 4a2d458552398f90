"""What a TokenReview makes of a Pod, as tables."""

from __future__ import annotations

from typing import Any

import pytest

from discovery.pods.identity import Pod, ReviewStatus, User, dns_names, holder, identity
from federation.errors import Denied, InvalidName
from federation.model.ids import SYSTEM_NAMESPACE

POD_NAME, POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"
EXTRA = {POD_NAME: ["web-1"], POD_UID: ["0f7c"]}
GROUPS = ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]


def review(**changes: Any) -> ReviewStatus:
    user = {"username": "system:serviceaccount:shop:web", "groups": GROUPS, "extra": EXTRA}
    user |= {key: changes.pop(key) for key in list(changes) if key in user}
    return ReviewStatus(**{"authenticated": True, "audiences": ["isthmus"], "user": User(**user), **changes})


def test_a_token_bound_to_a_pod() -> None:
    assert holder(review()) == Pod("shop", "web", "web-1", "0f7c")
    assert holder(review(audiences=["other", "isthmus"])).account == "web"


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"authenticated": False}, "token_refused", "does not accept the token"),
        ({"authenticated": False, "error": "[expired\n by an hour]"}, "token_refused", ": [expired by an hour]"),
        ({"audiences": None}, "token_audience", "no audience"),  # a server that does not know audiences
        ({"audiences": ["https://kubernetes.default.svc"]}, "token_audience", "for https://kubernetes"),
        ({"username": "alice"}, "token_foreign", "'alice'"),
        ({"username": "system:serviceaccount:shop"}, "token_foreign", "no service account"),
        ({"username": "system:node:n1"}, "token_foreign", "no service account"),
        ({"groups": ["system:authenticated"]}, "token_foreign", "no service account"),
        ({"groups": None}, "token_foreign", "no service account"),
        ({"extra": None}, "token_unbound", "shop/web is not bound"),
        ({"extra": {POD_NAME: ["web-1"]}}, "token_unbound", "not bound"),
        ({"extra": {POD_UID: ["0f7c"]}}, "token_unbound", "not bound"),
        ({"extra": {**EXTRA, POD_NAME: ["web-1", "web-2"]}}, "token_unbound", "not bound"),
    ],
)
def test_who_is_refused(changes: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(Denied) as caught:
        holder(review(**changes))
    assert caught.value.error_code == code
    assert says in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("namespace", "account", "accounts", "admitted"),
    [
        ("shop", "web", (), True),
        ("shop", "agent", (), True),  # of another namespace, so nobody of ours
        ("shop", "gateway", ("gateway",), True),
        (SYSTEM_NAMESPACE, "gateway", ("gateway", "injector"), True),
        (SYSTEM_NAMESPACE, "injector", ("gateway", "injector"), True),
        (SYSTEM_NAMESPACE, "gateway", (), False),
        (SYSTEM_NAMESPACE, "agent", ("gateway",), False),
        (SYSTEM_NAMESPACE, "default", ("gateway",), False),
    ],
)
def test_what_it_is(namespace: str, account: str, accounts: tuple[str, ...], admitted: bool) -> None:
    pod = Pod(namespace, account, "p", "u")
    if admitted:
        assert str(identity(pod, "td", accounts=accounts)) == f"spiffe://td/ns/{namespace}/sa/{account}"
        return
    with pytest.raises(Denied) as caught:
        identity(pod, "td", accounts=accounts)
    assert caught.value.error_code == "identity_denied"


def test_an_account_that_can_be_no_part_of_an_identity() -> None:
    with pytest.raises(InvalidName):
        identity(Pod("shop", "web/../agent", "p", "u"), "td", accounts=())


@pytest.mark.parametrize(
    ("namespace", "account", "names"),
    [
        ("isthmus-system", "injector", ("isthmus-injector.isthmus-system.svc",)),
        ("isthmus-system", "gateway", ()),
        ("shop", "injector", ()),
    ],
)
def test_only_the_injector_has_the_name_of_a_service(namespace: str, account: str, names: tuple[str, ...]) -> None:
    assert dns_names(Pod(namespace, account, "pod-1", "uid-1")) == names
