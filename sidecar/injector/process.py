"""The injector: its identity, its webhook, what it keeps up to date in the API server; until a signal.

Arrive: reviews of the API server, certificates of the agent. Leave: answers, the caBundle of our webhook, Events.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from federation.aio.clock import Clock, SystemClock
from federation.aio.tasks import first_of, on_signals, unless
from federation.errors import Denied, IsthmusError, NotFound, Unavailable
from federation.log import Logger, get
from federation.model.address import join_address, split_address
from federation.registry.edge.givers import giver
from federation.registry.edge.health import NO_IDENTITY, Heartbeat, metrics_server, readiness
from federation.registry.edge.keys import Keys
from federation.registry.edge.measures import gauge
from federation.registry.edge.problems import Problems
from federation.registry.edge.state import StateDirectory
from federation.trust.pem import armour
from federation.trust.renewal import Renewer
from federation.trust.svid import utc
from federation.trust.workload import Grant
from sidecar.injector.admission import Answer, Outcome, answer
from sidecar.injector.api import Api
from sidecar.injector.events import Events
from sidecar.injector.missed import Missed
from sidecar.injector.options import ClusterDns, Options, Way
from sidecar.injector.registration import Registration
from sidecar.injector.settings import RESOLV_CONF, InjectorSettings, cluster_dns, options
from sidecar.injector.webhook import Certificate, Webhook

LOOK = 10.0
"""Seconds between two looks at our webhook's configuration and at where the agent is."""
SOON = 1.0
"""The same until the configuration was there once: an installer makes it when we are ready, and then pods come; and
while a certificate waits to be shown."""
SETTLE = 10.0
"""Seconds for API servers to hear of a caBundle, before a certificate is used that needs it. It costs nothing:
until then the former one is shown, which the caBundle still vouches for."""
_LOGGED = {Outcome.REFUSED: "pod refused", Outcome.FAILED: "pod admitted without a sidecar"}


