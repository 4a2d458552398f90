"""Keeps out of a process what libraries import by the way, and what a gateway and a sidecar never use.

OpenSSL is the largest part: asyncio, uvloop, hashlib and prometheus_client load it, for TLS that these processes leave
to gRPC and to Envoy, and for hashes that Python has itself. The rest are the HTTP servers and clients of the standard
library, for ways of exposing metrics that federation.metrics does not use. 5 MB of a process.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NoReturn

_UNUSED = ("ssl", "http.server", "socketserver", "urllib.error", "urllib.request", "wsgiref.simple_server")
_OPTIONAL = ("_hashlib", "bz2", "lzma")
"""Whoever imports these does without them where they are missing."""


class _Empty(ModuleType):
    """Has every name that is asked for: an error, a number or a class, of which nothing is ever used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value: Any = 0
        if not name.isupper():
            value = type(name, (OSError,) if name.endswith("Error") else (_Anything,), {})
        setattr(self, name, value)
        return value


class _Meta(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


class _Anything(metaclass=_Meta):
    """What is subclassed, or asked for a constant (`ssl.TLSVersion.TLSv1_2`), while a module is imported.

    Who would use it later (asyncio, asked for TLS) hears of it: it can be neither called nor made.
    """

    def __new__(cls, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(f"this process does without {cls.__name__}: see {__name__}")


@contextlib.contextmanager
def imports() -> Iterator[None]:
    """What is imported within does without them; afterwards everything can be had again.

    What is loaded already stays: in a process that has OpenSSL nothing changes. What is imported within keeps its
    stand-ins, and uses them in vain: for the libraries around an event loop only, where lazy imports of our own would
    not help, and before any thread is started.
    """
    hidden: dict[str, ModuleType | None] = {name: _Empty(name) for name in _UNUSED}
    hidden.update(dict.fromkeys(_OPTIONAL))
    hidden = {name: stand_in for name, stand_in in hidden.items() if name not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None: cannot be imported
    try:
        yield
    finally:
        for name, stand_in in hidden.items():
            if sys.modules.get(name, name) is stand_in:
                del sys.modules[name]
