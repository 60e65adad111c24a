"""
Duo's signature of a request, in its version 5.

https://duo.com/docs/adminapi#authentication describes it in words; what it leaves open is as in
Duo's own client: https://github.com/duosecurity/duo_client_python/blob/6e207eb/duo_client/client.py.
"""

import hashlib
import hmac
from collections.abc import Mapping
from email.utils import formatdate
from urllib.parse import parse_qsl, quote

import httpx

from auditrelay.clock import Clock
from auditrelay.descriptions.credentials.basic import basic
from auditrelay.http.credentials import Rotation
from auditrelay.settings.secrets import Secret


class DuoSignature:
    """Signs each request with the *secret_key* that belongs to the *integration_key*."""

    def __init__(self, integration_key: Secret, secret_key: Secret, clock: Clock) -> None:
        self._integration_key = integration_key
        self._secret_key = secret_key
        self._clock = clock
        self._rotation = Rotation([integration_key, secret_key])

    async def prepare(self) -> int:
        """See :class:`Credentials`; there is nothing to do."""
        return self._rotation.count

    def headers(self, request: httpx.Request) -> Mapping[str, str]:
        """Return the signature of *request*, and the date that is part of it."""
        date = formatdate(self._clock.now().timestamp())
        text = canonical(request, date)
        digest = hmac.new(self._secret_key.reveal().encode(), text.encode(), hashlib.sha512)
        return {
            "date": date,
            "authorization": basic(self._integration_key.reveal(), digest.hexdigest()),
        }

    async def renewed(self, number: int, _status: int) -> bool:
        """See :class:`Credentials`."""
        return await self._rotation.changed_since(number)

    async def aclose(self) -> None:
        """See :class:`Credentials`; nothing is open."""


def canonical(request: httpx.Request, date: str) -> str:
    """
    Return the text of *request* that is signed, sent at *date*.

    Its lines are the date, the method, the host, the path, the parameters, and the digests of the
    body and of the headers ``X-Duo-*``.
    """
    names = sorted({name for name in request.headers if name.startswith("x-duo-")})
    headers = "\0".join(part for name in names for part in (name, request.headers[name]))
    lines = (
        date,
        request.method.upper(),
        request.headers["host"].lower(),
        request.url.raw_path.decode("ascii").partition("?")[0],
        canonical_params(request.url.query.decode("ascii")),
        _digest(request.content),
        _digest(headers.encode()),
    )
    return "\n".join(lines)


def canonical_params(query: str) -> str:
    """Return the parameters of *query*, encoded as RFC 3986 says, and sorted as that."""
    pairs = parse_qsl(query, keep_blank_values=True)
    encoded = sorted((quote(name, safe=""), quote(value, safe="")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _digest(content: bytes) -> str:
    return hashlib.sha512(content).hexdigest()
