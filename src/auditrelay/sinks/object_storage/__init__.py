"""
Store events as objects: S3 and what speaks like it, Google Cloud Storage, Azure Blob.

A batch is one object a source, NDJSON in gzip, written by one PUT that may only create. A PUT of
the same key is harmless, and the same events always go under the same key, since batches are sealed
(docs/decisions/0042-sealed-batches.md): so every event is in the bucket once, and no object is
written twice, at any distance in time. An object is all or nothing: no event of it has an answer of
its own. The form is ``ocsf`` by default.

The signature is our own (``sigv4``), since libraries hide what the answers prove: a 409 is "again"
at S3, and "there already" at Azure (``providers``).
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from urllib.parse import quote

from auditrelay.clock import Clock
from auditrelay.errors import Retryable
from auditrelay.events import AuditEvent
from auditrelay.events.forms import FORMS, SPLICED
from auditrelay.events.forms.derived import Derived, RenderContext
from auditrelay.events.marks import NO_MARKS
from auditrelay.events.page import Page
from auditrelay.http.credentials import Credentials
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.sinks import (
    Counts,
    Item,
    Limits,
    Part,
    Rendered,
    Sealing,
    Verdict,
    digest_of,
)
from auditrelay.sinks._entra import token_credentials
from auditrelay.sinks._requests import body_of, dump
from auditrelay.sinks.object_storage import names
from auditrelay.sinks.object_storage.aws import Origins, OwnKeys, SignedRequests
from auditrelay.sinks.object_storage.providers import (
    PROVIDERS,
    Provider,
    accepts,
    error,
    is_expired,
    is_there,
    outcome,
)
from auditrelay.sinks.object_storage.settings import EXAMPLE, Settings
from auditrelay.sinks.object_storage.sigv4 import GOOGLE
from auditrelay.telemetry.metrics import Metrics

__all__ = ["EXAMPLE", "Settings", "Sink", "build"]

_UNSEALED = "test"
"""In the key of an object that is not sealed, in place of the state's log: a test event's."""

_AZURE = "https://storage.azure.com"
"""What tokens for Azure's storage are for, in each of its clouds."""

_NEVER_STORED = "auditrelay-check"


def build(name: str, settings: Settings, metrics: Metrics, clock: Clock) -> "Sink":
    """Return the sink that the configuration calls *name*."""
    return Sink(name, settings, metrics, clock, environ=os.environ)


def _credentials(
    name: str, settings: Settings, metrics: Metrics, clock: Clock, environ: Mapping[str, str]
) -> Credentials:
    if settings.provider == "gcs":
        assert settings.access_key_id is not None  # noqa: S101  # the settings were validated
        assert settings.secret_access_key is not None  # noqa: S101  # likewise
        keys = OwnKeys(settings.access_key_id, settings.secret_access_key)
        return SignedRequests(keys, clock, region="auto", service="storage", scheme=GOOGLE)
    if settings.provider == "azure":
        return token_credentials(name, settings.entra, _AZURE, metrics, clock)
    origin = Origins(name, settings, metrics, clock, environ).make()
    return SignedRequests(origin, clock, region=settings.region or "", service="s3")


