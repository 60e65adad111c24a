"""Tokens over real sockets: taken once, in time, again after a 401, by one source at a time."""

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.support.authorized import CLIENT_CREDENTIALS, CLIENT_ID, CLIENT_SECRET, ask, rig
from tests.support.clock import FakeClock
from tests.support.logged import logged
from tests.support.proxy import proxy

from auditrelay.errors import Refused, Retryable
from auditrelay.http.grants import Granted
from auditrelay.http.tokens import SharedToken
from auditrelay.sandbox import faults
from auditrelay.sandbox.authorization import Client
from auditrelay.sandbox.messages import Request
from auditrelay.telemetry.scrubber import scrub


def answer(status: int, body: bytes = b"{}", headers: dict[str, str] | None = None) -> Any:
    return faults.answer(status, body, headers)


# --- when a token is taken


async def test_one_token_serves_many_requests(clock: FakeClock) -> None:
    async with rig(clock) as made:
        peer = made.source()
        for _ in range(5):
            assert (await ask(peer)).status == 200
        assert made.token_requests == 1
        assert made.api.tokens == made.server.granted * 5


async def test_twenty_requests_at_once_take_one_token(clock: FakeClock) -> None:
    async with rig(clock) as made:
        peer = made.source()
        await asyncio.gather(*(ask(peer) for _ in range(20)))
        assert made.token_requests == 1
        made.server.revoke()
        await asyncio.gather(*(ask(peer) for _ in range(20)))
        assert made.token_requests == 2


@pytest.mark.parametrize(("life", "holds"), [(3600, 3540), (300, 270), (10, 9)])
async def test_a_token_is_taken_again_before_it_ends(
    clock: FakeClock, life: float, holds: float
) -> None:
    """A minute before, or a tenth of its life."""
    async with rig(clock, life=life) as made:
        peer = made.source()
        await ask(peer)
        clock.advance(holds - 0.5)
        await ask(peer)
        assert made.token_requests == 1
        clock.advance(1)
        await ask(peer)
        assert made.token_requests == 2
        assert made.api.answered == {200: 3}


@pytest.mark.parametrize(
    "said",
    [None, "", "soon", -5, 0, True, [3600], {}, "-5", float("nan"), float("inf"), 10**400, "1e400"],
)
async def test_without_a_life_that_makes_sense_a_token_is_used_until_it_is_refused(
    clock: FakeClock, said: object
) -> None:
    async with rig(clock) as made:
        made.server.switches.expires_in = said
        peer = made.source()
        await ask(peer)
        clock.advance(timedelta(minutes=59, seconds=59))
        await ask(peer)
        assert made.token_requests == 1
        clock.advance(2)
        await ask(peer)
        assert made.token_requests == 2
        assert made.api.answered == {200: 3, 401: 1}


@pytest.mark.parametrize("said", ["3600", " 3600 ", 3600.0, "3.6e3"])
async def test_a_life_may_be_written_in_several_ways(clock: FakeClock, said: object) -> None:
    async with rig(clock) as made:
        made.server.switches.expires_in = said
        peer = made.source()
        await ask(peer)
        clock.advance(3541)
        await ask(peer)
        assert made.token_requests == 2
        assert made.api.answered == {200: 2}


@pytest.mark.parametrize("step", [timedelta(days=-400), timedelta(days=400)])
async def test_a_step_of_the_time_of_day_moves_no_end(clock: FakeClock, step: timedelta) -> None:
    async with rig(clock) as made:
        peer = made.source()
        await ask(peer)
        began = clock.seconds()
        made.server.clock = lambda: began
        clock.set(clock.now() + step)
        await ask(peer)
        assert made.token_requests == 1
        clock.advance(3541)
        await ask(peer)
        assert made.token_requests == 2


# --- after a 401


