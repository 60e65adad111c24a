"""The status port: where it listens, and what its paths answer."""

import socket

import pytest
from structlog.testing import capture_logs
from tests.status.idle import PATHS, TOKEN, Idle, client

from auditrelay.errors import ConfigError
from auditrelay.settings.secrets import Secret
from auditrelay.status.port import StatusPort


async def test_listening_elsewhere_without_a_token_is_a_warning(instance: Idle) -> None:
    with capture_logs() as logs:
        async with client(instance, "0.0.0.0:0") as asking:
            answer = await asking.get("/", headers={"Host": "relay.example:9464"})
            assert answer.status_code == 200
    assert [line for line in logs if line["event"] == "status_port_open"] == [
        {"event": "status_port_open", "log_level": "warning", "listen": "0.0.0.0:0"}
    ]
    for listen, token in (
        ("0.0.0.0:0", Secret(TOKEN)),
        ("127.0.0.1:0", None),
        ("localhost:0", None),
    ):
        with capture_logs() as logs:
            async with client(instance, listen, token):
                pass
        assert not any(line["event"] == "status_port_open" for line in logs)


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
        instance.reasons = ["voice has not been polled"]
        answer = await asking.get("/readyz")
        assert answer.status_code == 503
        assert answer.json() == {"ready": False, "reasons": ["voice has not been polled"]}
        assert (await asking.get("/healthz")).status_code == 200


async def test_a_port_that_is_taken_is_an_error_that_names_it(instance: Idle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"cannot listen on {listen}: Address already in use"):
            StatusPort(listen, instance)
