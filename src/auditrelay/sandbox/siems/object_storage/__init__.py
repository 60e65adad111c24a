"""
A bucket: S3, or Google Cloud Storage by its XML API, or a container of Azure Blob.

What each answers to a PUT that may only create, to HEAD and to GET, with its own statuses, codes
and rights. Signatures are verified in full. Each object that is created raises a notification, and
so does each that is overwritten, which readers act upon.

Stricter than the products in one point: an object that is not NDJSON is refused, since nothing here
stores anything else.
"""

import gzip
import hashlib
import json
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, ClassVar, Literal, Self
from xml.sax.saxutils import escape

from auditrelay.sandbox import faults
from auditrelay.sandbox.entra import CLIENT_ID, TENANT, Entra
from auditrelay.sandbox.faults import Action
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.siems import Intake, Refusal, Variant
from auditrelay.sandbox.siems.object_storage.identity import Identity
from auditrelay.sandbox.siems.object_storage.signatures import Denied, Key, verify
from auditrelay.sandbox.stored import first_at

BUCKET = "audit-archive"
REGION = "eu-central-1"
KEY_ID = "AKIASANDBOXNOTREAL00"
SECRET_KEY = "sandbox/secret+key/that+is+not+real"  # noqa: S105  # it is not
AZURE = "https://storage.azure.com"
"""What tokens for Azure's storage are for."""