async def test_a_revoked_token_is_replaced_in_the_middle_of_a_walk(clock: FakeClock) -> None:
    async with rig(clock) as made:
        peer = made.source()
        for page in range(5):
            if page == 3:
                made.server.revoke()
            assert (await ask(peer)).status == 200
        first, second = made.server.granted
        assert made.api.tokens == [first] * 4 + [second] * 2


async def test_a_request_is_repeated_once(clock: FakeClock) -> None:
    async with rig(clock) as made:
        made.api.faults.add(answer(401, b'{"message": "no"}'), times=10)
        with pytest.raises(Refused, match="401 from GET"):
            await ask(made.source())
        assert (len(made.api.seen), made.token_requests) == (2, 2)


async def test_a_late_401_does_not_end_a_newer_token(clock: FakeClock) -> None:
    async with rig(clock) as made:
        peer = made.source()
        await ask(peer)
        made.server.revoke()
        arrived, may_answer = asyncio.Event(), asyncio.Event()

        async def hold(request: Request) -> None:
            if request.path == "/slow" and not arrived.is_set():
                arrived.set()
                await may_answer.wait()

        made.api.on_request = hold
        slow = asyncio.create_task(ask(peer, "/slow"))
        await arrived.wait()
        await ask(peer)
        may_answer.set()
        assert (await slow).status == 200
        assert made.token_requests == 2


async def test_a_403_takes_no_other_token(clock: FakeClock) -> None:
    async with rig(clock) as made:
        made.api.faults.add(answer(403))
        with pytest.raises(Refused, match="403 from GET"):
            await ask(made.source())
        assert (len(made.api.seen), made.token_requests) == (1, 1)


# --- the token endpoint has trouble


@pytest.mark.parametrize(
    "action",
    [
        answer(500),
        answer(503, b"<html>"),
        answer(429, b"{}", {"Retry-After": "7"}),
        answer(400, b'{"error": "temporarily_unavailable"}'),
        answer(400, b"<html>bad</html>"),
        answer(400, b'{"error": {"code": 7}}'),
        answer(400, b'{"error": ["invalid_client"]}'),
        answer(200, b'{"error": {"code": 7}}'),
        answer(408),
        faults.reset(),
        faults.huge(300_000),
        faults.gzip_bomb(50_000_000),
        answer(200, b"<html>Sign in</html>"),
        answer(200, b""),
        answer(200, b"[]"),
        answer(200, b"null"),
        answer(200, b"{}"),
        answer(200, b'{"access_token": null}'),
        answer(200, b'{"access_token": ""}'),
        answer(200, b'{"access_token": 7}'),
        answer(200, b'{"access_token": ["a"]}'),
        answer(200, b'{"access_token": "a\\r\\nx-evil: 1"}'),
        answer(200, b'{"access_token": "a b"}'),
        answer(200, b'{"access_token": "\xc3\xa9"}'),
        answer(200, b'{"access_token": "\\ud800"}'),
        answer(200, b'{"access_token": "' + b"a1" * 9000 + b'"}'),
        answer(204),
    ],
)
async def test_trouble_at_the_token_endpoint_is_tried_again(
    clock: FakeClock, waits: list[float], action: faults.Action
) -> None:
    """With a wait, and without holding the source."""
    async with rig(clock) as made:
        made.server.faults.add(action)
        assert (await ask(made.source())).status == 200
        assert made.token_requests == 2
        assert len(made.api.seen) == 1
        assert waits


async def test_trouble_that_lasts_is_an_error_of_its_own_words(clock: FakeClock) -> None:
    async with rig(clock) as made:
        body = b'{"error": "server_error", "error_description": "the database is away"}'
        made.server.faults.add(answer(503, body), times=10)
        with pytest.raises(Retryable) as caught:
            await ask(made.source())
        assert str(caught.value) == (
            f"503 from POST {made.server.token_url}: the database is away (server_error)"
        )
        assert caught.value.reason == "status_503"
        assert not made.api.seen


