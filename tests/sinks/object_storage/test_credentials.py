"""Where access keys come from; temporary ones are renewed in time, once, and in one place."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from tests.sinks.object_storage.conftest import Make
from tests.support.clock import FakeClock

from auditrelay.errors import Refused, Retryable
from auditrelay.sandbox import faults
from auditrelay.sandbox.siems.object_storage import KEY_ID, SECRET_KEY, Bucket, coded
from auditrelay.sandbox.siems.object_storage.identity import (
    EXTERNAL_ID,
    POD_PATH,
    POD_TOKEN,
    ROLE,
    WEB_IDENTITY,
)
from auditrelay.sandbox.siems.object_storage.signatures import Key
from auditrelay.sinks import Item, Sink
from auditrelay.telemetry.scrubber import scrub

Items = Callable[[Sink, int], list[Item]]
SECRET = "x9/K7MDENG+bPxRfiCYofTheEnvironment"
NONE = {"access_key_id": None, "secret_access_key": None}


@pytest.fixture
def environ(bucket: Bucket) -> dict[str, str]:
    """An environment in which the machine's metadata, and STS, are those of the double."""
    return {
        "AWS_EC2_METADATA_SERVICE_ENDPOINT": bucket.url,
        "AWS_ENDPOINT_URL_STS": bucket.url,
    }


@pytest.fixture
def web(tmp_path: Path) -> dict[str, str]:
    token = tmp_path / "token"
    token.write_text(f"{WEB_IDENTITY}\n")
    return {"AWS_WEB_IDENTITY_TOKEN_FILE": str(token), "AWS_ROLE_ARN": ROLE}


def pod(bucket: Bucket) -> dict[str, str]:
    return {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{bucket.url}{POD_PATH}",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": POD_TOKEN,
    }


async def test_the_environment_has_the_keys(
    bucket: Bucket, make: Make, items: Items, environ: dict[str, str]
) -> None:
    bucket.keys["AKIAENVIRONMENT"] = Key(SECRET, "with-a-token")
    sink = make(
        **NONE,
        environ={
            **environ,
            "AWS_ACCESS_KEY_ID": "AKIAENVIRONMENT",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_SESSION_TOKEN": "with-a-token",
        },
    )
    await sink.send(items(sink, 1))
    assert len(bucket.objects) == 1
    assert SECRET not in scrub(f"the key {SECRET} was shown")


@pytest.mark.parametrize("origin", ["web", "pod", "pod, by a file", "machine"])
async def test_each_origin_gives_temporary_keys_that_are_renewed_before_they_end(
    bucket: Bucket,
    make: Make,
    items: Items,
    environ: dict[str, str],
    web: dict[str, str],
    clock: FakeClock,
    tmp_path: Path,
    origin: str,
) -> None:
    kind = origin.partition(",")[0]
    if kind == "web":
        environ |= web
    if kind == "pod":
        environ |= pod(bucket)
    if origin == "pod, by a file":
        del environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
        (tmp_path / "pod").write_text(POD_TOKEN)
        environ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"] = str(tmp_path / "pod")
    sink = make(**NONE, environ=environ)
    await asyncio.gather(*(sink.send(items(sink, count)) for count in (1, 2, 3)))
    assert bucket.identity.issued[kind] == 1, "several at once share one renewal"
    clock.advance(timedelta(minutes=54))
    await sink.send(items(sink, 4))
    assert bucket.identity.issued[kind] == 1
    clock.advance(timedelta(minutes=2))
    await sink.send(items(sink, 5))
    assert bucket.identity.issued[kind] == 2
    assert len(bucket.objects) == 5
    assert 403 not in bucket.answered
    assert "temporary/secret" not in scrub("temporary/secret+" + kind + "0002 was shown")


async def test_the_first_origin_that_there_is_counts(
    bucket: Bucket, make: Make, items: Items, environ: dict[str, str], web: dict[str, str]
) -> None:
    everything = {
        **environ,
        **web,
        **pod(bucket),
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    }
    for without, kind in (
        ((), None),
        (("AWS_ACCESS_KEY_ID",), "web"),
        (("AWS_ROLE_ARN",), "pod"),
        (("AWS_CONTAINER_CREDENTIALS_FULL_URI",), "machine"),
    ):
        everything = {key: value for key, value in everything.items() if key not in without}
        before = dict(bucket.identity.issued)
        sink = make(**NONE, environ=everything)
        await sink.check()
        issued = {key: count - before[key] for key, count in bucket.identity.issued.items()}
        assert issued == {key: int(key == kind) for key in before}


async def test_a_role_is_assumed_with_the_keys_that_there_are(
    bucket: Bucket, make: Make, items: Items, environ: dict[str, str], clock: FakeClock
) -> None:
    sink = make(role_arn=ROLE, external_id=EXTERNAL_ID, environ=environ)
    await sink.send(items(sink, 1))
    assert bucket.identity.issued == {"role": 1, "web": 0, "pod": 0, "machine": 0}
    other = make(**NONE, role_arn=ROLE, external_id=EXTERNAL_ID, environ=environ)
    await other.send(items(other, 2))
    assert bucket.identity.issued == {"role": 2, "web": 0, "pod": 0, "machine": 1}
    clock.advance(timedelta(minutes=58))
    await sink.send(items(sink, 3))
    assert bucket.identity.issued["role"] == 3


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"external_id": "another"}, "check that it trusts these credentials, and external_id"),
        ({"role_arn": f"{ROLE}-2"}, "not authorized to perform: sts:AssumeRole"),
        ({"secret_access_key": "another-secret"}, "SignatureDoesNotMatch"),
    ],
)
async def test_a_role_that_may_not_be_assumed_holds_the_sink(
    bucket: Bucket,
    make: Make,
    items: Items,
    environ: dict[str, str],
    keys: dict[str, str],
    words: str,
) -> None:
    sink = make(**{"role_arn": ROLE, "external_id": EXTERNAL_ID, **keys}, environ=environ)
    with pytest.raises(Refused, match=words) as caught:
        await sink.send(items(sink, 1))
    assert not caught.value.sent
    assert bucket.objects == {}


