"""Duo's signature: against what Duo's own client makes of the same requests, and over a socket."""

import base64
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.support.authorized import feed, settings_of
from tests.support.clock import NOON, FakeClock

from auditrelay.http.peer import Peer
from auditrelay.http.replies import check
from auditrelay.sandbox.authorization import duo_problem
from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.server import Double
from auditrelay.sources.described.auth import credentials
from auditrelay.sources.described.duo import canonical, canonical_params
from auditrelay.telemetry.metrics import Metrics

INTEGRATION_KEY = "DIWJ8X6AEYOR5OMC6TQ1"
SECRET_KEY = "Zh5eGmUq9zpfQnyUIu5OL9iWoMMv5ZNmk3zLJ4Ep"
AUTH = {"kind": "duo", "integration_key": "ikey", "secret_key": "skey"}
ADDRESS = "https://API-0123abcd.duosecurity.com/admin/v2/logs/authentication"

LOGS = {
    "mintime": "1767182400000",
    "maxtime": "1767268800000",
    "limit": "1000",
    "sort": "ts:asc",
    "next_offset": "1532951895000,af0ba235-0b33-23c8-bc23-a31aa0231de8",
}


def signature(request: httpx.Request) -> str:
    settings = settings_of(feed(AUTH), {"ikey": INTEGRATION_KEY, "skey": SECRET_KEY})
    made = credentials("duo", settings, Metrics(), FakeClock(NOON)).headers(request)
    assert made["date"] == "Thu, 01 Jan 2026 12:00:00 -0000"
    scheme, _, value = made["authorization"].partition(" ")
    user, _, digest = base64.b64decode(value).decode().partition(":")
    assert (scheme, user) == ("Basic", INTEGRATION_KEY)
    return digest


@pytest.mark.parametrize(
    ("params", "digest"),
    [
        (
            [],
            (
                "68d1e7f3c103784889ce3f41c4145d277e5319a760d46deba7b3ce77b3d7c9d6"
                "fd866060adcfe29444a128d75c64af4876ad9cbee884791960b463e16bb52cdc"
            ),
        ),
        (
            list(LOGS.items()),
            (
                "1e3c7460743b8ca8fe8d19daf497db3dd49b59858c10774815bcad6403bfa23b"
                "1bdd9c904b2c73d0e5acf9d752b90fad5647a388c2a2258b4bde0239e761347b"
            ),
        ),
        (
            [
                ("a b", "2"),
                ("a b", "1"),
                ("a b", "~*+/"),
                ("a", "\u00e9 \u00fc"),
                ("A", ""),
                ("a-b", "x=y&z"),
            ],
            (
                "b6897190ce1d3a40b448f88794601d20fe0a50fd50b9d1b6dbbf122f5b307de1"
                "1f53336ba448b068ea147d86eeed65a06391208cc303c36ae58f40dd365d76bf"
            ),
        ),
    ],
)
def test_a_get_is_signed_as_duos_client_does(params: Any, digest: str) -> None:
    """Made with version 5.6.1 of it."""
    assert signature(httpx.Request("GET", ADDRESS, params=params)) == digest


def test_a_post_is_signed_with_its_body_and_duos_headers() -> None:
    request = httpx.Request(
        "POST",
        "https://api-0123abcd.duosecurity.com/admin/v1/x",
        content=b'{"a":1}',
        headers={"X-Duo-B": "2", "x-duo-A": "1", "accept": "application/json"},
    )
    assert signature(request) == (
        "1ebb8ff97b4c9a4eb57011f28eee4df0b35b0ef1aaf7dadbebb66b3c0237918d"
        "8ed3ed163c498e6c3c973cf941d8a847d92f4ee0b7e488fddf835cf5e4b1d40d"
    )


# From the tests of Duo's client, at the commit that the module names.


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({}, ""),
        ({"realname": "First Last"}, "realname=First%20Last"),
        ({"username": "root", "realname": "First Last"}, "realname=First%20Last&username=root"),
        ({"foo_bar": "2", "foo": "1"}, "foo=1&foo_bar=2"),
        (
            {"punctuation": "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "whitespace": "\t\n\x0b\x0c\r "},
            (
                "punctuation=%21%22%23%24%25%26%27%28%29%2A%2B%2C-.%2F%3A%3B%3C%3D%3E%3F%40%5B%5C%5D%5E"
                "_%60%7B%7C%7D~&whitespace=%09%0A%0B%0C%0D%20"
            ),
        ),
        (
            {"bar": "\u2815\uaaa3", "\u469a": "\u0f45"},
            "%E4%9A%9A=%E0%BD%85&bar=%E2%A0%95%EA%AA%A3",
        ),
    ],
)
def test_parameters_are_canonical(params: dict[str, str], text: str) -> None:
    query = httpx.Request("GET", ADDRESS, params=params).url.query.decode()
    assert canonical_params(query) == text


def test_the_canonical_text_of_a_request_with_a_body() -> None:
    body = b'{"alpha":["a","b","c","d"],"data":"abc123","info":{"another":2,"test":1}}'
    request = httpx.Request(
        "POST",
        "https://foO.BaR52.cOm/Foo/BaR2/qux",
        content=body,
        headers={"x-duo-A": "header_value_1", "X-Duo-B": "header_value_2"},
    )
    lines = canonical(request, "Tue, 17 Nov 2020 14:12:00").split("\n")
    assert lines[:5] == ["Tue, 17 Nov 2020 14:12:00", "POST", "foo.bar52.com", "/Foo/BaR2/qux", ""]
    assert lines[6] == (
        "60be11a30e0756f2ee2afdce1db849b987dcf86c1133394bd7bbbc9877920330"
        "c4d78aceacbb377ab8cbd9a8efe6a410fed4047376635ac71226ab46ca10d2b1"
    )


class Duo(Double):
    """Refuses what is not signed."""

    secret_key = SECRET_KEY

    def respond(self, request: Request) -> Response:
        problem = duo_problem(request, INTEGRATION_KEY, self.secret_key, self.clock())
        if problem is not None:
            return json_response(401, {"stat": "FAIL", "message": problem})
        return json_response(200, {"stat": "OK"})


async def test_what_is_sent_is_what_was_signed(clock: FakeClock, tmp_path: Path) -> None:
    file = tmp_path / "skey"
    file.write_text(SECRET_KEY)
    async with Duo(clock=clock.seconds) as duo:
        table = {"ikey": INTEGRATION_KEY, "skey": f"${{file:{file}}}", "base_url": duo.url}
        settings = settings_of(feed(AUTH), table)
        identity = credentials("duo", settings, Metrics(), clock)
        peer = Peer(
            "duo",
            settings,
            base_url=duo.url,
            credentials=identity,
            metrics=Metrics(),
            clock=clock,
        )
        for params in ({}, LOGS, {"a b": "~*+/ \u00e9", "A": "", "x": "a%2Fb&c=d"}):
            assert (await peer.get("/admin/v2/logs", params, check)).status == 200
        assert duo.seen[0].headers["date"] == formatdate(clock.seconds())
        duo.secret_key = "another" + SECRET_KEY
        file.write_text(duo.secret_key)
        assert (await peer.get("/admin/v2/logs", LOGS, check)).status == 200
        assert [seen.status for seen in duo.seen] == [200, 200, 200, 401, 200]
        await peer.aclose()
