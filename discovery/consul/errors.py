"""What Consul answers when it does not do what was asked, as errors of this project.

`translate` turns a status and a body into one of them; network errors are translated by `unreachable`. No token gets
into any of them: they are shown and logged.
"""

from __future__ import annotations

import ssl
from typing import Any

from federation import errors


class Forbidden(errors.Denied):
    """The token may not do that, or Consul does not know it."""

    code = "consul_forbidden"


class TokenUnknown(Forbidden):
    """Consul does not know the token: it was revoked, or is of another datacenter."""


class TokenMissing(errors.Denied):
    """The token cannot be read."""

    code = "consul_token"


class Unreachable(errors.Unavailable):
    """No answer, or none that makes sense."""

    code = "consul_unreachable"


class NoLeader(errors.Unavailable):
    """The servers have no leader."""

    code = "consul_no_leader"


class NoDatacenter(errors.Unavailable):
    """No server of that datacenter is known, or none can be reached."""

    code = "consul_no_datacenter"


class TooMany(errors.Unavailable):
    """Consul wants fewer connections or requests."""

    code = "consul_busy"


class ServerFailed(errors.Unavailable):
    """Consul says that it failed (5xx)."""

    code = "consul_server_failed"


class TooLarge(errors.Unavailable):
    """An answer longer than is read."""

    code = "consul_too_large"


class Missing(errors.NotFound):
    """There is no such thing, or no longer."""

    code = "consul_not_found"


class Refused(errors.InvalidInput):
    """Consul does not understand what was asked."""

    code = "consul_refused"


def translate(status: int, body: bytes, *, what: str, needs: str = "", secret: str = "") -> errors.IsthmusError:
    """The error for HTTP `status` with `body`. `what` was asked for, in words; `needs` is the right for it
    ("service:read"); `secret` must not be shown."""
    said = " ".join(body[:400].decode("utf-8", "replace").split())[:300]
    if secret:
        said = said.replace(secret, "…")
    lower = said.lower()
    if status == 403 or (status in (401, 500) and ("permission denied" in lower or "acl not found" in lower)):
        if "acl not found" in lower:
            message, hint = f"Consul does not know our token ({what})", "write one that is valid to consul.token_file"
            return TokenUnknown(message, hint=hint)
        message, hint = f"our token may not do that ({what}): {said}", f"its policy lacks {needs}" if needs else ""
        return Forbidden(message, hint=hint)
    if status == 429:
        return TooMany(
            f"Consul refuses more connections or requests ({what})",
            hint="lower consul.watches, or raise limits.http_max_conns_per_client in Consul's configuration",
        )
    if status >= 500:
        if "no cluster leader" in lower or ("leader" in lower and "not" in lower):
            return NoLeader(f"the servers of Consul have no leader ({what})")
        if "no path to datacenter" in lower:
            return NoDatacenter(f"Consul knows no way to that datacenter ({what})")
        return ServerFailed(f"Consul fails: {said or status} ({what})")
    return Refused(f"{what}: Consul answers {status}: {said}")


def unreachable(error: Exception, host: str) -> Unreachable:
    """A network error of aiohttp as ours, in one line."""
    import aiohttp

    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        detail: Any = getattr(error, "certificate_error", error)
        return Unreachable(
            f"Consul at {host} proves itself by a certificate that is not trusted: {_verify_text(detail)}",
            hint="check consul.ca_file and consul.server_name, and until when the certificate is valid",
            code="consul_untrusted",
        )
    if isinstance(error, TimeoutError):
        return Unreachable(f"Consul at {host} does not answer")
    text = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, ssl.SSLError | aiohttp.ClientSSLError) or "SSL" in text:
        return Unreachable(
            f"Consul at {host}: no TLS: {text}",
            hint="does it want a client certificate (consul.cert_file), and is ours still valid?",
            code="consul_tls",
        )
    return Unreachable(f"Consul at {host} cannot be reached: {text}")


def _verify_text(error: object) -> str:
    return str(getattr(error, "verify_message", "") or error)[:200]
