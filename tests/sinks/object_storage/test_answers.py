"""What each answer of each provider proves, and the next step."""

import gzip
from collections.abc import Callable

import pytest
from tests.sinks.object_storage.conftest import Make

from auditrelay.errors import Refused, Rejected, RelayError, Retryable, TooLarge
from auditrelay.sandbox import faults
from auditrelay.sandbox.siems.object_storage import BUCKET, REGION, Bucket, coded
from auditrelay.sinks import Counts, Item, Sink, digest_of

Items = Callable[[Sink, int], list[Item]]
NAME = "audit/voice/2026/01/01/12/log-0-2-0badcafe.ndjson.gz"
PROVIDERS = ("s3", "gcs", "azure")


@pytest.fixture
def provider(request: pytest.FixtureRequest, bucket: Bucket) -> str:
    """The provider that the double is; by default S3."""
    name: str = getattr(request, "param", "s3")
    bucket.be(name)  # type: ignore[arg-type]  # one of the three
    return name


# --- what is sent


@pytest.mark.parametrize("provider", PROVIDERS, indirect=True)
async def test_an_object_is_created_with_what_identifies_its_events(
    bucket: Bucket, make: Make, items: Items, provider: str
) -> None:
    sink = make()
    batch = items(sink, 3)
    assert await sink.put(batch, NAME, again=False) == Counts()
    [made] = bucket.objects.values()
    assert gzip.decompress(made.body) == b"".join(item.text + b"\n" for item in batch)
    digest = {
        "s3": "x-amz-meta-auditrelay-digest",
        "gcs": "x-goog-meta-auditrelay-digest",
        "azure": "x-ms-meta-auditrelay_digest",
    }[provider]
    assert made.headers[digest] == digest_of(batch)
    assert made.headers["content-type"] == "application/gzip"
    assert "content-encoding" not in made.headers, "some readers would unpack it twice"


async def test_the_same_events_are_the_same_bytes(bucket: Bucket, make: Make, items: Items) -> None:
    """Nothing in an object depends on when it was made."""
    sink = make()
    for name in ("one.ndjson.gz", "two.ndjson.gz"):
        await sink.put(items(sink, 3), name, again=False)
    one, two = (each.body for each in bucket.objects.values())
    assert one == two
    assert one[4:8] == bytes(4), "the time in gzip's head"


async def test_what_the_operator_asks_for_is_asked_for(
    bucket: Bucket, make: Make, items: Items
) -> None:
    sink = make(
        storage_class="STANDARD_IA", kms_key_id="alias/audit", expected_bucket_owner="123456789012"
    )
    await sink.put(items(sink, 1), NAME, again=False)
    [made] = bucket.objects.values()
    assert made.headers["x-amz-storage-class"] == "STANDARD_IA"
    assert made.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert made.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/audit"
    assert made.headers["x-amz-expected-bucket-owner"] == "123456789012"


async def test_odd_names_are_sent_and_signed_as_they_are(
    bucket: Bucket, make: Make, items: Items
) -> None:
    sink = make()
    name = "Prüfung/dt=2026-01-01/a b+c&d~e.ndjson.gz"
    await sink.put(items(sink, 1), name, again=False)
    assert list(bucket.objects) == [name]


# --- what is there already


@pytest.mark.parametrize("provider", PROVIDERS, indirect=True)
async def test_what_was_stored_before_is_a_duplicate_and_is_not_written_again(
    bucket: Bucket, make: Make, items: Items, provider: str
) -> None:
    sink = make()
    batch = items(sink, 3)
    await sink.put(batch, NAME, again=False)
    assert await sink.put(batch, NAME, again=True) == Counts(duplicates=3)
    assert bucket.notifications == {NAME: 1}
    assert bucket.answered[412 if provider != "azure" else 409] == 1


