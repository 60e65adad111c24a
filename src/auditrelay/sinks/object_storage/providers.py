"""
The providers of object storage: what differs in their requests, and what each reply proves.

S3: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and .../API_PutObject.html; Google's
XML API: cloud.google.com/storage/docs/xml-api/reference-status; Azure:
learn.microsoft.com/rest/api/storageservices/blob-service-error-codes. A 409 is "again" at S3, and
"there already" at Azure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import unescape
from typing import Final, Literal

from auditrelay.errors import Refused, RelayError, Retryable, TooLarge
from auditrelay.http.headers import retry_after
from auditrelay.http.replies import Reply
from auditrelay.sinks._requests import clean, error_for, unexpected_body

Outcome = Literal["stored", "there"]
"""Of a PUT: stored by this one; something is there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """What one provider calls things, and how it answers a PUT that may only create."""

    product: str
    created: int
    """The status of an object that was stored."""
    condition: Mapping[str, str]
    """The header by which an object that is there is never overwritten."""
    digest: str
    """The header that keeps the digest of the uids beside the object."""
    there: tuple[int, str]
    """Status and code of an object that is there already."""
    rights: str
    """To be allowed, so that objects may be stored, and looked up."""
    also: str = ""
    """What some settings need besides."""
    expired: frozenset[str] = frozenset()
    """Codes, with status 400, of credentials that are over."""
    again: frozenset[str] = frozenset()
    """Codes by which the product itself says that nothing was stored, for now."""
    too_large: frozenset[str] = frozenset()
    hides_existing: bool = False
    """Whether who may create only gets a 403 for what is there."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of each request."""
    kind: Mapping[str, str] = field(default_factory=dict)
    """The header of a PUT that says what kind of object it makes."""


PROVIDERS: Final[Mapping[str, Provider]] = {
    "s3": Provider(
        product="S3",
        created=200,
        condition={"if-none-match": "*"},
        digest="x-amz-meta-auditrelay-digest",
        there=(412, "PreconditionFailed"),
        rights="s3:PutObject, and to look objects up s3:GetObject and s3:ListBucket",
        also="; with kms_key_id also the use of that key",
        expired=frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}),
        again=frozenset(
            {
                "BadDigest",
                "ConditionalRequestConflict",
                "IncompleteBody",
                "OperationAborted",
                "RequestTimeout",
                "ServiceUnavailable",
                "SlowDown",
                "TooManyRequests",
                "XAmzContentSHA256Mismatch",
            }
        ),
        too_large=frozenset({"EntityTooLarge"}),
    ),
    "gcs": Provider(
        product="Google Cloud Storage",
        created=200,
        condition={"x-goog-if-generation-match": "0"},
        digest="x-goog-meta-auditrelay-digest",
        there=(412, "PreconditionFailed"),
        rights="storage.objects.create, and to look objects up storage.objects.get and "
        "storage.objects.list",
        again=frozenset(
            {"BadDigest", "IncompleteBody", "RequestTimeout", "ServiceUnavailable", "SlowDown"}
        ),
        too_large=frozenset({"EntityTooLarge"}),
        hides_existing=True,
    ),
    "azure": Provider(
        product="Azure Blob",
        created=201,
        condition={"if-none-match": "*"},
        digest="x-ms-meta-auditrelay_digest",
        there=(409, "BlobAlreadyExists"),
        rights="the role Storage Blob Data Contributor on the container",
        again=frozenset({"ContainerBeingDeleted", "IncompleteBody", "Md5Mismatch", "ServerBusy"}),
        too_large=frozenset({"RequestBodyTooLarge"}),
        headers={"x-ms-version": "2021-12-02"},
        kind={"x-ms-blob-type": "BlockBlob"},
    ),
}

_NOWHERE: Final = frozenset({"NoSuchBucket", "ContainerNotFound", "AccountNotFound"})
_NOTHING: Final = frozenset({"NoSuchKey", "BlobNotFound", "ResourceNotFound"})
_NO_RIGHT: Final = frozenset(
    {"AccessDenied", "AuthorizationFailure", "AuthorizationPermissionMismatch"}
)
_OTHER_REGION: Final = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "PermanentRedirect",
        "TemporaryRedirect",
    }
)
_NO_CONDITION: Final = frozenset({"NotImplemented", "UnsupportedHeader"})
_OTHER_CLOCK: Final = frozenset({"RequestTimeTooSkewed"})
_KEYS: Final = "the credentials and the keys of this sink"


