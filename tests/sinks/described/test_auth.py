"""What identifies a described sink: keys, names and passwords, tokens, and a secret address."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.sinks.described.receivers import sink_of
from tests.support.clock import FakeClock
from tests.support.rigs import NOON, made_of

from auditrelay.errors import Refused
from auditrelay.sandbox.authorization import AuthorizationServer, Client
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.receivers.sumo import Sumo
from auditrelay.sandbox.server import Double
from auditrelay.settings.secrets import Resolved, Secret, SecretUrl
from auditrelay.sinks import Item, Sink, Verdict
from auditrelay.telemetry.metrics import Metrics

Items = Callable[[Sink, int], list[Item]]

SECRETS = """
[secrets.token]
about = "The token."

[secrets.name]
about = "A name."
default = ""
"""


class Globex(Double):
    """Takes what *accepts* accepts, and remembers the headers."""

    def __init__(self, accepts: Callable[[Request], bool] = lambda _: True) -> None:
        super().__init__()
        self.accepts = accepts
        self.headers: list[dict[str, str]] = []

    def respond(self, request: Request) -> Response:
        self.headers.append(request.headers)
        return Response(200, b'{"ok": true}') if self.accepts(request) else Response(401)


@pytest.mark.parametrize(
    ("auth", "name", "headers"),
    [
        ('kind = "header"\nsecret = "token"', None, {"authorization": "t-12345678"}),
        (
            'kind = "header"\nsecret = "token"\nprefix = "Api-Token "\nheader = "X-Key"',
            None,
            {"x-key": "Api-Token t-12345678"},
        ),
        (
            'kind = "headers"\nheaders = { X-A = "token", X-B = "name" }',
            "n-1",
            {"x-a": "t-12345678", "x-b": "n-1"},
        ),
        (
            'kind = "headers"\nheaders = { X-A = "token", X-B = "name" }',
            None,
            {"x-a": "t-12345678", "x-b": None},
        ),
        (
            'kind = "basic"\nuser = "secret:name"\npassword = "secret:token"',
            "n-1",
            {"authorization": "Basic bi0xOnQtMTIzNDU2Nzg="},
        ),
    ],
)
async def test_secrets_go_into_headers(
    auth: str, name: str | None, headers: dict[str, Any], tmp_path: Path, items: Items
) -> None:
    secrets = SECRETS if "name" in auth else SECRETS.partition("[secrets.name]")[0]
    keys: dict[str, Any] = {"token": "t-12345678", **({"name": name} if name else {})}
    async with Globex() as double:
        sink = sink_of(
            tmp_path, {"url": double.url, **keys}, auth=f"[auth]\n{auth}\n", secrets=secrets
        )
        await sink.send(items(sink, 1))
        await sink.close()
        for header, value in headers.items():
            assert double.headers[0].get(header) == value


OAUTH2 = """
[auth]
kind = "oauth2"
grant = "client_credentials"
token_url = "https://login.globex.example/t"
client_id = "id"
client_secret = "token"
scope = "write:{site}"
"""


async def test_a_token_is_taken_and_renewed(tmp_path: Path, items: Items) -> None:
    params = {"scope": "write:eu.globex.example"}
    client = Client("client_credentials", id="i-1", secret="s-12345678", params=params)
    secrets = SECRETS.partition("[secrets.name]")[0] + '[secrets.id]\nabout = "The id."\n'
    async with (
        AuthorizationServer(client) as server,
        Globex(lambda it: server.accepts(it.headers["authorization"][7:])) as double,
    ):
        keys = {"url": double.url, "id": "i-1", "token": "s-12345678"}
        sink = sink_of(
            tmp_path, {**keys, "token_url": server.token_url}, auth=OAUTH2, secrets=secrets
        )
        assert await sink.send(items(sink, 1)) == Verdict()
        server.revoke()
        assert await sink.send(items(sink, 2)) == Verdict()
        assert server.requests == 2
        wrong = sink_of(
            tmp_path,
            {**keys, "token": "s-87654321", "token_url": server.token_url, "id": "i-2"},
            auth=OAUTH2,
            secrets=secrets,
        )
        with pytest.raises(Refused, match="check the client's id and secret"):
            await wrong.send(items(wrong, 1))
        for each in (sink, wrong):
            await each.close()


async def test_a_secret_address_is_read_again_when_it_was_rotated(
    tmp_path: Path, items: Items
) -> None:
    file = tmp_path / "url"
    async with Sumo(clock=lambda: NOON) as double:
        file.write_text(f"{double.secret}\n")
        keys = {"type": "sumo", "url": SecretUrl(Resolved(f"${{file:{file}}}"))}
        _, sink = made_of("sumo", keys, Metrics(), FakeClock())
        assert await sink.send(items(sink, 1)) == Verdict()
        double.rotate("another-secret-part-of-it")
        file.write_text(f"{double.secret}\n")
        assert await sink.send(items(sink, 2)) == Verdict()
        assert double.answered[401] == 1
        double.rotate("a-third-secret-part")
        with pytest.raises(Refused, match=r"POST http://127.0.0.1:\d+/\*\*\*") as caught:
            await sink.send(items(sink, 3))
        assert "another-secret" not in str(caught.value)
        await sink.close()


@pytest.mark.parametrize(
    ("value", "hidden"),
    [
        (
            "https://e.example/receiver/v1/http/ZaVnC4dhaV2==",
            ("https://e.example/receiver/v1/http/ZaVnC4dhaV2==", "ZaVnC4dhaV2=="),
        ),
        ("https://e.example/short/x", ("https://e.example/short/x",)),
    ],
)
def test_the_parts_of_a_secret_address_are_hidden(value: str, hidden: tuple[str, ...]) -> None:
    secret = SecretUrl(value)
    assert secret.hidden == hidden
    assert secret.origin == "https://e.example"
    assert isinstance(secret, Secret)
    assert "e.example" not in repr(secret)