@pytest.mark.parametrize("provider", PROVIDERS, indirect=True)
async def test_an_object_of_another_writer_is_never_overwritten_and_holds_the_sink(
    bucket: Bucket, make: Make, items: Items, provider: str
) -> None:
    sink = make()
    await sink.put(items(sink, 2), NAME, again=False)
    with pytest.raises(Refused, match="auditrelay has not written"):
        await sink.put(items(sink, 3), NAME, again=False)
    assert bucket.notifications == {NAME: 1}, provider


async def test_where_the_object_may_not_be_looked_at_the_word_of_s3_is_enough(
    bucket: Bucket, make: Make, items: Items
) -> None:
    sink = make()
    await sink.put(items(sink, 2), NAME, again=False)
    bucket.forbid("HEAD")
    assert await sink.put(items(sink, 2), NAME, again=True) == Counts(duplicates=2)


async def test_an_object_that_vanishes_is_tried_again(
    bucket: Bucket, make: Make, items: Items
) -> None:
    sink = make()
    bucket.fail_batches(coded(412, "PreconditionFailed"))
    with pytest.raises(Retryable, match="not any more"):
        await sink.put(items(sink, 2), NAME, again=True)


@pytest.mark.parametrize("provider", ["gcs"], indirect=True)
@pytest.mark.parametrize("again", [True, False])
async def test_google_hides_what_is_there_from_who_may_create_only(
    bucket: Bucket, make: Make, items: Items, *, provider: str, again: bool
) -> None:
    """A 403 for a repeat: it is looked at, if it can have been stored (receivers.md, 13.11)."""
    assert provider
    sink = make()
    batch = items(sink, 2)
    await sink.put(batch, NAME, again=False)
    bucket.forbid("HIDDEN")
    if not again:
        with pytest.raises(Refused, match=r"storage\.objects\.create"):
            await sink.put(batch, NAME, again=False)
        return
    assert await sink.put(batch, NAME, again=True) == Counts(duplicates=2)
    bucket.forbid("HEAD")
    with pytest.raises(Retryable, match="Its events wait, others go on") as caught:
        await sink.put(batch, NAME, again=True)
    assert (caught.value.reason, caught.value.sent) == ("unproven", True)
    bucket.forbidden = {"PUT"}
    with pytest.raises(Refused, match=r"storage\.objects\.create"):
        await sink.put(batch, "another", again=True)


@pytest.mark.parametrize("provider", PROVIDERS, indirect=True)
async def test_whether_an_object_is_there_is_found_out_or_left_open(
    bucket: Bucket, make: Make, items: Items, provider: str
) -> None:
    sink = make()
    batch = items(sink, 2)
    assert await sink.holds(NAME, digest_of(batch)) is False
    await sink.put(batch, NAME, again=False)
    assert await sink.holds(NAME, digest_of(batch)) is True
    with pytest.raises(Refused, match="another object"):
        await sink.holds(NAME, digest_of(batch[:1]))
    bucket.faults.add(faults.answer(503), method="HEAD")
    with pytest.raises(Retryable):
        await sink.holds(NAME, digest_of(batch))
    bucket.forbid("HEAD")
    with pytest.raises(Retryable, match="may not read") as caught:
        await sink.holds(NAME, digest_of(batch))
    assert caught.value.reason == "unproven", provider


# --- the statuses, a provider

