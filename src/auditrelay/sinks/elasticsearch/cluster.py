"""The nodes of one cluster: ask the next one when one is in trouble."""

import base64
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import orjson

from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.sinks._requests import fault, unproven
from auditrelay.sinks.elasticsearch.settings import Settings
from auditrelay.telemetry.metrics import Metrics

_SILENT = (400, 403, 404, 405)
"""Answers that say: this key, or this proxy, may not ask that, or there is nothing to tell."""


_NODE_TROUBLE = (502, 503, 504)
"""Answers of one node, or of what stands before it, that another may not give."""


ADVICE = "check urls, index, pipeline, and the rights of the key or user"


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Cluster:
    """The nodes of one cluster; the one that answered last is asked first."""

    def __init__(self, name: str, settings: Settings, metrics: Metrics) -> None:
        self._urls = settings.urls
        self._node = 0
        self._peer = Peer(
            name,
            settings,
            base_url=settings.urls[0],
            headers=lambda: _identity(settings),
            secrets=[each for each in (settings.api_key, settings.password) if each is not None],
            metrics=metrics,
        )

    @property
    def urls(self) -> Sequence[str]:
        """The addresses of the nodes, as configured."""
        return self._urls

    @property
    def url(self) -> str:
        """The address of the node that is asked next."""
        return self._urls[self._node]

    def prefer(self, url: str) -> None:
        """Ask the node at *url* next."""
        self._node = self._urls.index(url)

    async def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Reply:
        """
        Ask the node that answered last; if it cannot be reached or is in trouble, the others.

        One that was reached and does not answer is not replaced at once: it may be at work. The
        next request goes to another. Raises Retryable if no node can be reached.
        """
        urls, node = self._urls, self._node
        for left in reversed(range(len(urls))):
            try:
                reply = await self._peer.request(
                    method,
                    path,
                    params=params,
                    headers=headers,
                    content=content,
                    base_url=urls[node],
                )
            except Retryable as error:
                self._node = node = (node + 1) % len(urls)
                if error.sent or not left:
                    raise
            else:
                if reply.status not in _NODE_TROUBLE:
                    return reply
                self._node = node = (node + 1) % len(urls)
                if not left:
                    return reply
        # The settings refuse an empty list; this tells the type checker so.
        raise AssertionError("there is at least one address")  # pragma: no cover

    async def request_json(
        self,
        method: str,
        path: str,
        document: Mapping[str, Any],
        params: Mapping[str, str] | None = None,
    ) -> Reply:
        """Ask as :meth:`request` does, with *document* as the body."""
        headers = {"Content-Type": "application/json"}
        return await self.request(method, path, params, headers, orjson.dumps(document))

    async def identify(self, url: str) -> dict[str, Any] | RelayError:
        """Return what the node at *url* says of itself, {} if the key may not know, or why not."""
        try:
            reply = await self._peer.request("GET", "/", base_url=url)
            if reply.status not in (200, 403):
                return fault_of(reply)
            about = reply.object() if reply.status == 200 else {}
            return unproven(reply, "a cluster's") if about is None else about
        except RelayError as error:
            return error

    async def version(self) -> Mapping[str, Any]:
        """Return the cluster's number and distribution; nothing if it may not be asked."""
        reply = await self.request("GET", "/")
        if reply.status not in (200, *_SILENT):
            raise fault_of(reply)
        version = (reply.object() or {}).get("version")
        return version if isinstance(version, dict) else _NOTHING

    async def is_opensearch(self) -> bool:
        """Ask whether the cluster is OpenSearch; one that may not be asked is taken not to be."""
        return (await self.version()).get("distribution") == "opensearch"

    async def put(self, path: str, document: Mapping[str, Any]) -> None:
        """Put *document*, such as a template, to *path*, in the place of one that is there."""
        reply = await self.request_json("PUT", path, document)
        if reply.status != 200:
            raise fault_of(reply)
        if (reply.object() or {}).get("acknowledged") is not True:
            raise unproven(reply, "a cluster's")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


def answer_of(reply: Reply, absent: Mapping[str, Any] = _NOTHING) -> Mapping[str, Any] | None:
    """
    Return the object that *reply* holds, or None if the cluster will not say.

    *absent* is what it would be for an index that does not exist. Raises what any other failure
    means for the batch.
    """
    if reply.status == 404 and isinstance((reply.object() or {}).get("error"), dict):
        return absent
    if reply.status in _SILENT:
        return None
    if reply.status != 200:
        raise fault_of(reply)
    answer = reply.object()
    if answer is None:
        raise unproven(reply, "a cluster's")
    return answer


def fault_of(reply: Reply) -> RelayError:
    """Return what a refused request means, in the cluster's own words."""
    error = (reply.object() or {}).get("error")
    said = f"{error.get('type')}: {error.get('reason')}" if isinstance(error, dict) else ""
    if reply.status == 400 and not said:
        return Refused(f"{reply.where} did not answer as a cluster does; {ADVICE}", status=400)
    return fault(reply, said=said)


def _identity(settings: Settings) -> dict[str, str]:
    """Return the header that shows who we are, if a key or a user is configured."""
    if settings.api_key is not None:
        key = settings.api_key.reveal()
        return {"Authorization": f"ApiKey {_base64(key) if ':' in key else key}"}
    if settings.password is not None:
        pair = _base64(f"{settings.username}:{settings.password.reveal()}")
        return {"Authorization": f"Basic {pair}"}
    return {}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
