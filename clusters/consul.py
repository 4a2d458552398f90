"""Consul datacenters on this machine: servers, client agents, access control and TLS, each a process of its own.

A datacenter has its own addresses, keys and folder, is ready in a few seconds, can be broken agent by agent, and keeps
its data across restarts. A node can be in a network namespace: `wrap` is put before its command.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import random
import shutil
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from clusters.consulclient import ConsulClient, connect, trusting
from clusters.consulconfig import Guard, Site, configuration
from clusters.kubepki import Authority, Pair
from clusters.network import loopback_addresses
from clusters.program import Program, last_line
from clusters.testbed.components import require
from clusters.together import start_together
from clusters.waiting import DEADLINE, START, until
from federation.aio.files import write_atomic
from federation.errors import IsthmusError, TimedOut, Unavailable

FIRST = "s1"
"""The server that is asked where nobody says which."""

NODES = 'node_prefix "" { policy = "write" }\nservice_prefix "" { policy = "read" }\n'
"""What a client agent may do: say what is on its node."""


class Datacenter:
    """One datacenter below `directory`: built by `start`, broken by `kill` and `pause`, ended by `stop`.

    Nothing in it is bound to an event loop: a datacenter that one loop started can be used and stopped by another.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        program: Path,
        *,
        servers: int = 1,
        acl: bool = False,
        tls: bool = False,
        addresses: Iterator[str] | None = None,
    ) -> None:
        """`addresses`: those of its nodes, of loopback unless given."""
        self.name, self.directory = name, directory
        self.guard = Guard(management=str(uuid.uuid4()) if acl else "", tls=tls)
        self._addresses = addresses or loopback_addresses(random.Random())
        self.program = program
        self.servers = tuple(self._site(f"s{number}") for number in range(1, servers + 1))
        self.sites = {site.name: site for site in self.servers}
        self.wan: tuple[Site, ...] = ()
        """Servers of other datacenters, which those of this one join."""
        self.programs: dict[str, Program] = {}
        self._authority: Authority | None = None

    def _site(self, name: str, address: str | None = None, wrap: Sequence[str] = ()) -> Site:
        return Site.pick(name, self.directory / name, address or next(self._addresses), wrap=wrap)

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the servers and wait until they have a leader and know each other; raises Unavailable, TimedOut."""
        if self.guard.tls:
            self._authority = Authority.create(f"{self.name} root", dt.datetime.now(dt.UTC))
        for site in self.servers:
            self._start(site, agent_token="")
        await self.wait_ready()

    async def add_node(
        self,
        name: str,
        *,
        address: str | None = None,
        wrap: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
    ) -> Site:
        """Start a client agent, such as one on a VM, and wait until the servers list its node."""
        token = ""
        if self.guard.management:
            async with self.connect() as client:
                token = (await client.token(NODES, name=f"agent-{name}"))["SecretID"]
        site = self.sites[name] = self._site(name, address, wrap)
        self._start(site, agent_token=token, meta=meta)
        await self.wait_ready(name)
        return site

    def _start(self, site: Site, *, agent_token: str, meta: Mapping[str, str] | None = None) -> None:
        site.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.guard.tls:
            self._write_pair(site.pki, "agent", self._own(site))
        tree = configuration(
            site,
            datacenter=self.name,
            servers=self.servers,
            guard=self.guard,
            agent_token=agent_token,
            meta=meta,
            wan=self.wan,
        )
        write_atomic(site.directory / "agent.json", json.dumps(tree, indent=1).encode())
        command = [*site.wrap, str(self.program), "agent", f"-config-file={site.directory / 'agent.json'}"]
        program = self.programs[site.name] = Program(f"{self.name}-{site.name}", command, self.log(site.name))
        program.start()

    async def wait_ready(self, *names: str, timeout: float = START) -> None:
        """Wait until every agent (or those of `names`) answers, there is a leader, and it knows the nodes as alive."""
        wanted = names or tuple(self.programs)
        deadline, detail = time.monotonic() + timeout, "it did not answer"
        while time.monotonic() < deadline:
            for name in wanted:
                if not (program := self.programs[name]).alive:
                    raise Unavailable(f"{program.name} ended: {last_line(program.log)}", hint=f"see {program.log}")
            try:
                for name in wanted:
                    async with self.connect(name) as client:
                        await client.get("/v1/agent/self")
                async with self.connect(wanted[0]) as client:
                    if missing := set(wanted) - await alive_nodes(client):
                        raise Unavailable(f"{', '.join(sorted(missing))} not listed as alive")
                return
            except IsthmusError as error:
                detail = error.message
            await asyncio.sleep(0.05)
        logs = ", ".join(str(self.log(name)) for name in wanted)
        raise TimedOut(f"datacenter {self.name} is not ready after {timeout:g} s: {detail}", hint=f"see {logs}")

    def stop(self, *, discard: bool = False) -> None:
        """End every agent, in whatever state it is. `discard` removes what they hold, and keeps logs and keys."""
        for program in self.programs.values():
            program.end()
        if discard:
            for name in self.programs:
                self.forget(name)

    # --- use ---------------------------------------------------------------------------------------------------------

    def url(self, at: str = FIRST) -> str:
        """The API of an agent."""
        site = self.sites[at]
        return f"{'https' if self.guard.tls else 'http'}://{site.address}:{site.http}"

    def connect(self, at: str = FIRST, *, token: str | None = None) -> AbstractAsyncContextManager[ConsulClient]:
        """A client of the agent `at`, with the token that may do everything unless another is given ("": none)."""
        tls = trusting(str(self.authority_file()), tuple(map(str, self.client_files()))) if self.guard.tls else None
        return connect(self.url(at), self.guard.management if token is None else token, tls=tls)

    def environment(self, at: str = FIRST, *, token: str | None = None) -> dict[str, str]:
        """The variables with which Consul's own command speaks to the agent `at`."""
        variables = {"CONSUL_HTTP_ADDR": self.url(at)}
        if secret := self.guard.management if token is None else token:
            variables["CONSUL_HTTP_TOKEN"] = secret
        if self.guard.tls:
            certificate, key = map(str, self.client_files())
            variables |= {
                "CONSUL_CACERT": str(self.authority_file()),
                "CONSUL_CLIENT_CERT": certificate,
                "CONSUL_CLIENT_KEY": key,
            }
        return variables

    async def command(self, *words: str, at: str = FIRST, token: str | None = None) -> str:
        """What `consul` with these words prints, run beside the agent `at`; raises Unavailable with what it says."""
        process = await asyncio.create_subprocess_exec(
            *self.sites[at].wrap,
            self.program,
            *words,
            env={**os.environ, **self.environment(at, token=token)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), START)
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise TimedOut(f"consul {' '.join(words)} has not ended after {START:g} s") from error
        if process.returncode:
            raise Unavailable(f"consul {' '.join(words)}: {err.decode(errors='replace').strip()}")
        return out.decode(errors="replace")

    async def leader(self) -> str:
        """The name of the server that leads, as the servers that answer say; raises Unavailable while there is none."""
        detail = "none answers"
        for site in self.servers:
            with contextlib.suppress(TimedOut, Unavailable):
                async with self.connect(site.name) as client:
                    told = (await client.request("GET", "/v1/status/leader", timeout=2)).body
                for one in self.servers:
                    if told == f"{one.address}:{one.rpc}" and self.programs[one.name].alive:
                        return one.name
                detail = "there is none"
        raise Unavailable(f"{self.name} has no leader: {detail}")

    async def wait_leader(self, *, other_than: str = "", timeout: float = DEADLINE) -> str:
        """The name of the server that leads, awaited; raises TimedOut."""

        async def found() -> str | None:
            with contextlib.suppress(Unavailable):
                return name if (name := await self.leader()) != other_than else None
            return None

        name: str = await until(found, seconds=timeout, what=f"a leader of {self.name}")
        return name

    # --- keys --------------------------------------------------------------------------------------------------------

    def certificate(
        self,
        name: str,
        *,
        names: Sequence[str] = (),
        addresses: Sequence[str] = (),
        now: dt.datetime | None = None,
    ) -> Pair:
        """A certificate under the datacenter's root, for a server or a client. `now`: the past makes expired ones."""
        assert self._authority is not None, "the datacenter has no TLS or has not been started"  # noqa: S101
        moment = now or dt.datetime.now(dt.UTC)
        return self._authority.peer(moment, name, names=names or (name,), addresses=addresses)

    def authority_file(self) -> Path:
        """The root's certificate (PEM)."""
        return self._file("ca.crt")

    def client_files(self, name: str = "client", *, now: dt.datetime | None = None) -> tuple[Path, Path]:
        """Certificate and key (PEM) of a client of the API, made when they are not there."""
        folder = self.directory / "pki"
        if not (folder / f"{name}.key").exists():
            self._write_pair(folder, name, self.certificate(name, now=now))
        return folder / f"{name}.crt", folder / f"{name}.key"

    def renew(self, name: str = FIRST, *, now: dt.datetime | None = None) -> None:
        """Give an agent another certificate of its own, which it soon shows to new connections. `now`: as for
        `certificate`."""
        self._write_pair(self.sites[name].pki, "agent", self._own(self.sites[name], now=now))
        os.kill(self.programs[name].pid, signal.SIGHUP)

    def _own(self, site: Site, *, now: dt.datetime | None = None) -> Pair:
        names = (f"{site.name}.{self.name}.consul", *((f"server.{self.name}.consul",) if site in self.servers else ()))
        return self.certificate(site.name, names=names, addresses=(site.address,), now=now)

    def _file(self, name: str) -> Path:
        path = self.directory / "pki" / name
        if not path.exists():
            self.client_files()
        return path

    def _write_pair(self, folder: Path, name: str, pair: Pair) -> None:
        assert self._authority is not None  # noqa: S101 - `certificate` has seen it
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(folder / "ca.crt", self._authority.pem)
        write_atomic(folder / f"{name}.crt", pair.certificate)
        write_atomic(folder / f"{name}.key", pair.key)

    # --- breaking and healing ----------------------------------------------------------------------------------------

    def kill(self, name: str = FIRST) -> float:
        """SIGKILL; returns the monotonic time of it (s)."""
        return self.programs[name].kill()

    def pause(self, name: str = FIRST) -> float:
        """Stop it where it stands: connections stay open, the kernel still accepts new ones, and nothing answers."""
        return self.programs[name].pause()

    def resume(self, name: str = FIRST) -> float:
        """Let it go on after `pause`; returns the monotonic time of it (s)."""
        return self.programs[name].resume()

    async def restart(self, name: str = FIRST) -> None:
        """Start an agent again that has ended, on the data that it had, and wait until it is ready."""
        self.programs[name].start()
        await self.wait_ready(name)

    async def heal(self) -> None:
        """Undo every `kill` and `pause`, and wait until all is ready."""
        for program in self.programs.values():
            if program.alive:
                program.resume()
            else:
                program.start()
        await self.wait_ready()

    def forget(self, name: str = FIRST) -> None:
        """Remove what an agent holds that has ended: a server then starts from nothing, its indexes from 1."""
        if self.programs[name].alive:
            raise Unavailable(f"{self.programs[name].name} still runs")
        shutil.rmtree(self.sites[name].data, ignore_errors=True)

    # --- what it tells -----------------------------------------------------------------------------------------------

    def log(self, name: str = FIRST) -> Path:
        """Where an agent writes."""
        return self.directory / "logs" / f"{name}.log"

    def tails(self, lines: int = 25) -> dict[str, str]:
        """The last lines of each agent's log, for a report of what failed."""
        found = {}
        for name in self.programs:
            with contextlib.suppress(OSError):
                text = self.log(name).read_text(errors="replace")
                found[f"{self.name}-{name}"] = "\n".join(text.splitlines()[-lines:])
        return found


