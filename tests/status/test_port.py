"""The status port: where it listens, and what its paths answer."""

import socket

import pytest
from structlog.testing import capture_logs
from tests.status.idle import PATHS, TOKEN, Idle, client

from auditrelay.errors import ConfigError
from auditrelay.settings.secrets import Secret
from auditrelay.status.port import StatusPort, Unready


async def test_listening_elsewhere_without_a_token_is_a_warning(instance: Idle) -> None:
    for listen, token, warned in (
        ("0.0.0.0:0", None, True),
        ("0.0.0.0:0", Secret(TOKEN), False),
        ("127.0.0.1:0", None, False),
        ("localhost:0", None, False),
    ):
        with capture_logs() as logs:
            async with client(instance, listen, token):
                pass
        assert [line for line in logs if line["event"] == "status_port_open"] == [
            {"event": "status_port_open", "log_level": "warning", "listen": listen}
        ] * warned


async def test_it_only_shows_and_never_does(instance: Idle) -> None:
    async with client(instance) as asking:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            for path in PATHS:
                assert (await asking.request(method, path)).status_code == 405


async def test_health_is_whether_a_loop_is_stuck(instance: Idle) -> None:
    async with client(instance) as asking:
        answer = await asking.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"ok": True, "stuck": []})
        instance.loops_stuck = ["voice"]
        answer = await asking.get("/healthz")
        assert (answer.status_code, answer.json()) == (503, {"ok": False, "stuck": ["voice"]})
        assert (await asking.get("/readyz")).status_code == 200


async def test_readiness_comes_with_the_reasons_that_are_in_the_way(instance: Idle) -> None:
    async with client(instance) as asking:
        answer = await asking.get("/readyz")
        assert (answer.status_code, answer.json()) == (200, {"ready": True, "reasons": []})
        instance.reasons = [Unready("voice", "timeout", "voice said this and that")]
        answer = await asking.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"ready": False, "reasons": ["voice said this and that"]}
        assert (await asking.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    ("listen", "token", "given", "shown"),
    [
        ("127.0.0.1:0", None, None, "voice said this and that"),
        ("127.0.0.1:0", TOKEN, None, "voice: timeout"),
        ("127.0.0.1:0", TOKEN, TOKEN[:-1], "voice: timeout"),
        ("127.0.0.1:0", TOKEN, TOKEN, "voice said this and that"),
        ("0.0.0.0:0", None, None, "voice: timeout"),
        ("0.0.0.0:0", None, TOKEN, "voice: timeout"),
        ("0.0.0.0:0", TOKEN, None, "voice: timeout"),
        ("0.0.0.0:0", TOKEN, TOKEN, "voice said this and that"),
    ],
)
async def test_what_a_peer_has_said_is_shown_to_those_alone_who_may_see_the_page(
    instance: Idle, listen: str, token: str | None, given: str | None, shown: str
) -> None:
    instance.reasons = [Unready("voice", "timeout", "voice said this and that")]
    headers = {} if given is None else {"Authorization": f"Bearer {given}"}
    async with client(instance, listen, None if token is None else Secret(token)) as asking:
        answer = await asking.get("/readyz", headers=headers)
        page = await asking.get("/", headers=headers)
    assert answer.json() == {"ready": False, "reasons": [shown]}
    assert (page.status_code == 200) == (shown == "voice said this and that")


async def test_a_port_that_is_taken_is_an_error_that_names_it(instance: Idle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot listen on {listen}: Address already in use"):
            StatusPort(listen, instance)