def outcome(provider: Provider, reply: Reply) -> Outcome:
    """
    Return what the *reply* to a PUT proves.

    Raises Retryable, Refused or Rejected where nothing was stored, or it is unknown.
    """
    if reply.status == provider.created and reply.headers.get("etag"):
        return "stored"
    code, _ = words(reply)
    if (reply.status, code) == provider.there:
        return "there"
    raise error(provider, reply)


def is_expired(provider: Provider, reply: Reply) -> bool:
    """Return whether *reply* says that the credentials are over, as it does with a 400."""
    return reply.status == 400 and words(reply)[0] in provider.expired


def is_there(provider: Provider, reply: Reply, digest: str) -> bool | None:
    """
    Return whether the *reply* to a HEAD shows an object with the *digest*; None: it hides that.

    Raises Refused for another digest, and Retryable for any other answer.
    """
    if reply.status == 404:
        return False
    if reply.status in (401, 403):
        return None
    if reply.status != 200:
        found = error(provider, reply)
        # A HEAD has no body, so there is no code: whatever it is, it is asked again.
        raise Retryable(str(found), reason=f"status_{reply.status}", sent=True)
    if reply.headers.get(provider.digest) == digest:
        return True
    raise Refused(
        f"{reply.where}: there is another object of this key, which auditrelay has not written: "
        "nothing is overwritten. Find out what writes there, and move that object away",
        status=200,
    )


def accepts(provider: Provider, reply: Reply) -> bool:
    """
    Return whether the *reply* to a GET of what was never stored shows that objects can be read.

    False: the credentials are valid, but may not read. Raises what holds the sink otherwise.
    """
    code, _ = words(reply)
    if reply.status == 404 and code in _NOTHING:
        return True
    if reply.status == 403 and code in _NO_RIGHT:
        return False
    raise error(provider, reply)


def words(reply: Reply) -> tuple[str, str]:
    """Return the code of an error and its message, both empty if *reply* is not the product's."""
    # No general parser of XML: that reads entities, and takes what memory it likes.
    code = reply.headers.get("x-ms-error-code") or _element(reply, "Code")
    return code, _element(reply, "Message")


def _element(reply: Reply, name: str) -> str:
    found = re.search(
        rf"<{name}>([^<]{{1,500}})</{name}>", reply.body[:65536].decode("utf-8", "replace")
    )
    return "" if found is None else unescape(found[1])


def error(provider: Provider, reply: Reply) -> RelayError:
    """Return the error that an unsuccessful *reply* means for an object, as a whole."""
    code, message = words(reply)
    if 200 <= reply.status < 300:
        return unexpected_body(reply, f"{provider.product}, which has an ETag")
    if not code:
        return error_for(reply)
    text = f"{reply.status} from {reply.where}: {clean(f'{message} ({code})')}"
    if code in provider.again:
        wait = retry_after(reply.headers, reply.at)
        return Retryable(text, reason=f"status_{reply.status}", retry_after=wait)
    if code in provider.too_large or reply.status == 413:
        return TooLarge(text, reason=f"status_{reply.status}", status=reply.status)
    if code not in _NO_CONDITION and (reply.status in (408, 429) or reply.status >= 500):
        return error_for(reply, message=f"{message} ({code})")
    return Refused(f"{text}; {_advice(provider, reply, code)}", status=reply.status)


def _advice(provider: Provider, reply: Reply, code: str) -> str:
    if code in _NO_CONDITION:
        condition = next(iter(provider.condition))
        return (
            f"it does not know the condition {condition}, by which an object is never overwritten, "
            "and nothing is sent without it"
        )
    if code in _OTHER_REGION:
        region = reply.headers.get("x-amz-bucket-region") or _element(reply, "Region")
        return f"check region: the bucket is in {clean(region)}" if region else "check region"
    if code in _OTHER_CLOCK:
        return "fix the clock of this machine"
    if code in _NOWHERE:
        return "check bucket, and whose account it is in"
    if code in _NO_RIGHT:
        return f"allow {provider.rights}{provider.also}"
    keys = "kms_key_id, and the use of that key" if code.startswith("KMS.") else _KEYS
    return f"no event is the cause: check {keys}"