@pytest.mark.parametrize("status", [400, 403])
async def test_temporary_keys_that_end_early_are_replaced_and_the_object_is_sent_at_once(
    bucket: Bucket, make: Make, items: Items, environ: dict[str, str], status: int
) -> None:
    sink = make(**NONE, environ=environ)
    await sink.send(items(sink, 1))
    for key_id, key in list(bucket.keys.items()):
        if key_id != KEY_ID and status == 400:
            bucket.keys[key_id] = Key(key.secret, key.token, 0.0)
        elif key_id != KEY_ID:
            del bucket.keys[key_id]
    await sink.send(items(sink, 2))
    assert bucket.identity.issued["machine"] == 2
    assert bucket.answered[status] == 1
    assert len(bucket.objects) == 2


async def test_what_still_counts_as_over_holds_the_sink_after_one_renewal(
    bucket: Bucket, make: Make, items: Items, environ: dict[str, str]
) -> None:
    sink = make(**NONE, environ=environ)
    bucket.fail_batches(coded(400, "ExpiredToken"), times=None)
    with pytest.raises(Refused, match="ExpiredToken"):
        await sink.send(items(sink, 1))
    assert bucket.identity.issued["machine"] == 2


async def test_where_there_are_no_keys_at_all_it_says_what_to_set(
    bucket: Bucket, make: Make, items: Items, environ: dict[str, str]
) -> None:
    sink = make(**NONE, environ={"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"})
    with pytest.raises(Refused, match="no access keys: set access_key_id") as caught:
        await sink.send(items(sink, 1))
    assert not caught.value.sent
    sink = make(**NONE, environ=environ)
    bucket.faults.add(faults.answer(404), path="/latest/meta-data/*")
    with pytest.raises(Refused, match="this machine has no role"):
        await sink.check()


async def test_no_proxy_stands_before_the_machine(
    bucket: Bucket, make: Make, items: Items, environ: dict[str, str]
) -> None:
    """What is link-local is not reached by one; objects go by it."""
    sink = make(**NONE, proxy="http://127.0.0.1:9", environ=environ)
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 1))
    assert caught.value.reason == "connect"
    assert bucket.identity.issued["machine"] == 1


async def test_version_1_of_the_metadata_is_never_asked(
    bucket: Bucket, make: Make, environ: dict[str, str]
) -> None:
    sink = make(**NONE, environ=environ)
    bucket.faults.add(faults.answer(403), path="/latest/api/token", times=None)
    with pytest.raises(Refused, match="check the role of the machine"):
        await sink.check()
    assert {each.path for each in bucket.seen} == {"/latest/api/token"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"<html>", "it is not a JSON object"),
        (b"{}", "it has no access keys"),
        (b'{"AccessKeyId":"a","SecretAccessKey":"b","Token":"c"}', "when its access keys end"),
        (b'{"AccessKeyId":"a","SecretAccessKey":"b","Token":"c\\nd"}', "a character that no"),
    ],
)
async def test_an_odd_answer_is_no_key(
    bucket: Bucket, make: Make, environ: dict[str, str], answer: bytes, words: str
) -> None:
    sink = make(**NONE, environ={**environ, **pod(bucket)})
    bucket.faults.add(faults.answer(200, answer), path=POD_PATH, times=None)
    with pytest.raises(Retryable, match=words):
        await sink.check()


@pytest.mark.parametrize("path", ["/", POD_PATH])
async def test_what_is_out_of_order_for_now_is_asked_again(
    bucket: Bucket,
    make: Make,
    items: Items,
    environ: dict[str, str],
    web: dict[str, str],
    path: str,
) -> None:
    sink = make(**NONE, environ={**environ, **(pod(bucket) if path == POD_PATH else web)})
    bucket.faults.add(faults.answer(503), path=path)
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 1))
    assert not caught.value.sent, "no object was"
    await sink.send(items(sink, 1))


async def test_a_token_that_cannot_be_read_holds_the_sink_and_is_read_again(
    bucket: Bucket, make: Make, items: Items, environ: dict[str, str], web: dict[str, str]
) -> None:
    sink = make(**NONE, environ={**environ, **web})
    put_token(web, "another-one")
    with pytest.raises(Refused, match="Token expired"):
        await sink.send(items(sink, 1))
    put_token(web, None)
    with pytest.raises(Refused, match="cannot be read"):
        await sink.send(items(sink, 1))
    put_token(web, WEB_IDENTITY)
    await sink.send(items(sink, 1))
    assert len(bucket.objects) == 1


def put_token(web: dict[str, str], token: str | None) -> None:
    file = Path(web["AWS_WEB_IDENTITY_TOKEN_FILE"])
    if token is None:
        file.unlink()
    else:
        file.write_text(token)


async def test_azure_s_tokens_are_those_of_entra(bucket: Bucket, make: Make, items: Items) -> None:
    bucket.be("azure")
    sink = make()
    await sink.send(items(sink, 1))
    bucket.entra.revoke()
    await sink.send(items(sink, 2))
    assert len(bucket.entra.granted) == 2
    assert len(bucket.objects) == 2