class Injector:
    """Made with an identity; `start`, then `run` until it is cancelled, then `close`."""

    def __init__(
        self,
        settings: InjectorSettings,
        state: StateDirectory,
        renewer: Renewer[Grant],
        api: Api,
        dns: ClusterDns,
        *,
        problems: Problems,
        registry: CollectorRegistry,
        clock: Clock,
        log: Logger,
    ) -> None:
        self._settings, self._renewer, self._dns = settings, renewer, dns
        self._problems, self._clock, self._log = problems, clock, log
        self._certificate = Certificate(state.path / "tls.pem")
        self._shown = renewer.current
        """Whose certificate new connections see."""
        self._trusted: tuple[tuple[bytes, ...], float] = ((), 0.0)
        """Roots that the API server was seen to have, and since when (monotonic)."""
        self._addresses: tuple[str, ...] = ()
        self.events = Events(api, clock=clock, log=log)
        self._missed = Missed(api, self.events, settings.namespace, clock=clock, log=log)
        self._registration = Registration(api, settings.webhook, clock=clock, log=log) if settings.webhook else None
        self._webhook = Webhook(self._decide, answered=self._answered, registry=registry, log=log)
        self.draining = False
        for name, text, value in (
            ("isthmus_identity_expires_seconds", "Until the identity expires", renewer.expires_in),
            ("isthmus_identity_failures", "Failed renewals in a row", lambda: float(renewer.failures)),
            (
                "isthmus_injector_pods_missed",
                "Pods that want a sidecar and have none",
                lambda: float(self._missed.count),
            ),
            ("isthmus_injector_events_dropped", "Events not written: too many", lambda: float(self.events.dropped)),
            ("isthmus_problems", "Problems of this process", lambda: float(len(problems))),
        ):
            gauge(registry, name, text, value)

    @property
    def options(self) -> Options:
        """What pods get now."""
        grant = self._renewer.current
        return options(
            self._settings,
            trust_domain=grant.bundle.trust_domain,
            enrolment=self._addresses,
            roots=armour(grant.bundle.roots).decode(),
            dns=self._dns,
        )

    async def start(self) -> int:
        """Listen; the port in use. Raises Unavailable, StorageFailed."""
        await self._find_agent()
        await self._register()
        self._certificate.use(self._renewer.current.svid)
        host, port = split_address(self._settings.listen, what="listen")
        return await self._webhook.start(host, port, self._certificate)

    async def run(self) -> None:
        """Its tasks, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renewer.run(), name="renewer")
            group.create_task(self.follow(), name="follow")
            group.create_task(self.events.run(), name="events")
            group.create_task(self._missed.run(), name="missed")

    async def close(self) -> None:
        """Stop listening, once what is being answered has its answer."""
        await self._webhook.close()

    def ready(self) -> tuple[bool, str]:
        """For /readyz; called on another thread."""
        return readiness(
            [
                lambda: "draining" if self.draining else "",
                lambda: "" if self._renewer.expires_in() > 0 else "the certificate has expired",
                lambda: "" if self._addresses else "it is not known where the agent is",
            ]
        )

    # --- answers

    def _decide(self, body: bytes, way: Way | None) -> Answer:
        return answer(body, self._known, way=way)

    def _known(self) -> Options:
        """Raises Unavailable where a sidecar would not know whom to ask for its identity."""
        if not self._addresses:
            raise Unavailable("it is not known where the agent is", code="agent_unknown")
        return self.options

    def _answered(self, given: Answer) -> None:
        self.events.answered(given)
        metadata = given.pod.get("metadata") or {}
        name = metadata.get("name") or metadata.get("generateName")
        known = {"namespace": given.namespace, "pod": name, "dry_run": given.dry_run}
        if given.outcome in _LOGGED:
            self._log.warning(_LOGGED[given.outcome], why=given.text, **known)
        elif given.way is not None:
            self._log.info("pod injected", way=given.way.value, warnings=list(given.warnings), **known)

    # --- what is kept up to date

    async def follow(self) -> None:
        """Keep the webhook's configuration, the certificate that is shown and the agent's addresses; for ever."""
        version, registered = self._renewer.latest.version, False
        while True:
            quiet = registered and self._shown is self._renewer.current
            await first_of(self._renewer.latest.newer(version), self._clock.sleep(LOOK if quiet else SOON))
            version = self._renewer.latest.version
            await self._find_agent()
            self._show_what_is_trusted()
            registered = await self._register() or registered
            self._show_what_is_trusted()

    def _show_what_is_trusted(self) -> None:
        """A certificate of another root waits until API servers know that root."""
        new, (roots, since) = self._renewer.current, self._trusted
        if (
            new.bundle.roots == self._shown.bundle.roots
            or (new.bundle.roots == roots and self._clock.monotonic() - since >= SETTLE)
            or self._shown.not_after <= utc(self._clock)  # it is no use any more, so nothing is lost
        ):
            self._show(new)

    def _show(self, grant: Grant) -> None:
        if grant is self._shown:
            return
        try:
            self._certificate.use(grant.svid)
        except IsthmusError as error:
            self._problems.set("storage_failed", "tls.pem", str(error))
            return
        self._problems.clear("storage_failed", "tls.pem")
        self._shown = grant
        self._log.info("certificate replaced", expires=grant.not_after.isoformat())

    async def _register(self) -> bool:
        """Whether the API server has our roots; what keeps it from that is a problem, and not the end."""
        grant = self._renewer.current
        life = (grant.not_after - grant.issued_at).total_seconds()
        try:
            wrote = self._registration is not None and await self._registration.look(grant.bundle.roots, life=life)
        except (NotFound, Denied) as error:
            self._problems.set("webhook_not_registered", self._settings.webhook, str(error))
        except IsthmusError as error:
            self._log.warning("webhook configuration not looked at", error=str(error))
        else:
            self._problems.clear("webhook_not_registered", self._settings.webhook)
            if wrote or self._trusted[0] != grant.bundle.roots:
                self._trusted = grant.bundle.roots, self._clock.monotonic()
            return True
        return False

    async def _find_agent(self) -> None:
        """Pods ask their sidecar for names, and the sidecar the agent: so addresses it has to be."""
        assert self._settings.agent is not None  # noqa: S101 - checked
        told = [text for text in self._renewer.current.enrolment_addresses if _is_address(text)]
        found = await _resolved(self._settings.agent.enrolment)
        addresses = tuple(dict.fromkeys((*found, *told)))
        if addresses and addresses != self._addresses:
            self._addresses = addresses
            self._log.info("agent found", addresses=addresses)


async def _resolved(texts: Sequence[str]) -> list[str]:
    """HOST:PORT as ADDRESS:PORT; hosts that cannot be looked up are left out."""
    loop, found = asyncio.get_running_loop(), []
    for text in texts:
        host, port = split_address(text, what="agent.enrolment", zero=False)
        try:
            known = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            continue
        found += [join_address(str(address[0]), port) for *_, address in known]
    return found


def _is_address(text: str) -> bool:
    host, _ = split_address(text, what="an address of the agent", zero=False)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def serve(settings: InjectorSettings, *, clock: Clock | None = None, resolv_conf: Path = RESOLV_CONF) -> None:
    """Run an injector until SIGTERM or SIGINT. Raises an IsthmusError for what keeps it from starting."""
    clock, log = clock or SystemClock(), get("injector")
    dns = cluster_dns(settings.pods.dns, _text(resolv_conf), namespace=settings.namespace)
    stop = asyncio.Event()
    state = StateDirectory(settings.state)
    registry, heartbeat = CollectorRegistry(), Heartbeat(clock=clock)
    ready: list[Injector] = []
    metrics = metrics_server(
        settings.metrics,
        registry,
        alive=heartbeat.alive,
        ready=lambda: ready[0].ready() if ready else (False, NO_IDENTITY),
    )
    problems = Problems(clock=clock, log=log, on_change=lambda: None)
    keys = Keys(
        giver(settings, state, clock),
        path=state.identity,
        namespace=settings.namespace,
        account=settings.account,
        clock=clock,
        log=log,
        problems=problems,
    )
    try:
        with on_signals(stop.set):
            async with asyncio.TaskGroup() as group, Api(settings.api) as api:
                beating = group.create_task(heartbeat.run(), name="heartbeat")
                renewer = await unless(stop, keys.open())
                if renewer is not None:
                    injector = Injector(
                        settings, state, renewer, api, dns, problems=problems, registry=registry, clock=clock, log=log
                    )
                    port = await injector.start()
                    ready.append(injector)
                    state.write_ports({"metrics": metrics.port, "webhook": port})
                    log.info("serving", port=port)
                    running = group.create_task(injector.run(), name="injector")
                    await stop.wait()
                    injector.draining = True
                    await clock.sleep(settings.drain_seconds)
                    await injector.close()
                    running.cancel()
                beating.cancel()
    finally:
        metrics.close()
        state.close()
    log.info("stopped")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