async def test_a_token_that_holds_is_used_while_no_other_one_can_be_had(
    clock: FakeClock, waits: list[float]
) -> None:
    async with rig(clock) as made:
        peer = made.source()
        await ask(peer)
        made.server.faults.add(answer(503), times=2)
        clock.advance(3550)
        await ask(peer)
        await ask(peer)
        assert made.token_requests == 2, "the next attempt is halfway to its end"
        clock.advance(26)
        await ask(peer)
        assert made.token_requests == 3
        clock.advance(13)
        await ask(peer)
        assert made.token_requests == 4
        assert made.api.answered == {200: 5}
        assert waits == []
        assert made.api.tokens[-1] == made.server.granted[-1] != made.api.tokens[0]


async def test_sources_wait_together_for_as_long_as_the_server_asks(clock: FakeClock) -> None:
    async with rig(clock) as made:
        made.server.faults.add(answer(429, b"{}", {"Retry-After": "30"}))
        began = clock.monotonic()
        await asyncio.gather(*(ask(made.source(name)) for name in ("one", "two", "three")))
        assert clock.monotonic() - began >= 30
        assert made.token_requests == 2


async def test_a_source_that_comes_later_waits_for_as_long_as_the_server_asked_another(
    clock: FakeClock,
) -> None:
    token = SharedToken(clock)
    asked = 0

    async def take() -> Granted:
        nonlocal asked
        asked += 1
        raise Retryable("too many", reason="status_429", retry_after=30)

    for passed, wait in ((0, 30), (0, 30), (20, 10)):
        clock.advance(passed)
        with pytest.raises(Retryable, match="too many") as caught:
            await token.fresh(object(), take)
        assert (caught.value.retry_after, asked) == (wait, 1)
    clock.advance(10)
    with pytest.raises(Retryable):
        await token.fresh(object(), take)
    assert asked == 2


async def test_a_token_endpoints_reply_is_bounded(clock: FakeClock) -> None:
    async with rig(clock) as made:
        made.server.faults.add(faults.huge(300_000), times=10)
        with pytest.raises(Retryable, match=r"is larger than 262,144 bytes") as caught:
            await ask(made.source())
        assert caught.value.reason == "bad_reply"


async def test_a_token_that_cannot_be_used_is_hidden_too(clock: FakeClock) -> None:
    token = "a1b2c3d4e5f6 g7h8"
    echo = json.dumps({"error": "invalid_request", "error_description": f"{token} is odd"})
    async with rig(clock) as made:
        made.server.faults.add(answer(200, json.dumps({"access_token": token}).encode()))
        made.server.faults.add(answer(400, echo.encode()))
        with pytest.raises(Refused, match=r"\*\*\* is odd \(invalid_request\)") as caught:
            await ask(made.source())
        assert "a1b2" not in str(caught.value)


# --- refusals


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (400, b'{"error": "invalid_grant"}', ": invalid_grant; check the client's settings"),
        (
            401,
            b'{"error": "invalid_client", "error_description": "AADSTS7000222: expired"}',
            ": AADSTS7000222: expired (invalid_client); check the client's id and secret",
        ),
        (400, b'{"error": "invalid_scope"}', "; the client may not ask for this scope"),
        (403, b'{"error": "access_denied"}', "; the client is not authorised for this API"),
        (200, b'{"error": "invalid_client"}', ": invalid_client; check the client's id and"),
        (401, b"<html>", "; the credentials are not accepted"),
        (401, b'{"status": {"message": "Authentication Failure"}}', ": Authentication Failure; "),
        (401, b'{"error": {"message": "no such client"}}', ": no such client; the credentials"),
        (404, b"", "; nothing exists at this address"),
        (302, b"", "redirects are never followed"),
        (422, b"{}", "; check that this is the address of a token endpoint"),
    ],
)
async def test_a_refusal_holds_the_source_with_the_servers_words(
    clock: FakeClock, status: int, body: bytes, words: str
) -> None:
    async with rig(clock) as made:
        made.server.faults.add(answer(status, body), times=5)
        with pytest.raises(Refused) as caught:
            await ask(made.source())
        assert str(caught.value).startswith(f"{status} from POST {made.server.token_url}")
        assert words in str(caught.value)
        assert (made.token_requests, len(made.api.seen)) == (1, 0)