async def alive_nodes(client: ConsulClient) -> set[str]:
    """The nodes whose agents the leader knows as alive, read from the leader itself."""
    checks = await client.get("/v1/health/state/passing", consistent="")
    return {one["Node"] for one in checks if one["CheckID"] == "serfHealth"}


def datacenters(
    directory: Path,
    names: Iterable[str],
    *,
    servers: int = 1,
    acl: bool = False,
    tls: bool = False,
    addresses: Iterator[str] | None = None,
    wan: bool = False,
) -> tuple[Datacenter, ...]:
    """Datacenters below `directory`, not started; raises NotFound where there is no Consul. `wan`: they join."""
    program = require("consul")["consul"]
    made = tuple(
        Datacenter(name, directory / name, program, servers=servers, acl=acl, tls=tls, addresses=addresses)
        for name in names
    )
    for one in made if wan else ():
        one.wan = tuple(site for other in made if other is not one for site in other.servers)
    return made


async def start_all(those: Iterable[Datacenter]) -> None:
    """Start the datacenters at the same time; when one fails, all are stopped."""
    those = tuple(those)
    await start_together({one.name: one.start() for one in those}, stop=lambda: stop_all(those))


def stop_all(those: Iterable[Datacenter], *, discard: bool = False) -> None:
    """End every agent of every datacenter; see `Datacenter.stop`."""
    for one in those:
        one.stop(discard=discard)


@asynccontextmanager
async def running(
    directory: Path,
    *names: str,
    servers: int = 1,
    acl: bool = False,
    tls: bool = False,
    addresses: Iterator[str] | None = None,
) -> AsyncIterator[tuple[Datacenter, ...]]:
    """Datacenters that run while the context is open; of what they held, logs and keys remain."""
    those = datacenters(directory, names, servers=servers, acl=acl, tls=tls, addresses=addresses)
    await start_all(those)
    try:
        yield those
    finally:
        stop_all(those, discard=True)
