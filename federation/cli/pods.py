"""fedctl's way to an agent or a registry in a pod: `pods/exec` of a small program that joins its socket to ours.

    client ─ UNIX socket in a private folder ─ this ═ API server ═ kubelet ═ isthmus-bridge ─ the process's socket

Whoever may do that in the namespace of Isthmus can do there what the process can; nothing is exposed for it. Each
connection to the socket here is one `exec`. The first is opened before anybody connects: what is wrong is told then.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from discovery.kube.client import KubeClient
from discovery.kube.execute import ExecFailed, Execution, execute
from discovery.kube.pods import Target, find
from discovery.kube.settings import KubernetesSettings
from federation import log
from federation.aio.clock import SystemClock
from federation.aio.files import write_atomic
from federation.bridge import GREETING
from federation.cli.home import Place
from federation.errors import IsthmusError, NotFound, TimedOut, Unavailable
from federation.registry.local import LocalClient
from federation.registry.operator import CREDENTIAL_FILES
from federation.trust.keys import certificates_from_pem
from federation.trust.keystore import private_directory

PROGRAM = "isthmus-bridge"
_OPEN_SECONDS = 15.0
_FRESH = timedelta(hours=1)
"""A credential that has less left is fetched again."""


class Bridge:
    """A socket here that leads to one process in a pod; made by `bridged`."""

    def __init__(self, client: KubeClient, place: Place, target: Target, to: str, folder: Path) -> None:
        self._client, self._place, self._target, self._to = client, place, target, to
        self.socket = folder / ("agent.sock" if to == "agent" else "registry.sock")
        self.failure: IsthmusError | None = None
        """Why a later connection could not be made, or was lost."""
        self._first: tuple[contextlib.AsyncExitStack, Execution, bytes] | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def pod(self) -> str:
        """Whom it leads to, for errors."""
        return f"pod {self._place.namespace}/{self._target.pod}"

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Who finds the socket silent is told what happened between here and the pod."""
        try:
            yield
        except (Unavailable, TimedOut) as error:
            if self.failure is not None:
                raise self.failure from error
            raise

    async def begin(self) -> None:
        """Open the first connection. Raises IsthmusError."""
        self._first = await self._connect()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to the socket."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio serves each connection in a task
        self._open.add(task)
        try:
            first, self._first = self._first, None
            stack, execution, rest = first or await self._connect()
            async with stack:
                writer.write(rest)
                await _join(reader, writer, execution)
        except IsthmusError as error:
            self.failure = error
        except (OSError, asyncio.CancelledError):
            pass  # the client has gone, or the bridge is taken down
        finally:
            self._open.discard(task)
            writer.close()

    async def close(self) -> None:
        """End what is open."""
        for task in (open_ := list(self._open)):
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)
        if self._first is not None:
            await self._first[0].aclose()

    async def _connect(self) -> tuple[contextlib.AsyncExitStack, Execution, bytes]:
        """A running program that has greeted, and what it said after that."""
        stack = contextlib.AsyncExitStack()
        try:
            target = self._target
            execution = await stack.enter_async_context(
                execute(
                    self._client,
                    self._place.namespace,
                    target.pod,
                    (PROGRAM, self._to),
                    container=target.container,
                )
            )
            said = b""
            async with asyncio.timeout(_OPEN_SECONDS):
                while not said.startswith(GREETING):
                    piece = await execution.read()
                    if not piece or not GREETING.startswith((said + piece)[: len(GREETING)]):
                        raise self._failed(execution, said + piece)
                    said += piece
        except TimeoutError:
            await stack.aclose()
            raise TimedOut(f"{self.pod} does not answer within {_OPEN_SECONDS:g} s") from None
        except BaseException:
            await stack.aclose()
            raise
        return stack, execution, said[len(GREETING) :]

    def _failed(self, execution: Execution, said: bytes) -> IsthmusError:
        errors = execution.errors.decode(errors="replace").strip()
        logs = f"kubectl logs -n {self._place.namespace} {self._target.pod} -c {self._target.container}"
        try:
            found = json.loads(errors.rpartition("\n")[2])
            return Unavailable(
                f"{self.pod}: {found['message']}",
                hint=f"it {'has not begun yet' if self._target.ready else 'is not ready'}; see: {logs}",
                code=str(found["code"]),
            )
        except (ValueError, KeyError, TypeError):
            pass
        told = execution.reason or errors.partition("\n")[0] or said[:80].decode(errors="replace")
        if "not found" in told or "no such file" in told:
            return ExecFailed(f"{self.pod} has no {PROGRAM}: {told}", hint="is its image older than this fedctl?")
        return ExecFailed(f"{self.pod}: {PROGRAM} has ended: {told or 'without a word'}", hint=f"see: {logs}")


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, execution: Execution) -> None:
    """Both ways, until the pod's side has ended, or ours where its input cannot be closed alone."""

    async def out() -> None:
        while data := await reader.read(1 << 16):
            await execution.write(data)
        if not await execution.end_input():
            raise ConnectionError("it has no more to say")

    async def back() -> None:
        while data := await execution.read():
            writer.write(data)
            await writer.drain()

    sending = asyncio.create_task(out(), name="bridge-out")
    receiving = asyncio.create_task(back(), name="bridge-back")
    try:
        await asyncio.wait({sending, receiving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and sending.exception() is None:
            await receiving
        for task in (sending, receiving):
            if task.done():
                task.result()
    finally:
        for task in (sending, receiving):
            task.cancel()
        await asyncio.gather(sending, receiving, return_exceptions=True)


@contextlib.asynccontextmanager
async def bridged(place: Place, to: str, target: Target | None = None) -> AsyncIterator[Bridge]:
    """A bridge to "agent", "registry" or "registry-port" at `place`; `target`: in this pod.

    Raises NotFound (no such context, no pod), Unavailable (not running, crashed, API server away), Denied (forbidden),
    InvalidSettings.
    """
    check_context(place)
    settings = KubernetesSettings(kubeconfig=place.kubeconfig, context=place.context)
    async with contextlib.AsyncExitStack() as stack:
        client = KubeClient(settings, log=log.get("fedctl"), clock=SystemClock())
        stack.push_async_callback(client.close)
        target = target or (await find(client, place.namespace, to.partition("-")[0]))[0]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isthmus-")))  # 0700
        bridge = Bridge(client, place, target, to, folder)
        stack.push_async_callback(bridge.close)
        await bridge.begin()
        server = await asyncio.start_unix_server(bridge.serve, str(bridge.socket))
        stack.callback(server.close)
        yield bridge


async def running(place: Place, component: str) -> list[Target]:
    """The pods of the component that run, first the one to ask. Raises as `bridged`."""
    check_context(place)
    settings = KubernetesSettings(kubeconfig=place.kubeconfig, context=place.context)
    client = KubeClient(settings, log=log.get("fedctl"), clock=SystemClock())
    try:
        return await find(client, place.namespace, component)
    finally:
        await client.close()


def check_context(place: Place) -> None:
    """Raises NotFound where the kubeconfig has no such context (or is not there), with those that it has."""
    path = Path(place.kubeconfig)
    try:
        tree = yaml.safe_load(path.read_text())
        names = [str(one["name"]) for one in tree["contexts"]]
    except OSError as error:
        raise NotFound(
            f"there is no kubeconfig {path}: {error.strerror}",
            hint="give --kubeconfig FILE, or set KUBECONFIG",
            code="no_kubeconfig",
        ) from error
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError):
        return  # who reads it says what is wrong with it
    if place.context and place.context not in names:
        raise NotFound(
            f"there is no context {place.context!r} in {path}",
            hint=f"it has: {', '.join(sorted(names)) or 'none'} (kubectl config get-contexts)",
            code="no_context",
        )


async def fetch_credential(directory: Path, place: Place) -> None:
    """Write a new credential of this operator, from the registry's pod, into `directory`. Raises as `bridged`."""
    async with bridged(place, "registry") as bridge:
        with bridge.explaining():
            files = await LocalClient(bridge.socket, what=f"the registry in {bridge.pod}").credential(_operator())
    private_directory(directory)
    for name in CREDENTIAL_FILES:
        write_atomic(directory / name, files[name], mode=0o600)


async def refresh(directory: Path, place: Place) -> None:
    """Fetch the credential again when it is about to expire. Raises as `bridged`."""
    try:
        leaf = certificates_from_pem((directory / "operator.pem").read_bytes())[0]
        if leaf.not_valid_after_utc > datetime.now(UTC) + _FRESH:
            return
    except (OSError, IsthmusError, ValueError, IndexError):
        pass  # it is written anew
    await fetch_credential(directory, place)


async def dialled(address: str, *, seconds: float = 2.0) -> bool:
    """Whether a TCP connection to `address` can be made from here."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError, ValueError):
        return False
    writer.close()
    return True


def registry_address(directory: Path) -> str:
    """What the credential in `directory` says; raises InvalidSettings."""
    from federation import settings as files
    from federation.registry.operator import OperatorFile

    return files.load(directory / "operator.yaml", OperatorFile).registry


def _operator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""
