"""What identifies a described sink to its receiver, made of the table ``auth``."""

from collections.abc import Mapping

import httpx

from auditrelay.clock import Clock
from auditrelay.descriptions.credentials import key_credentials
from auditrelay.descriptions.credentials.grants import TokenRequest
from auditrelay.descriptions.model import OAuth2Auth
from auditrelay.descriptions.receiver.model import NoAuth
from auditrelay.descriptions.receiver.settings import DescribedSinkSettings
from auditrelay.http.credentials import Credentials, KeyCredentials, Rotation
from auditrelay.http.grants import MAX_REPLY_BYTES
from auditrelay.http.peer import Peer
from auditrelay.http.tokens import TokenCredentials, shared
from auditrelay.settings.secrets import SecretUrl
from auditrelay.telemetry.metrics import Metrics


def credentials(
    name: str, settings: DescribedSinkSettings, metrics: Metrics, clock: Clock
) -> Credentials:
    """Return what identifies the sink called *name*. Raises ConfigError for a key that is none."""
    auth = settings.RECEIVER.auth
    if isinstance(auth, NoAuth):
        made: Credentials = KeyCredentials(dict)
    elif isinstance(auth, OAuth2Auth):
        request = TokenRequest(name, settings, auth, clock)
        endpoint = Peer(
            name,
            settings,
            base_url=settings.token_address,
            credentials=KeyCredentials(dict),
            metrics=metrics,
            clock=clock,
            max_body_bytes=MAX_REPLY_BYTES,
            tells_time=False,  # what it says is not the receiver's time
        )
        made = TokenCredentials(name, request, endpoint, shared(clock, request.client), auth.prefix)
    else:
        made = key_credentials(auth, settings)
    address = settings.secret_address
    return made if address is None else AddressCredentials(address, made)


class AddressCredentials:
    """
    A secret *address* in the place of that of each request, beside *others*.

    It is put in at the last moment: what names the request in messages never has it.
    """

    def __init__(self, address: SecretUrl, others: Credentials) -> None:
        self._address = address
        self._others = others
        self._rotation = Rotation([address])

    async def prepare(self) -> int:
        """See :class:`Credentials`."""
        return await self._others.prepare() + self._rotation.count

    def headers(self, request: httpx.Request) -> Mapping[str, str]:
        """Set the address of *request*; return the headers of the other credentials."""
        url = httpx.URL(self._address.reveal())
        if request.url.query:
            url = url.copy_with(query=request.url.query)
        request.url = url
        return {**self._others.headers(request), "host": url.netloc.decode("ascii")}

    async def renewed(self, number: int, status: int) -> bool:
        """See :class:`Credentials`; a receiver may also answer as if nothing were there."""
        changed = await self._rotation.changed_since(self._rotation.count)
        return await self._others.renewed(number, status) or changed

    async def aclose(self) -> None:
        """See :class:`Credentials`."""
        await self._others.aclose()
