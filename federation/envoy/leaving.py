"""Whether an Envoy that ends serves nobody any more, by what it counts. No I/O.

Who is told that it goes hears it at different times: peers by their control plane, others when what stands before it
has heard (kube-proxy writes its rules once a second at most, a load balancer looks now and then). So it is over when
nothing is under way *and* nothing has come for a while. What nobody needs holds nobody up: an idle connection that its
client keeps in case it is needed, which is told to go with its next response, and peers that ask whether it is there.

`server.total_connections` is no help: an answer of the admin interface has what it was at the look before.
"""

from __future__ import annotations

from collections.abc import Mapping

_LISTENERS, _REQUESTS, _CHECKS = ("inbound", "egress"), ("in", "out"), ("health",)
"""Prefixes of statistics (federation.envoy.listener): of what clients connect to, of HTTP requests, of what peers ask
again and again only to see whether it is there."""
_CONNECTIONS_NOW = frozenset(f"listener.{name}.downstream_cx_active" for name in _LISTENERS)
_HTTP_NOW = frozenset(f"http.{name}.downstream_cx_active" for name in (*_REQUESTS, *_CHECKS))
_REQUESTS_NOW = frozenset(f"http.{name}.downstream_rq_active" for name in _REQUESTS)
_COME = frozenset(
    (
        *(f"listener.{name}.downstream_cx_total" for name in _LISTENERS),
        *(f"http.{name}.downstream_rq_total" for name in _REQUESTS),
    )
)
_CHECKS_COME = frozenset(f"http.{name}.downstream_cx_total" for name in _CHECKS)
STATS = tuple(sorted(_CONNECTIONS_NOW | _HTTP_NOW | _REQUESTS_NOW | _COME | _CHECKS_COME))
"""What `Leaving` reads. Listeners of one prefix share them: there are no more of these with thousands of listeners."""
PATTERN = f"^({'|'.join(STATS)})$".replace(".", r"\.")
"""The same, for AdminClient.stats."""


class Leaving:
    """It is over when nothing is left and nothing has come for `quiet` s; `now` and later times are monotonic."""

    def __init__(self, *, quiet: float, now: float) -> None:
        self._quiet, self._since = quiet, now
        self._come: int | None = None
        self.left = 0
        """Requests and TCP connections under way when it was looked last."""

    def over(self, stats: Mapping[str, int], now: float) -> bool:
        """Whether it may end, now that it counts this."""
        come = _sum(stats, _COME) - _sum(stats, _CHECKS_COME)
        if self._come is not None and come != self._come:
            self._since = now
        self._come = come
        tcp = max(0, _sum(stats, _CONNECTIONS_NOW) - _sum(stats, _HTTP_NOW))  # they are not read at the same moment
        self.left = tcp + _sum(stats, _REQUESTS_NOW)
        return not self.left and now - self._since >= self._quiet


def _sum(stats: Mapping[str, int], names: frozenset[str]) -> int:
    return sum(value for name, value in stats.items() if name in names)
