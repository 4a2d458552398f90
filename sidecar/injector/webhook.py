"""Where the API server calls: HTTPS with the injector's own certificate, which can be replaced while it is in use."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram

from federation.aio.files import write_atomic
from federation.errors import InvalidInput, Unavailable
from federation.log import Logger
from federation.model.address import join_address
from federation.trust.svid import Svid
from sidecar.injector.admission import Answer, Outcome
from sidecar.injector.options import Way

PATH = "/mutate"
"""For pods that get the way of the settings; `/mutate/loopback` and so on for those that get another one."""
_MOST = 8 << 20
"""Bytes of a review: a pod, and what is known of who creates it, have less than 3 MB."""
_IDLE = 75.0
_FINISH = 5.0
"""Seconds for what is being answered at the end."""
_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)

Decide = Callable[[bytes, Way | None], Answer]


class Certificate:
    """The certificate that new connections see; those that are open keep what they have."""

    def __init__(self, path: Path) -> None:
        """`path`: of a file (mode 0600) for chain and key, which OpenSSL takes from files alone."""
        self._path = path
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])

    def use(self, svid: Svid) -> None:
        """Raises StorageFailed."""
        write_atomic(self._path, svid.key_pem + svid.chain_pem)
        self.context.load_cert_chain(self._path)


class Webhook:
    """Serves from `start` to `close`; `answered` hears of each answer."""

    def __init__(
        self, decide: Decide, *, answered: Callable[[Answer], None], registry: CollectorRegistry, log: Logger
    ) -> None:
        self._decide, self._answered, self._log = decide, answered, log
        self._runner: web.AppRunner | None = None
        self._outcomes = Counter(
            "isthmus_injector_admissions", "Pods by what became of them", ["outcome"], registry=registry
        )
        for outcome in Outcome:
            self._outcomes.labels(outcome.value)
        self._seconds = Histogram(
            "isthmus_injector_seconds", "From a whole review to its answer", registry=registry, buckets=_BUCKETS
        )

    async def start(self, host: str, port: int, certificate: Certificate) -> int:
        """The port in use. Raises Unavailable (port_taken)."""
        app = web.Application(client_max_size=_MOST)
        app.router.add_post(PATH, self._review)
        app.router.add_post(f"{PATH}/{{way}}", self._review)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=_IDLE, shutdown_timeout=_FINISH)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, ssl_context=certificate.context).start()
        except OSError as error:
            await runner.cleanup()
            raise Unavailable(
                f"cannot listen on {join_address(host, port)}: {error.strerror}",
                hint="set listen to an address and a port that are free",
                code="port_taken",
            ) from error
        self._runner = runner
        chosen: int = runner.addresses[0][1]
        return chosen

    async def close(self) -> None:
        """No more connections; what is being answered gets its answer."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _review(self, request: web.Request) -> web.Response:
        way = request.match_info.get("way")
        if way is not None and way not in list(Way):
            raise web.HTTPNotFound(text=f"try {PATH}, or {PATH}/ with one of {', '.join(Way)}\n")
        body = await request.read()
        began = time.perf_counter()
        try:
            answer = self._decide(body, Way(way) if way is not None else None)
        except InvalidInput as error:
            self._log.warning("no review", error=error.message, address=request.remote)
            raise web.HTTPBadRequest(text=f"{error.message}\n") from error
        self._outcomes.labels(answer.outcome.value).inc()
        self._answered(answer)
        text = json.dumps(answer.review())
        self._seconds.observe(time.perf_counter() - began)
        return web.Response(text=text, content_type="application/json")
