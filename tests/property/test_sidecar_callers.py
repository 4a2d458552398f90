"""Who may call a workload: what Envoy compares is what the patterns say, whatever the names are."""

from __future__ import annotations

from envoy.type.matcher.v3.string_pb2 import StringMatcher
from hypothesis import example, given
from hypothesis import strategies as st

from federation.model.ids import SpiffeId
from sidecar.build.inbound import accepted
from sidecar.settings import InboundSettings

# Few letters, so that names are often equal or begin with each other.
label = st.from_regex(r"[ab](?:[ab-]{0,3}[ab])?", fullmatch=True)
account = st.lists(label, min_size=1, max_size=2).map(".".join)
domain = st.sampled_from(["east.test", "east.tes", "east.test.b", "a.east.test"])
pattern = st.tuples(
    label, st.one_of(account, account.map(lambda a: f"{a}*"), account.map(lambda a: f"{a}-*"), st.just("*"))
)


def compared(matcher: StringMatcher, uri: str) -> bool:
    """As Envoy does."""
    return uri == matcher.exact if matcher.HasField("exact") else uri.startswith(matcher.prefix)


def may(trust_domain: str, namespace: str, account: str, uri: SpiffeId) -> bool:
    """By the parts of the identity."""
    _, ns, its_namespace, sa, its_account = uri.path.split("/")
    assert (ns, sa) == ("ns", "sa")
    if uri.trust_domain != trust_domain or its_namespace != namespace:
        return False
    return its_account.startswith(account[:-1]) if account.endswith("*") else its_account == account


@given(pattern, domain, st.builds(SpiffeId.workload, domain, label, account))
@example(("a", "*"), "east.test", SpiffeId.workload("east.test", "ab", "a"))
@example(("a", "a*"), "east.test", SpiffeId.workload("east.test.b", "a", "a"))
def test_envoy_decides_as_the_patterns_say(pattern: tuple[str, str], trust_domain: str, uri: SpiffeId) -> None:
    namespace, account = pattern
    text = f"{namespace}/{account}"
    InboundSettings(port=1, callers=(text,)).check()
    assert compared(accepted(text, trust_domain), str(uri)) is may(trust_domain, namespace, account, uri)