NOT_STORED = [
    ("s3", 409, "ConditionalRequestConflict"),
    ("s3", 409, "OperationAborted"),
    ("s3", 400, "RequestTimeout"),
    ("s3", 400, "BadDigest"),
    ("s3", 400, "XAmzContentSHA256Mismatch"),
    ("s3", 503, "SlowDown"),
    ("s3", 503, "ServiceUnavailable"),
    ("s3", 429, "TooManyRequests"),
    ("gcs", 429, "SlowDown"),
    ("gcs", 503, "ServiceUnavailable"),
    ("azure", 503, "ServerBusy"),
    ("azure", 409, "ContainerBeingDeleted"),
    ("azure", 400, "Md5Mismatch"),
]
UNKNOWN = [
    ("s3", 500, "InternalError"),
    ("gcs", 500, "InternalError"),
    ("azure", 500, "OperationTimedOut"),
    ("azure", 500, "InternalError"),
]
HELD = [
    ("s3", 301, "PermanentRedirect", "check region"),
    ("s3", 307, "TemporaryRedirect", "check region"),
    ("s3", 400, "AuthorizationHeaderMalformed", "check region"),
    ("s3", 400, "InvalidArgument", "no event is the cause"),
    ("s3", 400, "InvalidStorageClass", "no event is the cause"),
    ("s3", 400, "KMS.DisabledException", "check kms_key_id"),
    ("s3", 403, "AccessDenied", "allow s3:PutObject"),
    ("s3", 403, "AccessDenied", "with kms_key_id also the use of that key"),
    ("s3", 403, "InvalidAccessKeyId", "check the credentials"),
    ("s3", 403, "RequestTimeTooSkewed", "fix the clock"),
    ("s3", 404, "NoSuchBucket", "check bucket"),
    ("s3", 409, "InvalidBucketState", "no event is the cause"),
    ("s3", 409, "BlobAlreadyExists", "no event is the cause"),
    ("s3", 412, "SomethingElse", "no event is the cause"),
    ("s3", 501, "NotImplemented", "does not know the condition if-none-match"),
    ("gcs", 403, "AccessDenied", "allow storage.objects.create"),
    ("gcs", 404, "NoSuchBucket", "check bucket"),
    ("azure", 403, "AuthorizationPermissionMismatch", "Storage Blob Data Contributor"),
    ("azure", 404, "ContainerNotFound", "check bucket"),
    ("azure", 409, "ContainerDisabled", "no event is the cause"),
    ("azure", 412, "PreconditionFailed", "no event is the cause"),
]


@pytest.mark.parametrize(("provider", "status", "code"), NOT_STORED, indirect=["provider"], ids=str)
async def test_what_was_not_stored_for_now_is_sent_again(
    bucket: Bucket, make: Make, items: Items, provider: str, status: int, code: str
) -> None:
    error = await failed(bucket, make(), items, status, code)
    assert isinstance(error, Retryable), provider
    assert (error.sent, error.reason) == (False, f"status_{status}")
    assert code in str(error)


@pytest.mark.parametrize(("provider", "status", "code"), UNKNOWN, indirect=["provider"], ids=str)
async def test_what_may_have_been_stored_is_sent_again(
    bucket: Bucket, make: Make, items: Items, provider: str, status: int, code: str
) -> None:
    error = await failed(bucket, make(), items, status, code)
    assert isinstance(error, Retryable), provider
    assert error.sent


@pytest.mark.parametrize(
    ("provider", "status", "code", "words"), HELD, indirect=["provider"], ids=str
)
async def test_what_an_operator_must_change_holds_the_sink(
    bucket: Bucket, make: Make, items: Items, provider: str, status: int, code: str, words: str
) -> None:
    error = await failed(bucket, make(), items, status, code)
    assert isinstance(error, Refused), provider
    assert (error.status, error.sent) == (status, False)
    assert words in str(error)
    assert "kms_key_id" not in str(error) or bucket.provider == "s3"


@pytest.mark.parametrize(
    ("provider", "status", "code"),
    [
        ("s3", 400, "EntityTooLarge"),
        ("s3", 413, "RequestEntityTooLarge"),
        ("gcs", 400, "EntityTooLarge"),
        ("azure", 413, "RequestBodyTooLarge"),
    ],
    indirect=["provider"],
    ids=str,
)
async def test_what_is_too_large_is_halved(
    bucket: Bucket, make: Make, items: Items, provider: str, status: int, code: str
) -> None:
    assert isinstance(await failed(bucket, make(), items, status, code), TooLarge), provider


async def failed(bucket: Bucket, sink: Sink, items: Items, status: int, code: str) -> RelayError:
    bucket.fail_batches(coded(status, code), times=2)  # twice: credentials may be renewed
    with pytest.raises(RelayError) as caught:
        await sink.send(items(sink, 2))
    assert bucket.objects == {}
    return caught.value


