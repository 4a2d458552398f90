"""An agent in a pod: its settings are a ConfigMap, its identity is the cluster's, in a Secret that replicas share.

    state directory ─ there already ───────────────────────────────┐
    Secret isthmus-identity ─ whole: take it ──────────────────────┤→ settings → discovery.agent
    join token ─ claim the Secret, join the registry, complete it ─┘

The Secret decides which root the cluster has, before the registry hears of it. So replicas that begin at once join with
one root, and the one that ended in the midst is completed by the next: the registry answers the same root again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from prometheus_client import CollectorRegistry

from discovery import settings as parse
from discovery.agent import serve
from discovery.join import KEYS, make_folder, own_processes, render, root_of, take
from discovery.kube import errors as kube
from discovery.kube import shared
from discovery.kube.client import KubeClient
from discovery.kube.settings import KubernetesSettings
from discovery.membership import LEFT
from discovery.settings import SETTINGS_FILE, AgentSettings
from discovery.state import read_or_none
from federation import settings as files
from federation.aio.backoff import Backoff
from federation.aio.clock import Clock, SystemClock
from federation.aio.files import write_atomic
from federation.aio.tasks import cancel, wait_for_signal
from federation.errors import Conflict, InvalidInput, InvalidSettings, IsthmusError, TimedOut, Unavailable
from federation.log import Logger
from federation.metrics import MetricsServer
from federation.model.address import split_address
from federation.model.ids import trust_domain_of
from federation.model.wire import bundle_to_pb
from federation.registry import join as registry
from federation.trust.authority import ROOT_FILE, Authority
from federation.trust.bundle import fingerprint
from federation.trust.keystore import write_secret

TOKEN_FILE = Path("/etc/isthmus/join/token")
STATE_DIRECTORY = "/var/lib/isthmus"
PATIENCE = 10.0
"""Seconds for which another replica that has claimed the Secret is left to complete it."""
_JOIN_SECONDS = 10.0


class PodSettings(AgentSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of an agent in a pod: what joining decides is not said, or only where it has changed since."""

    federation: str = ""
    """Refused: the join token leads to it."""
    registry: str = ""
    """Where the registry is now, if that is no longer what it told when the cluster joined."""
    single_machine: bool = False
    """Refused: the registry says it."""
    directory: str = STATE_DIRECTORY


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What joining decided; the rest of such a file does not count here."""

    cluster: str
    federation: str
    registry: str
    single_machine: bool = False


class NoToken(Unavailable):
    """There is no identity, and nothing to get one with."""

    code = "no_join_token"


def load(path: Path, changes: Sequence[str] = ()) -> PodSettings:
    """Read and check the settings at `path`, with `changes` (see federation.settings.load).

    Raises InvalidSettings or InvalidName naming the key.
    """
    wanted = parse.below(files.load(path, PodSettings, changes), path.resolve().parent)
    for key in ("federation", "single_machine"):
        if getattr(wanted, key):
            raise InvalidSettings(f"{path}: {key} is decided by joining", hint="leave it out in a pod")
    if wanted.kubernetes is None:
        wanted = msgspec.structs.replace(wanted, kubernetes=KubernetesSettings())
    if not wanted.identities:
        wanted = msgspec.structs.replace(wanted, identities=own_processes())
    # What can be wrong in it is told before anything is asked of anybody.
    whole(wanted, Known(cluster=wanted.cluster, federation="to.be.known", registry="to.be.known:1"))
    return wanted


def whole(wanted: PodSettings, known: Known) -> AgentSettings:
    """The settings to serve with. Raises InvalidSettings, InvalidName; Conflict where `known` is of another cluster."""
    if known.cluster != wanted.cluster:
        raise Conflict(
            f"the settings are for the cluster {wanted.cluster}, and what joined here is {known.cluster}",
            hint=f"set `cluster: {known.cluster}`, or take it out first: fedctl cluster leave {known.cluster}",
            code="cluster_renamed",
        )
    fields = msgspec.structs.asdict(wanted) | {
        "federation": known.federation,
        "registry": wanted.registry or known.registry,
        "single_machine": known.single_machine,
    }
    return parse.check(AgentSettings(**fields))


class Arrival:
    """Gets the agent its identity; `waiting` says for what it waits, in one line."""

    def __init__(self, wanted: PodSettings, *, token: Path, clock: Clock, log: Logger) -> None:
        self._wanted, self._token, self._clock, self._log = wanted, token, clock, log
        self._kubernetes = wanted.kubernetes or KubernetesSettings()
        self._directory = wanted.path
        self._claim: tuple[bytes, float] | None = None
        self.waiting = "it has not looked for its identity yet"

    async def settings(self) -> AgentSettings:
        """What to serve with, once there is an identity: waits for API server, registry and token as long as it takes.

        Raises InvalidInput, Denied, AlreadyExists, Conflict for a token or settings that will not do; CorruptState,
        StorageFailed.
        """
        known = await asyncio.to_thread(self._held)
        if known is None:
            known = await self._arrive()
        settings = whole(self._wanted, known)
        await asyncio.to_thread(_keep, self._directory / SETTINGS_FILE, render(settings))
        return settings

    def _held(self) -> Known | None:
        """What the state directory says; None where no agent of a present member has been."""
        root = root_of(self._directory)
        path = self._directory / SETTINGS_FILE
        if root is None or not path.exists():
            return None
        try:
            known = files.load(path, Known)
        except InvalidSettings as error:
            self._log.error("settings of the last start unreadable", error=str(error))
            return None
        authority = self._authority(trust_domain_of(known.cluster, known.federation))
        if read_or_none(self._directory / LEFT, self._log) == fingerprint(authority.bundle).encode():
            self._log.warning("this cluster has left the federation", cluster=known.cluster)
            return None
        return known

    async def _arrive(self) -> Known:
        backoff, told = Backoff(base=0.5, cap=15.0), ""
        client = KubeClient(self._kubernetes, log=self._log, clock=self._clock)
        try:
            while True:
                try:
                    return await self._once(client)
                except IsthmusError as error:
                    if not passes(error):
                        raise
                    self.waiting = str(error)
                    if self.waiting != told:
                        told = self.waiting
                        self._log.warning("waiting to join", code=error.error_code, reason=told)
                await self._clock.sleep(backoff.next())
        finally:
            await client.close()

    async def _once(self, client: KubeClient) -> Known:
        """Raises IsthmusError; see `passes`."""
        namespace = self._kubernetes.namespace
        found = await shared.look(client, namespace)
        if isinstance(found, shared.Identity):
            return await asyncio.to_thread(self._take, found)
        if found is not None and found.root != root_of(self._directory) and self._patient(found.root):
            raise shared.Joining(f"another replica of this agent has begun to join ({namespace}/{shared.NAME})")
        token = await asyncio.to_thread(self._read_token)
        invitation = await registry.look_up(token, clock=self._clock, timeout=_JOIN_SECONDS)
        if invitation.cluster != self._wanted.cluster:
            raise InvalidInput(
                f"the token is for the cluster {invitation.cluster}, not for {self._wanted.cluster}",
                hint=f"ask for one with: fedctl token issue {self._wanted.cluster}",
                code="token_foreign",
            )
        await asyncio.to_thread(make_folder, self._directory, mounted=True)
        if found is not None:
            write_secret(self._directory / KEYS / ROOT_FILE, found.root)
        authority = self._authority(invitation.trust_domain)
        root = root_of(self._directory) or b""
        if found is None and not await shared.claim(client, namespace, root):
            raise shared.Joining(f"another replica of this agent begins to join ({namespace}/{shared.NAME})")
        joined = await registry.join(
            token, authority, locality=self._wanted.place, clock=self._clock, timeout=_JOIN_SECONDS
        )
        known = Known(
            cluster=self._wanted.cluster,
            federation=joined.federation,
            registry=joined.registry_address or invitation.token.registry,
            single_machine=joined.single_machine,
        )
        identity = shared.Identity(
            settings=render(whole(self._wanted, known)),
            root=root,
            registry=bundle_to_pb(joined.registry_bundle).SerializeToString(),
            epoch=joined.epoch_floor,
        )
        await shared.complete(client, namespace, identity)
        self._log.info("joined", trust_domain=joined.trust_domain, root=fingerprint(authority.bundle))
        return await asyncio.to_thread(self._take, identity)

    def _take(self, identity: shared.Identity) -> Known:
        where = f"the Secret {self._kubernetes.namespace}/{shared.NAME}"
        try:
            known = msgspec.yaml.decode(identity.settings, type=Known)
        except msgspec.MsgspecError as error:
            raise InvalidSettings(f"{where} holds no settings: {error}", hint="see docs/backup.md") from error
        whole(self._wanted, known)
        take(self._directory, identity, mounted=True)
        self._authority(trust_domain_of(known.cluster, known.federation))
        return known

    def _authority(self, trust_domain: str) -> Authority:
        try:
            return Authority.open(self._directory / KEYS, trust_domain=trust_domain, clock=self._clock)
        except Conflict as error:
            where = f"{shared.NAME} -n {self._kubernetes.namespace}"
            raise Conflict(
                error.message,
                hint=f"if this cluster has never joined: kubectl delete secret {where}, then delete the agent's pods",
                code="other_root",
            ) from error

    def _patient(self, root: bytes) -> bool:
        """Whether the other replica that has claimed this root is still given time."""
        now = self._clock.monotonic()
        if self._claim is None or self._claim[0] != root:
            self._claim = (root, now)
        return now < self._claim[1] + PATIENCE

    def _read_token(self) -> str:
        try:
            token = self._token.read_text(errors="replace").strip()
        except FileNotFoundError:
            token = ""
        except OSError as error:
            raise InvalidSettings(f"the join token {self._token} cannot be read: {error.strerror}") from error
        if not token:
            cluster, namespace = self._wanted.cluster, self._kubernetes.namespace
            raise NoToken(
                f"{cluster} has not joined, and there is no join token in {self._token}",
                hint=f"fedctl token issue {cluster}, and put it in: kubectl create secret generic isthmus-join "
                f"-n {namespace} --from-literal=token=TOKEN",
            )
        return token


def passes(error: IsthmusError) -> bool:
    """Whether it can pass by itself, or by what somebody does elsewhere: it is waited for."""
    return isinstance(
        error, Unavailable | TimedOut | kube.Forbidden | kube.Unauthorised | kube.NotFound | kube.Conflict
    )


def _keep(path: Path, text: bytes) -> None:
    if not path.exists() or path.read_bytes() != text:
        write_atomic(path, text)


@contextlib.contextmanager
def probes(address: str, arrival: Arrival) -> Iterator[None]:
    """/healthz and /readyz while there is no agent yet: alive, and not ready, with the reason. Raises Unavailable."""
    if not address:
        yield
        return
    host, port = split_address(address, what="metrics")
    try:
        server = MetricsServer(
            CollectorRegistry(), host=host, port=port, alive=lambda: (True, ""), ready=lambda: (False, arrival.waiting)
        )
    except OSError as error:
        raise Unavailable(f"cannot serve metrics on {address}: {error.strerror}", code="port_taken") from error
    server.start()
    try:
        yield
    finally:
        server.close()


async def run(wanted: PodSettings, log: Logger, *, token: Path = TOKEN_FILE, clock: Clock | None = None) -> None:
    """Join if that was not done, then serve, until SIGTERM or SIGINT."""
    arrival = Arrival(wanted, token=token, clock=clock or SystemClock(), log=log)
    arriving = asyncio.create_task(arrival.settings(), name="agent-arrival")
    stopping = asyncio.create_task(wait_for_signal(), name="signals")
    try:
        with probes(wanted.metrics, arrival):
            await asyncio.wait({arriving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(stopping)
        if not arriving.done():
            await cancel(arriving)
    if not arriving.cancelled():
        await serve(arriving.result(), log)
