"""Where the API server is and as whom we speak to it: kubernetes-asyncio's reading of kubeconfig and service account.

Exec plugins, token files, OIDC and client certificates are its business. What it read is read again when the server no
longer accepts it: tokens and certificates expire, and that is how kubectl notices, too. kubernetes-asyncio costs 60 MB
and 0.5 s to import; so it is imported here, when a connection is opened.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

from discovery.kube.errors import Unauthorised, Unreachable
from discovery.kube.settings import SERVICE_ACCOUNT, KubernetesSettings
from federation.errors import InvalidSettings, IsthmusError

if TYPE_CHECKING:
    import aiohttp

_PLUGIN_SECONDS = 30.0
_READ_BUFFER = 1 << 21
"""Bytes; an event of a watch holds a whole object, of 1.5 MB at most."""
_WRITE = 'write it with kubectl, or name another one as "kubeconfig" in the agent\'s settings'


@dataclass(slots=True)
class Connection:
    """An HTTP session with its credentials."""

    session: aiohttp.ClientSession
    configuration: Any
    """kubernetes_asyncio.client.Configuration (it has no types)."""
    proxy: str = ""
    """URL of the proxy that leads to the server."""
    proxy_auth: aiohttp.BasicAuth | None = None

    @property
    def host(self) -> str:
        """The server's URL, without a slash at its end."""
        return str(self.configuration.host).rstrip("/")

    async def headers(self) -> dict[str, str]:
        """The credentials, renewed where the configuration knows how. Raises Unauthorised."""
        try:
            token = (await self.configuration.auth_settings()).get("BearerToken", {}).get("value")
        except OSError as error:
            raise Unauthorised(f"the service account's token cannot be read: {error.strerror}") from error
        return {"Authorization": token} if token else {}

    @property
    def options(self) -> dict[str, Any]:
        """What every request of the session needs besides."""
        options: dict[str, Any] = {}
        if self.proxy:
            options |= {"proxy": self.proxy, "proxy_auth": self.proxy_auth}
        if self.configuration.tls_server_name:
            options["server_hostname"] = self.configuration.tls_server_name
        return options

    async def close(self) -> None:
        await self.session.close()


async def connect(settings: KubernetesSettings) -> Connection:
    """Read the configuration and make a session; nothing is asked of the server yet.

    Raises InvalidSettings for a configuration that is wrong, Unauthorised when an exec plugin or an identity provider
    gives no credentials.
    """
    from kubernetes_asyncio import config
    from kubernetes_asyncio.client import Configuration
    from kubernetes_asyncio.client.rest import RESTClientObject

    configuration = Configuration()
    configuration.connection_pool_maxsize = 0  # a watch holds one for ever; the writer bounds itself
    where = settings.kubeconfig or "the pod's service account"
    try:
        if settings.kubeconfig:
            _check_files(settings.kubeconfig)
            async with asyncio.timeout(_PLUGIN_SECONDS):
                await config.load_kube_config(
                    config_file=settings.kubeconfig,
                    context=settings.context or None,
                    client_configuration=configuration,
                    persist_config=False,
                )
        else:
            config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration,
                token_filename=f"{SERVICE_ACCOUNT}/token",
                cert_filename=f"{SERVICE_ACCOUNT}/ca.crt",
            )
        if not str(configuration.host).startswith(("https://", "http://")):
            raise InvalidSettings(f"{where}: the server {configuration.host!r} is no URL", hint=_WRITE)
        rest = RESTClientObject(configuration)
    except (IsthmusError, asyncio.CancelledError):
        raise
    except Exception as error:  # whatever a malformed file makes the library raise: TypeError, KeyError, YAMLError …
        text = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, TimeoutError):
            raise Unauthorised(f"{where}: no credentials within {_PLUGIN_SECONDS:g} seconds") from error
        plugin_missing = isinstance(error, OSError) and not isinstance(error, ssl.SSLError)
        if text.startswith(("exec:", "oidc:")) or plugin_missing:
            raise Unauthorised(f"{where}: no credentials: {text}") from error
        if not settings.kubeconfig and text.startswith("Service "):
            raise InvalidSettings(
                f"the agent does not run in a pod ({_plain(text)}), and no kubeconfig is set",
                hint='set "kubernetes: {kubeconfig: …}" in the agent\'s settings',
            ) from error
        raise InvalidSettings(f"{where} cannot be used: {_plain(text)}", hint=_WRITE) from error
    session = _session(rest.pool_manager)
    return Connection(session, configuration, *_proxy(configuration))


def _session(made: aiohttp.ClientSession) -> aiohttp.ClientSession:
    """The same without a look at ~/.netrc and the environment before every request, each in a thread of its own."""
    import aiohttp

    session = aiohttp.ClientSession(connector=made.connector, read_bufsize=_READ_BUFFER)
    made.detach()
    return session


def _proxy(configuration: Any) -> tuple[str, aiohttp.BasicAuth | None]:
    """That of the kubeconfig; otherwise that of the environment, as kubectl has it (HTTPS_PROXY, NO_PROXY)."""
    import aiohttp
    from yarl import URL

    server = URL(str(configuration.host))
    text = configuration.proxy or ("" if proxy_bypass(server.host or "") else getproxies().get(server.scheme, ""))
    if not text:
        return "", None
    url = URL(text)
    return str(url.with_user(None)), aiohttp.BasicAuth.from_url(url)


def _check_files(text: str) -> None:
    """One file, or several as kubectl takes them in KUBECONFIG: of those it passes over what is not there."""
    paths = [Path(one).expanduser() for one in text.split(os.pathsep) if one]
    for path in [one for one in paths if one.exists()] or paths[:1]:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InvalidSettings(f"the kubeconfig {path} cannot be read: {error.strerror}", hint=_WRITE) from error
        if not data.strip():
            raise InvalidSettings(f"the kubeconfig {path} is empty", hint=_WRITE)


def _plain(text: str) -> str:
    return text.removeprefix("Invalid kube-config file. ").removesuffix(".")


def unreachable(error: Exception, host: str) -> Unreachable:
    """A network error of aiohttp as ours, in one line."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        detail = getattr(error, "certificate_error", error)
        return Unreachable(
            f"the API server at {host} proves itself by a certificate that is not trusted: {detail}",
            hint="check certificate-authority and server in the kubeconfig",
            code="kube_untrusted",
        )
    if isinstance(error, TimeoutError):
        return Unreachable(f"the API server at {host} does not answer")
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return Unreachable(f"the API server at {host} cannot be reached: {text}")