class Sink(Sealing):
    """One bucket, or one container."""

    deduplicates = True

    def __init__(
        self,
        name: str,
        settings: Settings,
        metrics: Metrics,
        clock: Clock,
        *,
        environ: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._provider: Provider = PROVIDERS[settings.provider]
        self._form = FORMS[settings.format]
        self._lines = Derived(self._line, SPLICED[settings.format])
        self._suffix = ".ndjson.gz" if settings.compression == "gzip" else ".ndjson"
        self._credentials = _credentials(name, settings, metrics, clock, environ)
        self._peer = Peer(
            name,
            settings,
            base_url=settings.base_url,
            credentials=self._credentials,
            metrics=metrics,
            clock=clock,
        )

    @property
    def limits(self) -> Limits:
        """As configured: an object may have any size."""
        return Limits(self._settings.batch_events, self._settings.batch_bytes)

    def render(
        self, page: Page, now: int, *, marks: Mapping[str, object] = NO_MARKS
    ) -> list[Rendered]:
        """Return each event of *page* as one line, without its end."""
        return list(map(Rendered, self._lines.texts(page, RenderContext(now, marks))))

    def _line(self, event: AuditEvent, context: RenderContext) -> bytes:
        return dump(self._form(event, marks=context.marks))

    def parts(self, batch: Sequence[Item], log: str, now: datetime) -> list[Part]:
        """Return the parts of *batch*: one a source, or one a source and a day."""
        settings = self._settings
        return names.parts(
            batch,
            log,
            now,
            prefix=settings.prefix,
            partition=settings.partition,
            suffix=self._suffix,
        )

    async def send(self, batch: Sequence[Item]) -> Verdict:
        """Store *batch* without a seal, as a test event: a repeat of it is found by its key."""
        duplicates = 0
        for part in self.parts(batch, _UNSEALED, self._clock.now()):
            events = [batch[index] for index in part.indices]
            duplicates += (await self.put(events, part.name, again=False)).duplicates
        return Verdict(counts=Counts(duplicates=duplicates))

    async def put(self, batch: Sequence[Item], name: str, *, again: bool) -> Counts:
        """Store *batch* as the object *name*, unless there is one; see :class:`Sealing`."""
        digest = digest_of(batch)
        content, _ = await body_of(
            [item.text for item in batch], self._settings.compression, between=b"\n", end=b"\n"
        )
        reply = await self._put(name, content, digest)
        if again and reply.status == 403 and self._provider.hides_existing:
            if await self._is_hidden(name, digest, reply):
                return Counts(duplicates=len(batch))
            raise error(self._provider, reply)
        if outcome(self._provider, reply) == "stored":
            return Counts()
        # Where it may not be looked at, the word of the product is enough: no other writer has keys
        # like ours.
        if await self._look(name, digest) is False:
            raise Retryable(
                f"{reply.where}: the object was there, and is not any more",
                reason="vanished",
                sent=True,
            )
        return Counts(duplicates=len(batch))

    async def _put(self, name: str, content: bytes, digest: str) -> Reply:
        """Send the object, once more if the credentials are over and there are others."""
        for _ in range(2):
            number = await self._credentials.prepare()
            reply = await self._peer.request(
                "PUT",
                self._path(name),
                headers=self._headers(digest),
                content=content,
                has_events=True,
            )
            is_over = is_expired(self._provider, reply)
            if not (is_over and await self._credentials.renewed(number, reply.status)):
                break
        return reply

    def _headers(self, digest: str) -> dict[str, str]:
        settings = self._settings
        gzip = settings.compression == "gzip"
        headers = {
            **self._provider.headers,
            **self._provider.kind,
            **self._provider.condition,
            self._provider.digest: digest,
            # The name ends in .gz; a content encoding as well, and some readers unpack it twice.
            "content-type": "application/gzip" if gzip else "application/x-ndjson",
        }
        prefix = "x-goog-" if settings.provider == "gcs" else "x-amz-"
        optional = {
            f"{prefix}storage-class": settings.storage_class,
            "x-amz-expected-bucket-owner": settings.expected_bucket_owner,
            "x-amz-server-side-encryption": settings.kms_key_id and "aws:kms",
            "x-amz-server-side-encryption-aws-kms-key-id": settings.kms_key_id,
        }
        return headers | {name: value for name, value in optional.items() if value}

    async def holds(self, name: str, digest: str) -> bool:
        """Return whether there is the object *name*; see :class:`Sealing`."""
        found = await self._look(name, digest)
        if found is None:
            raise self._unproven(name)
        return found

    async def _is_hidden(self, name: str, digest: str, refused: Reply) -> bool:
        """Return whether *refused* is of an object that is there, and must not be overwritten."""
        found = await self._look(name, digest)
        if found is None:
            raise self._unproven(name) from error(self._provider, refused)
        return found

    async def _look(self, name: str, digest: str) -> bool | None:
        """Return whether there is the object *name* with *digest*; None: that is not shown."""
        reply = await self._peer.request("HEAD", self._path(name), headers=self._provider.headers)
        return is_there(self._provider, reply, digest)

    def _unproven(self, name: str) -> Retryable:
        return Retryable(
            f"whether the object {name} is stored cannot be found out: the credentials may not "
            f"read it. Its events wait, others go on; allow {self._provider.rights}",
            reason="unproven",
            sent=True,
        )

    def _path(self, name: str) -> str:
        return f"{self._settings.path}/{quote(name, safe='/-_.~')}"

    async def check(self) -> str:
        """Ask for an object that never was: that tests address, bucket and credentials."""
        settings = self._settings
        name = f"{settings.prefix}{_NEVER_STORED}"
        reply = await self._peer.request("GET", self._path(name), headers=self._provider.headers)
        what = f"{settings.base_url} accepts the credentials for {settings.bucket}"
        if accepts(self._provider, reply):
            return what
        return f"{what}, which may not read; only an object shows whether they may write"

    def backfill_notice(self, start: datetime, end: datetime, now: datetime) -> str | None:  # noqa: ARG002
        """Give no notice: an object may have events of any age."""
        return None

    def query(self, uid: str) -> Sequence[str]:
        """Return the command that finds the event *uid*, by the provider's own client."""
        settings = self._settings
        find = f"find . -name '*.ndjson*' -exec zgrep {uid} {{}} +"
        place = f"{settings.bucket}/{settings.prefix}"
        match settings.provider:
            case "s3":
                copy = f"aws s3 sync {shlex.quote(f's3://{place}')} ."
            case "gcs":
                copy = f"gcloud storage rsync -r {shlex.quote(f'gs://{place}')} ."
            case "azure":
                pattern = shlex.quote(f"{settings.prefix}*")
                copy = f"az storage blob download-batch --account-name {settings.account or 'NAME'}"
                copy += f" -s {settings.bucket} -d . --pattern {pattern}"
        return (f"{copy} && {find}",)

    async def close(self) -> None:
        """Close the connections."""
        await self._peer.aclose()
