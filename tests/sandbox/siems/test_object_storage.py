"""
The double of a bucket is faithful: AWS's own library and obstore work with it, and so does refusal.

botocore signs as AWS does, and shows codes; obstore is another implementation, of all three
providers, in another language.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import botocore.session
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import AzureStore, S3Store

from auditrelay.sandbox.entra import CLIENT_ID, TENANT
from auditrelay.sandbox.siems.object_storage import (
    AZURE,
    BUCKET,
    KEY_ID,
    REGION,
    SECRET_KEY,
    Bucket,
)
from auditrelay.sandbox.siems.object_storage.identity import EXTERNAL_ID, ROLE
from auditrelay.sandbox.siems.object_storage.signatures import Key

LINE = b'{"metadata":{"uid":"u1"}}\n'


@pytest.fixture
async def bucket() -> AsyncIterator[Bucket]:
    async with Bucket() as bucket:
        yield bucket


def client(
    bucket: Bucket,
    service: str = "s3",
    *,
    key_id: str = KEY_ID,
    secret: str = SECRET_KEY,
    token: str | None = None,
    region: str = REGION,
) -> Any:
    session = botocore.session.get_session()
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    return session.create_client(
        service,
        region_name=region,
        endpoint_url=bucket.url,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        aws_session_token=token,
        config=config,
    )


def put(s3: Any, key: str = "a/b c~ü.ndjson", body: bytes = LINE, **more: Any) -> Any:
    return s3.put_object(Bucket=BUCKET, Key=key, Body=body, IfNoneMatch="*", **more)


def code_of(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    code: str = caught.value.response["Error"]["Code"]
    return code


async def test_botocore_creates_an_object_once(bucket: Bucket) -> None:
    def use() -> None:
        s3 = client(bucket)
        assert (
            put(s3, Metadata={"auditrelay-digest": "d"})["ETag"]
            == bucket.objects["a/b c~ü.ndjson"].etag
        )
        assert code_of(lambda: put(s3)) == "PreconditionFailed"
        found = s3.head_object(Bucket=BUCKET, Key="a/b c~ü.ndjson")
        assert found["Metadata"] == {"auditrelay-digest": "d"}
        assert s3.get_object(Bucket=BUCKET, Key="a/b c~ü.ndjson")["Body"].read() == LINE
        assert code_of(lambda: s3.get_object(Bucket=BUCKET, Key="none")) == "NoSuchKey"

    await asyncio.to_thread(use)
    assert bucket.stored.by_uid == {"u1": 1}
    assert bucket.notifications == {"a/b c~ü.ndjson": 1}


async def test_botocore_overwrites_where_the_condition_is_not_sent_or_not_known(
    bucket: Bucket,
) -> None:
    def use() -> None:
        s3 = client(bucket)
        for _ in range(2):
            s3.put_object(Bucket=BUCKET, Key="k", Body=LINE)
        bucket.evaluates_condition = False
        put(s3, "k")

    await asyncio.to_thread(use)
    assert bucket.notifications == {"k": 3}
    assert bucket.stored.by_uid == {"u1": 1}


async def test_botocore_is_refused_with_the_codes_of_s3(bucket: Bucket) -> None:
    now = bucket.clock

    def use() -> None:
        s3 = client(bucket)
        refused = {
            "SignatureDoesNotMatch": client(bucket, secret="another"),
            "InvalidAccessKeyId": client(bucket, key_id="AKIAUNKNOWN"),
        }
        for code, wrong in refused.items():
            assert code_of(partial(put, wrong)) == code
        elsewhere = dict(Bucket="another-bucket", Key="k", Body=LINE)  # noqa: C408  # keywords
        assert code_of(lambda: s3.put_object(**elsewhere)) == "NoSuchBucket"
        assert code_of(lambda: put(s3, body=b"no end")) == "InvalidRequest"
        bucket.limit_body(5)
        assert code_of(lambda: put(s3)) == "EntityTooLarge"
        bucket.forbid("PUT")
        assert code_of(lambda: put(s3)) == "AccessDenied"
        bucket.clock = lambda: now() + 3600
        assert code_of(lambda: put(s3)) == "RequestTimeTooSkewed"

    await asyncio.to_thread(use)
    assert bucket.objects == {}


async def test_botocore_finds_the_region_that_a_refusal_names(bucket: Bucket) -> None:
    await asyncio.to_thread(lambda: put(client(bucket, region="us-west-2"), "k"))
    assert (bucket.answered[400], list(bucket.objects)) == (1, ["k"])


async def test_botocore_assumes_the_role_and_its_keys_end(bucket: Bucket) -> None:
    def use() -> None:
        sts = client(bucket, "sts")
        given: dict[str, Any] = {"RoleArn": ROLE, "RoleSessionName": "session"}
        assert code_of(lambda: sts.assume_role(**given)) == "AccessDenied"
        made = sts.assume_role(**given, ExternalId=EXTERNAL_ID)["Credentials"]
        keys = {"key_id": made["AccessKeyId"], "secret": made["SecretAccessKey"]}
        put(client(bucket, **keys, token=made["SessionToken"]))
        assert code_of(lambda: put(client(bucket, **keys), "k")) == "InvalidAccessKeyId"
        key = bucket.keys[made["AccessKeyId"]]
        bucket.keys[made["AccessKeyId"]] = Key(key.secret, key.token, 0.0)
        late = client(bucket, **keys, token=made["SessionToken"])
        assert code_of(lambda: put(late, "k")) == "ExpiredToken"

    await asyncio.to_thread(use)
    assert bucket.identity.issued["role"] == 1


async def test_obstore_creates_an_object_once(bucket: Bucket) -> None:
    store = S3Store(
        BUCKET,
        endpoint=bucket.url,
        region=REGION,
        access_key_id=KEY_ID,
        secret_access_key=SECRET_KEY,
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    await store.put_async("dt=2026-01-01/k.ndjson", LINE, mode="create", use_multipart=False)
    with pytest.raises(AlreadyExistsError):
        await store.put_async("dt=2026-01-01/k.ndjson", LINE, mode="create", use_multipart=False)
    assert bytes(await (await store.get_async("dt=2026-01-01/k.ndjson")).bytes_async()) == LINE
    with pytest.raises((NotFoundError, FileNotFoundError)):
        await store.get_async("none")
    bucket.rotate("another")
    with pytest.raises(BaseError):
        await store.get_async("dt=2026-01-01/k.ndjson")
    assert bucket.notifications == {"dt=2026-01-01/k.ndjson": 1}


async def test_obstore_creates_a_blob_once(bucket: Bucket) -> None:
    bucket.be("azure")
    store = AzureStore(
        BUCKET,
        account_name="auditarchive",
        endpoint=bucket.url,
        token=await asyncio.to_thread(token_for_storage, bucket),
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    key = "dt=2026-01-01/k.ndjson"
    await store.put_async(key, LINE, mode="create", use_multipart=False)
    with pytest.raises(AlreadyExistsError):
        await store.put_async(key, LINE, mode="create", use_multipart=False)
    assert bucket.answered == {201: 1, 409: 1}
    assert bytes(await (await store.get_async(key)).bytes_async()) == LINE
    with pytest.raises((NotFoundError, FileNotFoundError)):
        await store.get_async("none")
    bucket.entra.revoke()
    with pytest.raises(BaseError):
        await store.get_async(key)
    assert bucket.notifications == {key: 1}


def token_for_storage(bucket: Bucket) -> str:
    """Ask for a token as an application does."""
    fields = {
        "grant_type": "client_credentials",
        "client_id": CLIENT_ID,
        "client_secret": bucket.entra.client_secret,
        "scope": f"{AZURE}/.default",
    }
    reply = httpx.post(f"{bucket.entra.url}/{TENANT}/oauth2/v2.0/token", data=fields)
    token: str = reply.json()["access_token"]
    return token
