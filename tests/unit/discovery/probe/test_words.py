"""The words of gateways are understood: those that they are configured with, not copies of them."""

from __future__ import annotations

import pytest

from discovery.probe.http import Answer
from discovery.probe.words import judge, judge_check
from federation.envoy import outbound
from gateway import inbound


def said(text: str, status: int) -> Answer:
    return Answer(status, f"isthmus: {text}\n")


def texts_of_inbound() -> set[str]:
    """Every sentence that a gateway's listener can answer with, out of its configuration."""
    raw = inbound.inbound_listener("192.0.2.1", 1, cluster="west", zones=["global"]).SerializeToString()
    found, start = set(), 0
    while (at := raw.find(b"isthmus: ", start)) >= 0:
        end = raw.index(b"\n", at)
        found.add(raw[at:end].decode())
        start = end
    return found


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("isthmus: 403: your cluster has no grant for this service", "no_grant"),
        ("isthmus: 421: the authority, the server name and the service do not agree", "not_exported"),
        ("isthmus: 503: cluster west has no ready endpoint of this service", "no_ready_copy"),
        ("isthmus: 503: no endpoint of this service in cluster west could be connected to", "copy_unreachable"),
    ],
)
def test_what_a_gateway_of_another_cluster_says(text: str, code: str) -> None:
    assert text in texts_of_inbound()
    found = judge(Answer(503, text))
    assert (found.code, text.removeprefix("isthmus: ") in found.detail) == (code, True)


@pytest.mark.parametrize(
    ("flag", "code"), [("UH", "no_ready_copy"), ("NC", "not_imported"), ("UF", "copy_unreachable")]
)
def test_what_the_own_gateway_says(flag: str, code: str) -> None:
    (reply,) = [reply for reply in outbound.replies() if reply.flag == flag]
    assert judge(said(reply.text, 503)).code == code


def test_a_stranger_is_misdirected() -> None:
    assert judge(said(outbound.STRANGER, 421)).code == "not_exported"


@pytest.mark.parametrize("status", [200, 301, 403, 404, 500, 503])
def test_any_status_of_the_service_counts(status: int) -> None:
    found = judge(Answer(status, "Forbidden"))
    assert (found.code, found.status) == ("", status)


def test_health_checks() -> None:
    assert judge_check(said("ready", 200)).code == ""
    assert judge_check(said("403: your cluster has no grant for this service", 403)).code == "no_grant"
    assert judge_check(Answer(404, "who is it?")).code == "broken_answer"
    assert judge(said("418: something new", 418)).code == "broken_answer"