_UIDS = ("metadata.uid", "auditrelay.uid", "evt.id", "event_id", "EventUid")
_NATIVE_IDS = (
    "metadata.original_event_uid",
    "event.id",
    "evt.native_id",
    "vendor_event_id",
    "record.id",
)


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as it was stored."""

    body: bytes
    headers: Mapping[str, str]
    at: float
    """When, in epoch seconds."""

    @property
    def modified(self) -> str:
        """The date of it, as a header says it."""
        return formatdate(self.at, usegmt=True)

    @property
    def etag(self) -> str:
        """As S3 makes it, without KMS."""
        return f'"{hashlib.md5(self.body, usedforsecurity=False).hexdigest()}"'


class Bucket(Intake):
    """
    One bucket called *BUCKET*, of the *provider* that it was made for.

    :attr:`objects` has what is in it, and :attr:`notifications` how often each key was written.
    """

    NAME: ClassVar = "bucket"
    PLACE: ClassVar = 200
    ON_REQUEST: ClassVar = True
    SECRET_KEY: ClassVar = "secret_access_key"  # noqa: S105  # the name of a key, not its value
    DEDUPLICATES: ClassVar = True
    ANSWERS_JSON: ClassVar = False
    NAMES_ENCODING: ClassVar = False
    REFUSALS: ClassVar = (
        Refusal(
            "wrong key",
            403,
            "SignatureDoesNotMatch",
            lambda _: {"secret_access_key": "another-secret"},
        ),
        Refusal(
            "unknown key", 403, "InvalidAccessKeyId", lambda _: {"access_key_id": "AKIAUNKNOWN"}
        ),
        Refusal("no bucket", 404, "check bucket", lambda _: {"bucket": "another-bucket"}),
        Refusal(
            "other region",
            400,
            f"check region: the bucket is in {REGION}",
            lambda _: {"region": "us-west-2"},
        ),
        Refusal("no right", 403, "allow s3:PutObject", lambda it: it.forbid("PUT")),
        Refusal("no condition", 501, "does not know the condition", lambda it: it.unconditional()),
    )
    MISBEHAVIOURS: ClassVar = {
        "409": lambda it: it.fail_batches(coded(409, "ConditionalRequestConflict")),
        "500, stored": lambda it: it.fail_batches(coded(500, "InternalError", process=True)),
        "503 for a while": lambda it: it.fail_batches(coded(503, "SlowDown"), times=3),
        "stored, then reset": lambda it: it.fail_batches(faults.store_then_reset(), times=2),
    }
    VARIANTS: ClassVar = (
        Variant("gcs", lambda it: it.be("gcs"), {}),
        Variant("azure", lambda it: it.be("azure"), {}),
    )

    def __init__(self, *, clock: Callable[[], float] = time.time, seed: int = 0) -> None:
        super().__init__(clock=clock, seed=seed)
        self.provider: Literal["s3", "gcs", "azure"] = "s3"
        self.bucket = BUCKET
        self.keys = {KEY_ID: Key(SECRET_KEY)}
        self.entra = Entra(clock=clock)
        self.identity = Identity(self.keys, self._now, REGION)
        self.objects: dict[str, Stored] = {}
        self.notifications: Counter[str] = Counter()
        self.evaluates_condition = True
        """Whether it knows the condition; one that does not overwrites."""
        self.refuses_condition = False
        self.most_bytes = 5 * 2**30
        self.forbidden: set[str] = set()
        """The methods for which the credentials have no right."""

    def _now(self) -> float:
        return self.clock()  # which a test may replace

    async def start(self) -> Self:
        """Start it, and what gives tokens for Azure's storage."""
        await self.entra.start()
        return await super().start()

    async def stop(self) -> None:
        """Stop both."""
        await super().stop()
        await self.entra.stop()

    @property
    def secret(self) -> str:
        """The secret of the access key."""
        return self.keys[KEY_ID].secret

    def settings(self) -> dict[str, Any]:
        """Return the settings of a sink that sends to this double, as to its provider."""
        common = {
            "type": "object_storage",
            "provider": self.provider,
            "endpoint": self.url,
            "bucket": BUCKET,
            "linger": "0s",
        }
        if self.provider == "azure":
            application = {
                "authority": self.entra.url,
                "tenant_id": TENANT,
                "client_id": CLIENT_ID,
                "client_secret": self.entra.client_secret,
            }
            return common | application
        keys = {"access_key_id": KEY_ID, "secret_access_key": self.secret}
        return common | keys | ({"region": REGION} if self.provider == "s3" else {})

    def credentials(self) -> dict[str, str]:
        """Return the access key, with its id."""
        return {"access_key_id": KEY_ID, **super().credentials()}

    def rotate(self, secret: str) -> None:
        """Accept only the key *secret* from now on."""
        self.keys[KEY_ID] = Key(secret)

    def limit_body(self, size: int) -> None:
        """Answer 413 to a body of more than *size* bytes."""
        self.most_bytes = size

    def fail_batches(self, action: Action, times: int | None = 1) -> None:
        """Apply *action* to the next objects."""
        self.faults.add(action, method="PUT", path=f"/{BUCKET}/*", times=times)

    def be(self, provider: Literal["s3", "gcs", "azure"]) -> None:
        """Be of another *provider*."""
        self.provider = provider

    def forbid(self, *methods: str) -> dict[str, Any]:
        """Give the credentials no right to *methods*."""
        self.forbidden |= {*methods}
        return {}

    def unconditional(self) -> dict[str, Any]:
        """Refuse the condition with 501, as storages do that do not know it."""
        self.refuses_condition = True
        return {}

    def respond(self, request: Request) -> Response:
        """Answer as the provider would."""
        answer = self.identity.respond(request) if self.provider == "s3" else None
        if answer is not None:
            return answer
        try:
            self._authenticate(request)
            name = self._name(request)
            match request.method:
                case "PUT":
                    return self._put(request, name)
                case "HEAD" | "GET":
                    return self._get(request, name)
                case _:
                    return self._error(Denied(405, "MethodNotAllowed", "It is not allowed here"))
        except Denied as denied:
            return self._error(denied)

    def _authenticate(self, request: Request) -> None:
        match self.provider:
            case "s3":
                verify(request, self.keys, scheme="AWS4", region=REGION, service="s3")
            case "gcs":
                verify(request, self.keys, scheme="GOOG4", region="auto", service="storage")
            case "azure":
                if "x-ms-version" not in request.headers:
                    raise Denied(400, "MissingRequiredHeader", "x-ms-version")
                token = request.headers.get("authorization", "").removeprefix("Bearer ")
                if not self.entra.accepts(token, AZURE):
                    raise Denied(401, "InvalidAuthenticationInfo", "Server failed to authenticate")

    def _name(self, request: Request) -> str:
        bucket, _, name = request.path.removeprefix("/").partition("/")
        if bucket != BUCKET:
            if self.provider == "azure":
                raise Denied(404, "ContainerNotFound", "The specified container does not exist.")
            raise Denied(404, "NoSuchBucket", "The specified bucket does not exist")
        return name

    def _put(self, request: Request, name: str) -> Response:
        if request.method in self.forbidden:
            raise self._no_right()
        if len(request.body) > self.most_bytes:
            code = "RequestBodyTooLarge" if self.provider == "azure" else "EntityTooLarge"
            raise Denied(413, code, "Your proposed upload exceeds the maximum allowed size")
        if self.provider == "azure" and request.headers.get("x-ms-blob-type") != "BlockBlob":
            raise Denied(400, "MissingRequiredHeader", "x-ms-blob-type")
        if self._may_only_create(request) and name in self.objects:
            raise self._there()
        events = _events(request.body, name)
        if name not in self.objects:
            self._keep(events)
        made = Stored(request.body, dict(request.headers), request.at)
        self.objects[name] = made
        self.notifications[name] += 1
        if self.provider == "azure":
            return Response(201, b"", {"ETag": made.etag, "Last-Modified": made.modified})
        return Response(200, b"", {"ETag": made.etag})

    def _may_only_create(self, request: Request) -> bool:
        if self.provider == "gcs":
            asked = request.headers.get("x-goog-if-generation-match") == "0"
        else:
            asked = request.headers.get("if-none-match") == "*"
        if asked and self.refuses_condition:
            raise Denied(
                501, "NotImplemented", "A header you provided implies functionality not implemented"
            )
        return asked and self.evaluates_condition

    def _there(self) -> Denied:
        if "HIDDEN" in self.forbidden:  # who may create only is not shown what is there
            return self._no_right()
        if self.provider == "azure":
            return Denied(409, "BlobAlreadyExists", "The specified blob already exists.")
        return Denied(412, "PreconditionFailed", "At least one of the pre-conditions did not hold")

    def _no_right(self) -> Denied:
        if self.provider == "azure":
            return Denied(403, "AuthorizationPermissionMismatch", "This request is not authorized")
        return Denied(403, "AccessDenied", "Access Denied")

    def _keep(self, events: list[Any]) -> None:
        for event in events:
            native_id = first_at(event, _NATIVE_IDS)
            self.stored.add(event, first_at(event, _UIDS), native_id)

    def _get(self, request: Request, name: str) -> Response:
        if request.method in self.forbidden:
            raise self._no_right()
        found = self.objects.get(name)
        if found is None:
            if self.provider == "azure":
                raise Denied(404, "BlobNotFound", "The specified blob does not exist.")
            raise Denied(404, "NoSuchKey", "The specified key does not exist.")
        kept = {
            key: value
            for key, value in found.headers.items()
            if key.startswith(("x-amz-meta-", "x-goog-meta-", "x-ms-meta-", "content-type"))
        }
        dated = {"ETag": found.etag, "Last-Modified": found.modified}
        return Response(200, found.body, {**dated, **kept})

    def _error(self, denied: Denied) -> Response:
        also = "".join(f"<{name}>{escape(text)}</{name}>" for name, text in denied.also.items())
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{denied.code}</Code>'
            f"<Message>{escape(str(denied))}</Message>{also}</Error>"
        )
        headers = {"Content-Type": "application/xml"}
        if self.provider == "azure":
            headers["x-ms-error-code"] = denied.code
        return Response(denied.status, body.encode(), headers)


def coded(status: int, code: str, *, process: bool = False) -> Action:
    """Answer *status* with the *code* of the product; with *process* the object is stored too."""
    body = f"<Error><Code>{code}</Code><Message>as asked for</Message></Error>"
    return faults.answer(
        status, body.encode(), {"Content-Type": "application/xml"}, process=process
    )


def _events(body: bytes, name: str) -> list[Any]:
    """Return the events in an object."""
    try:
        text = gzip.decompress(body) if name.endswith(".gz") else body
        lines = text.split(b"\n")
        # The last line must have an end: what follows it is no JSON, but empty.
        return [json.loads(line) for line in (lines if lines[-1] else lines[:-1])]
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise Denied(400, "InvalidRequest", f"not NDJSON: {error}") from error
