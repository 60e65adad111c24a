"""What identifies us to a peer: asked before a request, for it, and after it was refused."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import httpx

from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.logs import log


class Credentials(Protocol):
    """
    The credentials of one peer.

    They change: a key is rotated, a token ends. Each state of them has a number, which grows, so
    that a request that was refused with old ones is repeated without a question.
    """

    async def prepare(self) -> int:
        """
        Get ready for a request that is sent now; return the number of what it is sent with.

        Raises Retryable or Refused if there are no credentials now.
        """

    def headers(self, request: httpx.Request) -> Mapping[str, str]:
        """
        Return the headers with which *request* is sent, which is final but for them.

        A header that the request has for its own purpose stays as it is.
        """

    async def renewed(self, number: int, status: int) -> bool:
        """
        Return whether a request that was refused with *status* (401 or 403) may be sent once more.

        It was sent with the credentials *number*.
        """

    async def aclose(self) -> None:
        """Release connections."""


class Rotation:
    """Reads *secrets* again from their references, and counts how often one has changed."""

    def __init__(self, secrets: Sequence[Secret]) -> None:
        self.count = 0
        self._secrets = secrets
        self._reading = asyncio.Lock()

    async def changed_since(self, count: int) -> bool:
        """Read the secrets again; return whether one has changed since *count* was read."""
        # One at a time: the second one finds no change, and must see the first one's count.
        async with self._reading:
            for secret in self._secrets:
                if await asyncio.to_thread(secret.reload):
                    self.count += 1
                elif secret.problem:
                    # We are refused, and the secret that may be the right one is not used.
                    log.warning(
                        "secret_not_read", references=secret.references, reason=secret.problem
                    )
        # Another request may have found the new secret while this one was in flight.
        return self.count != count


class KeyCredentials:
    """
    The operator's own *secrets*, in *headers*.

    *headers* is called for each request, so that a rotated key is used at once. The secrets are
    read again after a 401 or 403, and if one has changed the request is sent once more.
    """

    def __init__(
        self, headers: Callable[[], Mapping[str, str]], secrets: Sequence[Secret] = ()
    ) -> None:
        self._headers = headers
        self._rotation = Rotation(secrets)

    async def prepare(self) -> int:
        """See :class:`Credentials`; there is nothing to do."""
        return self._rotation.count

    def headers(self, _request: httpx.Request) -> Mapping[str, str]:
        """See :class:`Credentials`."""
        return self._headers()

    async def renewed(self, number: int, _status: int) -> bool:
        """See :class:`Credentials`."""
        return await self._rotation.changed_since(number)

    async def aclose(self) -> None:
        """See :class:`Credentials`; nothing is open."""