async def test_what_is_refused_once_is_asked_once_for_all_that_wait(clock: FakeClock) -> None:
    async with rig(
        clock, secrets={"client_id": CLIENT_ID, "client_secret": "another-s3cret"}
    ) as made:
        peer = made.source()
        results = await asyncio.gather(*(ask(peer) for _ in range(20)), return_exceptions=True)
        assert {type(result) for result in results} == {Refused}
        assert made.token_requests == 1


async def test_a_wrong_secret_of_one_source_is_not_the_others(clock: FakeClock) -> None:
    async with rig(clock) as made:
        wrong, right = made.source("wrong", client_secret="another-s3cret"), made.source("right")
        refused, reply = await asyncio.gather(ask(wrong), ask(right), return_exceptions=True)
        assert isinstance(refused, Refused)
        assert not isinstance(reply, BaseException)


async def test_a_rotated_client_secret_is_read_again(clock: FakeClock, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("old-0123456789\n")
    secrets = {"client_id": CLIENT_ID, "client_secret": f"${{file:{file}}}"}
    async with rig(clock, secrets=secrets) as made:
        peer = made.source()
        with pytest.raises(Refused, match="invalid_client"):
            await ask(peer)
        assert made.token_requests == 1
        file.write_text(CLIENT_SECRET + "\n")
        assert (await ask(peer)).status == 200
        assert made.token_requests == 3


# --- sharing


async def test_sources_of_one_client_share_a_token_and_its_renewal(clock: FakeClock) -> None:
    async with rig(clock) as made:
        made.server.switches.ends_former = True  # as with some vendors
        one, two = made.source("one"), made.source("two")
        for _ in range(3):
            await asyncio.gather(ask(one), ask(two))
        assert made.token_requests == 1
        clock.advance(3599)
        await asyncio.gather(*(ask(peer) for peer in (one, two) for _ in range(5)))
        assert made.token_requests == 2
        assert set(made.api.answered) == {200}


@pytest.mark.parametrize(
    ("auth", "params"),
    [
        ({"scope": "read:other"}, {"scope": "read:other"}),
        ({"audience": "https://other"}, {"audience": "https://other"}),
        ({"params": {"account": "other"}}, {"account": "other"}),
    ],
)
async def test_sources_that_ask_for_something_else_have_their_own_token(
    clock: FakeClock, auth: Mapping[str, Any], params: dict[str, str]
) -> None:
    async with rig(clock) as made:
        await ask(made.source("one"))
        made.server.client.params = params
        await ask(made.source("two", auth=auth))
        assert made.token_requests == 2


async def test_a_source_that_is_cancelled_leaves_the_renewal_to_the_next(clock: FakeClock) -> None:
    async with rig(clock) as made:
        arrived = asyncio.Event()
        made.server.on_request = lambda _request: arrived.set()
        made.server.faults.add(faults.hang())
        one, two = made.source("one"), made.source("two")
        first = asyncio.create_task(ask(one))
        await arrived.wait()
        second = asyncio.create_task(ask(two))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).status == 200
        assert made.token_requests == 2
        await asyncio.gather(first, return_exceptions=True)


# --- what is known where


