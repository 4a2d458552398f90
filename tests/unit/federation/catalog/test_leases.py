from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from federation.catalog.leases import Leases


def test_a_lease_runs_out_once_and_a_renewal_prolongs_it():
    leases = Leases()
    leases.renew("east", 10, now=0)
    leases.renew("west", 5, now=0)
    assert leases.next_deadline() == 5
    leases.renew("west", 10, now=4)
    assert leases.expired(9.9) == []
    assert leases.expired(14) == ["east", "west"]
    assert leases.expired(99) == []
    assert leases.next_deadline() is None


def test_a_dropped_lease_does_not_run_out():
    leases = Leases()
    leases.renew("east", 10, now=0)
    leases.drop("east")
    leases.drop("nobody")
    assert "east" not in leases
    assert leases.expired(100) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20), st.booleans()), max_size=300))
def test_like_a_plain_table(steps):
    leases, model = Leases(), {}
    for now, (name, number, renews) in enumerate(steps, 1):
        if renews:
            leases.renew(name, number, now)
            model[name] = max(model.get(name, 0), now + number)
        else:
            due = sorted((when, who) for who, when in model.items() if when <= now)
            assert sorted(leases.expired(now)) == sorted(who for _, who in due)
            model = {who: when for who, when in model.items() if when > now}
        assert leases.next_deadline() == min(model.values(), default=None)
        assert len(leases) == len(model)
