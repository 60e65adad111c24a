"""Sources of described vendors with all kinds of credentials, an API, and its token endpoint."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.support.clock import FakeClock
from tests.support.described import class_of

from auditrelay.descriptions.model import Feed
from auditrelay.descriptions.settings import DescribedSettings
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, check
from auditrelay.sandbox.authorization import AuthorizationServer, Client
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.server import Double
from auditrelay.settings.secrets import Resolved, Secret
from auditrelay.sources.described.auth import credentials
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrubber

CLIENT_ID = "client-id-0123456789"
CLIENT_SECRET = "client+secret/0123456789%&="

CLIENT_CREDENTIALS: Mapping[str, Any] = {
    "kind": "oauth2",
    "grant": "client_credentials",
    "token_url": "https://login.acme.example/oauth/token",
    "client_id": "client_id",
    "client_secret": "client_secret",
}


class Api(Double):
    """Answers requests with a token that *server* accepts; others get 401."""

    def __init__(self, server: AuthorizationServer) -> None:
        super().__init__()
        self.server = server
        self.tokens: list[str] = []
        """The token of each request."""

    def respond(self, request: Request) -> Response:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        self.tokens.append(token)
        if scheme != "Bearer" or not self.server.accepts(token):
            return json_response(401, {"message": "the token is not valid"})
        return json_response(200, {"data": []})


def feed(auth: Mapping[str, Any], settings: Mapping[str, Any] | None = None) -> Feed:
    """Return a feed with *auth*; its secrets are those that it names."""
    names = [auth.get(key) for key in ("secret", "integration_key", "secret_key", *_SECRETS)]
    names += auth.get("headers", {}).values()
    parts = (str(auth.get(key, "")).partition(":") for key in ("user", "password"))
    names += [name for kind, _, name in parts if kind == "secret"]
    return Feed.model_validate(
        {
            "vendor": "acme",
            "product": "Acme",
            "name": None,
            "docs": ("https://acme.example",),
            "needs": (),
            "leaves_out": (),
            "unsure": (),
            "settings": settings or {},
            "secrets": {name: {"about": "A secret."} for name in names if name},
            "auth": auth,
            "limits": {},
            "errors": {},
            "request": {"base_url": "https://api.acme.example", "path": "/logs"},
            "time": {"start": "query:from"},
            "pages": {"kind": "none"},
            "records": {"at": "data", "id": "id", "time": "time"},
            "event": {"action": "action"},
            "actions": {},
            "defaults": {},
        }
    )


_SECRETS = ("client_id", "client_secret", "refresh_token", "key")


def settings_of(
    described: Feed, table: Mapping[str, Any], *, learn: bool = True
) -> DescribedSettings:
    """Return the settings of a source of the feed *described*, with references resolved."""
    resolved = {
        key: Resolved(value) if isinstance(value, str) and "${" in value else value
        for key, value in table.items()
    }
    made = class_of(described).model_validate({"type": "acme", **resolved})
    if learn:
        values = (getattr(made, name) for name in type(made).model_fields)
        scrubber.learn(*(value for value in values if isinstance(value, Secret)))
    return made


class Rig:
    """An authorisation server, an API that believes it, and sources that read that."""

    def __init__(
        self,
        server: AuthorizationServer,
        auth: Mapping[str, Any],
        secrets: Mapping[str, Any],
        settings: Mapping[str, Any],
        clock: FakeClock,
        stack: AsyncExitStack,
    ) -> None:
        self.server = server
        self.api = Api(server)
        self.clock = clock
        self.metrics = Metrics()
        self._auth, self._secrets, self._settings = auth, secrets, settings
        self._stack = stack

    def source(
        self, name: str = "acme", *, auth: Mapping[str, Any] | None = None, **table: Any
    ) -> Peer:
        """Return the peer of the source *name*."""
        settings = settings_of(
            feed({**self._auth, **(auth or {})}, self._settings),
            {
                "base_url": self.api.url,
                "token_url": self.server.token_url,
                **self._secrets,
                **table,
            },
        )
        peer = Peer(
            name,
            settings,
            base_url=settings.base_url,
            credentials=credentials(name, settings, self.metrics, self.clock),
            metrics=self.metrics,
            clock=self.clock,
        )
        self._stack.push_async_callback(peer.aclose)
        return peer

    @property
    def token_requests(self) -> int:
        """How many requests the token endpoint had."""
        return len(self.server.seen)


@asynccontextmanager
async def rig(
    clock: FakeClock,
    auth: Mapping[str, Any] = CLIENT_CREDENTIALS,
    client: Client | None = None,
    *,
    secrets: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    life: float = 3600,
) -> AsyncIterator[Rig]:
    """Start both servers; *client* is what the authorisation server expects."""
    client = client or Client(id=CLIENT_ID, secret=CLIENT_SECRET)
    server = AuthorizationServer(client, life=life, clock=clock.seconds)
    given = {"client_id": client.id, "client_secret": client.secret} if secrets is None else secrets
    async with AsyncExitStack() as stack:
        made = Rig(server, auth, given, settings or {}, clock, stack)
        await stack.enter_async_context(server)
        await stack.enter_async_context(made.api)
        yield made


async def ask(peer: Peer, path: str = "/logs") -> Reply:
    """Read one page, as a source does."""
    return await peer.get(path, {}, check)
