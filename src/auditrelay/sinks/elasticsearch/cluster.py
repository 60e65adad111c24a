"""The nodes of one cluster, with failover to the next one."""

import base64
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import orjson

from auditrelay.clock import Clock
from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.sinks._requests import error_for, unexpected_body
from auditrelay.sinks.elasticsearch.settings import Settings
from auditrelay.telemetry.metrics import Metrics

_NOT_ANSWERED = (400, 403, 404, 405)
"""Statuses of a request that the key or a proxy does not permit, or that does not exist there."""

_NODE_UNAVAILABLE = (502, 503, 504)
"""Statuses of one node, or of a proxy before it, that another node may not return."""

_NOTHING_DONE = (429, 503)
"""Statuses with which a cluster turns down a request that it has not begun to work on."""

ADVICE = "check urls, index, pipeline, and the privileges of the key or user"

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


class Cluster:
    """The nodes of one cluster; the one that answered last gets the next request."""

    def __init__(self, name: str, settings: Settings, metrics: Metrics, clock: Clock) -> None:
        self._urls = settings.urls
        self._node = 0
        self._peer = Peer(
            name,
            settings,
            base_url=settings.urls[0],
            credentials=KeyCredentials(
                lambda: _authorization(settings),
                [each for each in (settings.api_key, settings.password) if each is not None],
            ),
            metrics=metrics,
            clock=clock,
        )

    @property
    def urls(self) -> Sequence[str]:
        """The addresses of the nodes, as configured."""
        return self._urls

    @property
    def url(self) -> str:
        """The address of the node that gets the next request."""
        return self._urls[self._node]

    def prefer(self, url: str) -> None:
        """Send the next request to the node at *url*."""
        self._node = self._urls.index(url)

    async def bulk(
        self, params: Mapping[str, str], headers: Mapping[str, str], content: bytes
    ) -> Reply:
        """Send events to ``_bulk``, as :meth:`request` does."""
        return await self.request("POST", "/_bulk", params, headers, content, has_events=True)

    async def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        *,
        has_events: bool = False,
    ) -> Reply:
        """
        Send a request to the node that answered last; if it is unavailable, to the others.

        A node that got the request and does not answer is not replaced at once: it may be working
        on it. The next request goes to another. Raises Retryable if no node can be reached.
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
                    has_events=has_events,
                )
            except Retryable as error:
                self._node = node = (node + 1) % len(urls)
                if error.sent or not left:
                    raise
            else:
                if reply.status not in _NODE_UNAVAILABLE:
                    return reply
                self._node = node = (node + 1) % len(urls)
                if not left:
                    return reply
        # The settings refuse an empty list; this line is for the type checker.
        raise AssertionError("there is at least one address")  # pragma: no cover

    async def request_json(
        self,
        method: str,
        path: str,
        document: Mapping[str, Any],
        params: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send a request as :meth:`request` does, with *document* as the body."""
        headers = {"Content-Type": "application/json"}
        return await self.request(method, path, params, headers, orjson.dumps(document))

    async def identify(self, url: str) -> dict[str, Any] | RelayError:
        """Return what the node at *url* reports of itself, {} if not permitted, or the error."""
        try:
            reply = await self._peer.request("GET", "/", base_url=url)
            if reply.status not in (200, 403):
                return cluster_error(reply)
            about = reply.object() if reply.status == 200 else {}
            return unexpected_body(reply, "a cluster") if about is None else about
        except RelayError as error:
            return error

    async def version(self) -> Mapping[str, Any]:
        """Return version number and distribution of the cluster; empty if not permitted."""
        reply = await self.request("GET", "/")
        if reply.status not in (200, *_NOT_ANSWERED):
            raise cluster_error(reply)
        version = (reply.object() or {}).get("version")
        return version if isinstance(version, dict) else _NOTHING

    async def is_opensearch(self) -> bool:
        """Return whether the cluster is OpenSearch; False if it may not be asked."""
        return (await self.version()).get("distribution") == "opensearch"

    async def put(self, path: str, document: Mapping[str, Any]) -> None:
        """Put *document*, such as a template, to *path*; it replaces an existing one."""
        reply = await self.request_json("PUT", path, document)
        if reply.status != 200:
            raise cluster_error(reply)
        if (reply.object() or {}).get("acknowledged") is not True:
            raise unexpected_body(reply, "a cluster")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._peer.aclose()


def answer_of(reply: Reply, absent: Mapping[str, Any] = _NOTHING) -> Mapping[str, Any] | None:
    """
    Return the object in *reply*, or None if the key is not permitted to make the request.

    *absent* is the object for an index that does not exist. Raises the error that any other failure
    means for the batch.
    """
    if reply.status == 404 and isinstance((reply.object() or {}).get("error"), dict):
        return absent
    if reply.status in _NOT_ANSWERED:
        return None
    if reply.status != 200:
        raise cluster_error(reply)
    answer = reply.object()
    if answer is None:
        raise unexpected_body(reply, "a cluster")
    return answer


def cluster_error(reply: Reply) -> RelayError:
    """Return the error that a refused request means, with the cluster's message."""
    error = (reply.object() or {}).get("error")
    message = f"{error.get('type')}: {error.get('reason')}" if isinstance(error, dict) else ""
    if reply.status == 400 and not message:
        text = f"{reply.where} did not answer like a cluster; {ADVICE}"
        return Refused(text, status=400, of_request=True)
    failure = error_for(reply, message=message)
    if isinstance(failure, Retryable) and message and reply.status in _NOTHING_DONE:
        failure.sent = False  # in the cluster's own words; a gateway's would prove nothing
    return failure


def _authorization(settings: Settings) -> dict[str, str]:
    """Return the authorization header, if a key or a user is configured."""
    if settings.api_key is not None:
        key = settings.api_key.reveal()
        return {"Authorization": f"ApiKey {_base64(key) if ':' in key else key}"}
    if settings.password is not None:
        pair = _base64(f"{settings.username}:{settings.password.reveal()}")
        return {"Authorization": f"Basic {pair}"}
    return {}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