async def test_a_400_that_is_not_the_product_s_is_about_the_events(
    bucket: Bucket, make: Make, items: Items
) -> None:
    """A firewall that looks into bodies: it is halved, down to what it refuses."""
    sink = make()
    bucket.fail_batches(faults.answer(400, b"blocked"))
    with pytest.raises(Rejected):
        await sink.send(items(sink, 2))


@pytest.mark.parametrize(
    "action",
    [faults.html(200), faults.empty(200), faults.empty(204), faults.answer(200, b"{}")],
)
async def test_a_success_without_an_etag_is_none(
    bucket: Bucket, make: Make, items: Items, action: faults.Action
) -> None:
    sink = make()
    bucket.fail_batches(action)
    with pytest.raises(Retryable) as caught:
        await sink.send(items(sink, 2))
    assert caught.value.sent


async def test_the_region_that_the_bucket_is_in_is_named(
    bucket: Bucket, make: Make, items: Items
) -> None:
    sink = make()
    bucket.fail_batches(
        faults.answer(
            301,
            b"<Error><Code>PermanentRedirect</Code><Message>m</Message></Error>",
            {"x-amz-bucket-region": "us-west-2"},
        )
    )
    with pytest.raises(Refused, match="the bucket is in us-west-2"):
        await sink.send(items(sink, 1))


async def test_an_answer_of_odd_xml_is_only_text(bucket: Bucket, make: Make, items: Items) -> None:
    sink = make()
    body = (
        b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa">]><Error><Code>AccessDenied</Code>'
        b"<Message>&lt;b&gt; &a; \xff" + b"x" * 300 + b"</Message></Error>"
    )
    bucket.fail_batches(faults.answer(403, body), times=2)
    with pytest.raises(Refused, match="<b> &a;") as caught:
        await sink.send(items(sink, 1))
    assert len(str(caught.value)) < 800


# --- check


@pytest.mark.parametrize("provider", PROVIDERS, indirect=True)
async def test_check_asks_for_what_never_was_and_stores_nothing(
    bucket: Bucket, make: Make, provider: str
) -> None:
    sink = make(prefix="audit/")
    assert "accepts the credentials" in await sink.check(), provider
    [seen] = [each for each in bucket.seen if each.method == "GET"]
    assert seen.path == f"/{BUCKET}/audit/auditrelay-check"
    assert bucket.objects == {}
    bucket.forbid("GET")
    assert "only an object shows whether they may write" in await sink.check()


async def test_check_names_what_is_wrong(bucket: Bucket, make: Make) -> None:
    for keys, words in (
        ({"bucket": "elsewhere"}, "check bucket"),
        ({"region": "us-west-2"}, f"the bucket is in {REGION}"),
        ({"secret_access_key": "wrong-secret-key"}, "SignatureDoesNotMatch"),
    ):
        with pytest.raises(Refused, match=words):
            await make(**keys).check()
    assert bucket.objects == {}


async def test_a_clock_that_is_wrong_is_named(bucket: Bucket, make: Make, items: Items) -> None:
    now = bucket.clock()
    bucket.clock = lambda: now + 16 * 60
    sink = make()
    with pytest.raises(Refused, match="fix the clock"):
        await sink.send(items(sink, 1))


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ("s3", f"aws s3 sync 's3://{BUCKET}/a b/' . && find"),
        ("gcs", f"gcloud storage rsync -r 'gs://{BUCKET}/a b/' . && find"),
        ("azure", f"-s {BUCKET} -d . --pattern 'a b/*' && find"),
    ],
    indirect=["provider"],
)
def test_a_search_is_a_command_of_the_provider(make: Make, provider: str, words: str) -> None:
    [line] = make(prefix="a b/").query("0" * 40)
    assert words in line, provider
    assert line.endswith(f"-exec zgrep {'0' * 40} {{}} +")
