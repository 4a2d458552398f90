"""The stub domain in a Corefile: put in, renewed, taken out; everything else stays as it is, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.kube import corefile
from federation.errors import IsthmusError

ZONES = ("clusterset.local", "global")
KUBEADM = """.:53 {
    errors
    health {
       lameduck 5s
    }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }
    prometheus :9153
    forward . /etc/resolv.conf {
       max_concurrent 1000
    }
    cache 30
    loop
    reload
    loadbalance
}
"""
WANTED = corefile.block(ZONES, ["10.96.0.53:53"])


def put(text: str, wanted: str = WANTED) -> str:
    return corefile.put(text, wanted, zones=ZONES)


def test_the_block() -> None:
    made = put(KUBEADM)
    assert made.startswith(KUBEADM)
    assert made[len(KUBEADM) :].splitlines()[2:-1] == [
        "clusterset.local:53 global:53 {",
        "    errors",
        "    forward . 10.96.0.53:53",
        "}",
    ]
    assert corefile.reloads(made)
    assert not corefile.reloads(made.replace("    reload\n", "    # reload\n"))


def test_once_more_changes_nothing_and_other_servers_change_only_the_block() -> None:
    made = put(KUBEADM)
    assert put(made) == made
    moved = put(made, corefile.block(ZONES, ["10.96.0.53:53", "10.96.0.54:5353"]))
    assert "forward . 10.96.0.53:53 10.96.0.54:5353" in moved
    assert moved.count("BEGIN isthmus") == 1
    assert corefile.take_out(moved) == KUBEADM


def test_what_others_change_afterwards_stays() -> None:
    made = put(KUBEADM).replace("cache 30", "cache 60") + "\nexample.com:53 {\n    whoami\n}\n"
    again = put(made, corefile.block(ZONES, ["10.96.0.99:53"]))
    expected = KUBEADM.replace("cache 30", "cache 60") + "\nexample.com:53 {\n    whoami\n}\n"
    assert corefile.take_out(again) == expected
    assert corefile.take_out(expected) == expected


BLOCKS = st.sampled_from(
    [KUBEADM, "example.com {\n    whoami\n}", "# a comment { \n", "(snip) {\n  errors\n}\n", "\n", " "]
)


@given(st.lists(BLOCKS, max_size=4).map("\n".join), st.lists(BLOCKS, max_size=2).map("\n".join))
def test_undo_restores_exactly(before: str, after: str) -> None:
    made = put(before)
    assert corefile.take_out(made) == before
    assert put(made) == made
    both = corefile.take_out(made + after)
    assert both.split() == (before + "\n" + after).split()
    assert both.startswith(before)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (".:53 {\n  errors\n", "corefile_not_understood"),
        (".:53 {\n  errors\n}\n}\n", "corefile_not_understood"),
        (".:53{\n  errors\n}\n", "corefile_not_understood"),
        ("{\n  errors\n}\n", "corefile_not_understood"),
        (".:53\nerrors\nforward . /etc/resolv.conf\n", "corefile_not_understood"),
        ('.:53 {\n  rewrite name "a b\n}\n', "corefile_not_understood"),
        ("# BEGIN isthmus x\n", "corefile_not_understood"),
        ("# END isthmus\n.:53 {\n}\n# BEGIN isthmus x\n", "corefile_not_understood"),
        (WANTED + WANTED, "corefile_not_understood"),
        ("clusterset.local:53 {\n  forward . 10.0.0.1\n}\n", "zone_taken"),
        ("dns://Global. {\n  forward . 10.0.0.1\n}\n", "zone_taken"),
        ("a.example, shop.global:53 {\n  forward . 10.0.0.1\n}\n", "zone_taken"),
        (".:53 {\n  multicluster clusterset.local\n}\n", "zone_taken"),
        (WANTED.replace("    errors\n", "    errors\n    cache 30\n"), "corefile_edited"),
    ],
)
def test_what_is_not_ours_to_change_is_refused(text: str, code: str) -> None:
    with pytest.raises(IsthmusError) as caught:
        put(text)
    assert caught.value.error_code == code
    assert "\n" not in caught.value.message


def test_a_block_that_was_edited_can_be_taken_out() -> None:
    assert (
        corefile.take_out(put(KUBEADM).replace("    errors\n    forward . 10", "    log\n    forward . 10")) == KUBEADM
    )


@given(st.text('.:{}"#\n \\aglobl53', max_size=40))
def test_whatever_stands_there_it_is_put_in_and_taken_out_or_refused(text: str) -> None:
    try:
        made = put(text)
    except IsthmusError:
        return
    assert corefile.take_out(made) == text