async def test_no_secret_and_no_token_is_in_the_log_the_metrics_or_an_error(
    clock: FakeClock,
) -> None:
    words = f"got client_secret={CLIENT_SECRET} for {CLIENT_ID}"
    echo = json.dumps({"error": "invalid_grant", "error_description": words}).encode()
    async with rig(clock) as made:
        with logged("debug") as lines:
            peer = made.source()
            await ask(peer)
            (token,) = made.server.granted
            made.api.faults.add(answer(500, b'{"message": "bad token %s"}' % token.encode()))
            await ask(peer)
            made.server.revoke()
            made.server.faults.add(answer(400, echo), times=3)
            with pytest.raises(Refused) as caught:
                await ask(peer)
            text = str(lines())
        texts = [text, str(caught.value), repr(caught.value), made.metrics.render()[0].decode()]
        texts.append(scrub(f"an echo of {token}"))
        texts += [repr(vars(peer)), repr(vars(peer._credentials)), repr(peer._credentials)]
        for secret in (token, CLIENT_SECRET, CLIENT_ID):
            assert not [each for each in texts if secret in each]
        assert "'/oauth/token'" in text, "the request is a line like any other"
        assert not any(seen.query for seen in (*made.server.seen, *made.api.seen))


async def test_each_host_gets_only_what_it_must(clock: FakeClock) -> None:
    async with rig(clock) as made:
        bodies: list[bytes] = []
        made.api.on_request = lambda request: bodies.append(request.body)
        await ask(made.source())
        (request,) = made.server.seen
        assert set(request.headers) == {
            "host",
            "accept",
            "accept-encoding",
            "user-agent",
            "content-type",
            "content-length",
        }
        assert bodies == [b""]
        assert CLIENT_SECRET not in str(made.api.seen)


async def test_a_token_request_goes_through_the_sources_proxy(clock: FakeClock) -> None:
    async with proxy() as address, rig(clock) as made:
        assert (await ask(made.source(proxy=address))).status == 200
        peer = made.source("other", proxy="http://127.0.0.1:9", auth={"scope": "x"})
        with pytest.raises(Retryable) as caught:
            await ask(peer)
        assert "no connection for POST" in str(caught.value)


async def test_the_time_of_the_token_endpoint_is_not_the_vendors(clock: FakeClock) -> None:
    async with rig(clock) as made:
        made.server.date = lambda: clock.seconds() + 86400
        await ask(made.source())
        assert clock.confirmed.now("acme") == clock.now()


async def test_a_hanging_token_endpoint_has_the_sources_timeout(clock: FakeClock) -> None:
    async with rig(clock) as made:
        made.server.faults.add(faults.hang())
        assert (await ask(made.source(timeout="300ms"))).status == 200
        assert made.token_requests == 2


async def test_a_token_endpoint_without_tls_is_refused_at_load(clock: FakeClock) -> None:
    async with rig(clock) as made:
        with pytest.raises(ValueError, match="token_url: plain http would send the credentials"):
            made.source(token_url="http://login.acme.example/oauth/token")


async def test_a_refresh_token_that_rotates_is_reported_once(clock: FakeClock) -> None:
    auth = {**CLIENT_CREDENTIALS, "grant": "refresh_token", "refresh_token": "refresh_token"}
    token = "refresh-0123456789"
    client = Client("refresh_token", CLIENT_ID, CLIENT_SECRET, refresh_token=token)
    secrets = {
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "refresh_token": token,
    }
    async with rig(clock, auth, client, secrets=secrets) as made:
        made.server.switches.rotates = True
        peer = made.source()
        with capture_logs() as logs:
            for _ in range(2):
                assert (await ask(peer)).status == 200
                made.server.revoke()
        (line,) = [line for line in logs if line["event"] == "refresh_token_rotates"]
        assert line == {"event": "refresh_token_rotates", "log_level": "warning", "peer": "acme"}
        assert scrub(f"it sent {made.server.refresh_tokens[-1]}") == "it sent ***"


async def test_a_refresh_token_that_comes_unasked_is_hidden_and_no_matter(clock: FakeClock) -> None:
    async with rig(clock) as made:
        made.server.switches.rotates = True
        with capture_logs() as logs:
            assert (await ask(made.source())).status == 200
        assert not [line for line in logs if line["log_level"] == "warning"]
        assert scrub(f"it sent {made.server.refresh_tokens[-1]}") == "it sent ***"
