"""Questions to a registry by the socket in its folder: answers, errors as they were raised, and nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from federation import log
from federation.errors import Conflict, InvalidInput, Unavailable
from federation.registry.local import SOCKET, LocalClient, LocalServer, Question, reachable


async def repeat(question: Question, payload: bytes) -> bytes:
    return msgspec.json.encode({"said": payload})


async def refuse(question: Question, payload: bytes) -> bytes:
    raise Conflict("it holds 3 clusters", hint="--replace", code="would_overwrite")


@pytest.fixture(params=["short", "a-folder-with-a-long-name" * 5])
async def path(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Path]:
    """Also where no address could hold the name of the socket."""
    folder = tmp_path / request.param
    folder.mkdir()
    server = LocalServer(folder / SOCKET, {"credential": repeat, "restore": refuse}, log=log.get("test"))
    await server.start()
    yield folder / SOCKET
    await server.close()
    assert not (folder / SOCKET).exists()


async def test_an_answer_and_an_error(path: Path) -> None:
    client = LocalClient(path)
    assert (await asyncio.to_thread(path.stat)).st_mode & 0o777 == 0o600
    assert await client.credential("me") == {"said": b""}
    with pytest.raises(Conflict, match="holds 3 clusters") as caught:
        await client.restore(b"x" * 100_000, replace=False)
    assert (caught.value.error_code, caught.value.hint) == ("would_overwrite", "--replace")
    with pytest.raises(InvalidInput, match="cannot 'backup'"):
        await client.backup()


@pytest.mark.parametrize("said", [b"\n", b"nonsense\n", b'{"do": 7}\n', b'{"do": "credential", "payload": -1}\n'])
async def test_nonsense_is_answered(path: Path, said: bytes) -> None:
    with reachable(path) as name:
        reader, writer = await asyncio.open_unix_connection(name)
    writer.write(said)
    answer = msgspec.json.decode(await reader.readline())
    assert answer["error"]["code"] == "invalid_input"
    writer.close()


async def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        await LocalClient(tmp_path / SOCKET).backup()
    assert caught.value.error_code == "registry_down"
