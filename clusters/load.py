"""A constant load of HTTP requests, and an account of each: when, whether it failed, and which cluster answered.

The clients are threads with the standard library's HTTP client, so that what is measured is what an ordinary program
would see. The account is kept per phase by the caller, who cuts the list of outcomes at moments of its choice.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from clusters.waiting import ANSWER


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request: monotonic begin and end in seconds; `cluster` that answered, or the `error`."""

    begin: float
    end: float
    cluster: str
    error: str = ""


class HttpLoad:
    """`clients` threads, each sending `rate` GET requests per second to `host`:`port` with the name `authority`.

    A client keeps its connection, as browsers and SDKs do, and opens a new one every `fresh_every` requests.
    """

    def __init__(
        self,
        host: str,
        port: int,
        authority: str,
        *,
        clients: int = 4,
        rate: float = 40.0,
        fresh_every: int = 25,
        timeout: float = ANSWER,
    ) -> None:
        self._host, self._port, self._authority = host, port, authority
        self._rate, self._fresh_every, self._timeout = rate, fresh_every, timeout
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._outcomes: list[Outcome] = []
        self._threads = [
            threading.Thread(target=self._client, args=(i / clients / rate,), name=f"load-{i}", daemon=True)
            for i in range(clients)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop sending; returns when every request under way has ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=self._timeout + 5)

    def outcomes(self, since: int = 0) -> list[Outcome]:
        """The outcomes from index `since` on, in the order in which they ended."""
        with self._lock:
            return self._outcomes[since:]

    def __len__(self) -> int:
        with self._lock:
            return len(self._outcomes)

    def _client(self, offset: float) -> None:
        connection = self._connection()
        next_at = time.monotonic() + offset
        sent = 0
        while not self._stop.wait(max(0.0, next_at - time.monotonic())):
            next_at = max(next_at + 1 / self._rate, time.monotonic() - 1)
            if sent % self._fresh_every == 0:
                connection.close()  # it connects anew by itself
            sent += 1
            begin = time.monotonic()
            try:
                connection.request("GET", "/", headers={"Host": f"{self._authority}:{self._port}"})
                response = connection.getresponse()
                body = response.read()
                if response.status != 200:
                    raise http.client.HTTPException(f"status {response.status}: {body[:200].decode(errors='replace')}")
                outcome = Outcome(begin, time.monotonic(), str(json.loads(body)["cluster"]))
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                outcome = Outcome(begin, time.monotonic(), "", f"{type(error).__name__}: {error}")
                connection.close()
            with self._lock:
                self._outcomes.append(outcome)
        connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of the requests of one phase. `switch_ms` is None where nothing had to switch."""

    name: str
    requests: int
    failed: int
    answered_by: dict[str, int]
    switch_ms: float | None
    errors: tuple[str, ...] = ()
    seconds: float = 0.0
    """That it lasted."""

    def as_dict(self) -> dict[str, object]:
        """The phase as `--json` prints it."""
        return {
            "name": self.name,
            "requests": self.requests,
            "failed": self.failed,
            "answered_by": self.answered_by,
            "switch_ms": self.switch_ms,
            "seconds": round(self.seconds, 1),
        }


def account(
    name: str, outcomes: Sequence[Outcome], *, began: float, expect: str | None, seconds: float = 0.0
) -> Account:
    """Sum up a phase. `switch_ms`: from `began` (monotonic s) to the first answer of cluster `expect`."""
    first = next((o.end for o in outcomes if o.cluster == expect and o.begin >= began), None) if expect else None
    return Account(
        name=name,
        requests=len(outcomes),
        failed=sum(1 for o in outcomes if o.error),
        answered_by=dict(sorted(Counter(o.cluster for o in outcomes if not o.error).items())),
        switch_ms=None if first is None else round((first - began) * 1000, 1),
        errors=tuple(dict.fromkeys(o.error for o in outcomes if o.error))[:3],
        seconds=seconds,
    )
