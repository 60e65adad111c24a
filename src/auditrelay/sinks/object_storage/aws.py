"""
Where AWS's access keys come from, and the signing of requests with them.

In this order, as AWS's own libraries have it: the keys of the sink; those of the environment; a web
identity (a token in a file, for which STS gives keys); the pod's or the task's endpoint; the
machine's metadata (IMDSv2 alone). On top of any of them a role may be assumed. The addresses are
AWS's own, or what its own variables say; no key of the sink moves them.
docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlencode, urlsplit

import httpx

from auditrelay.clock import Clock
from auditrelay.errors import Refused, RelayError, Retryable
from auditrelay.files import read_file
from auditrelay.http.credentials import Credentials, KeyCredentials, Rotation
from auditrelay.http.grants import Granted
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply, misshapen
from auditrelay.http.tokens import SharedToken
from auditrelay.settings.secrets import Secret
from auditrelay.sinks._requests import clean, error_for
from auditrelay.sinks.object_storage.settings import Settings, domain
from auditrelay.sinks.object_storage.sigv4 import AWS, Keys, Scheme, signature
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrubber

_EARLY: Final = timedelta(minutes=4)
"""Temporary keys count as over so much sooner; a minute before that, others are asked for."""

_LOCAL_TIMEOUT: Final = timedelta(seconds=5)
"""For the metadata of the machine, which is near or not there at all."""

_TOKEN_BYTES: Final = 64 * 1024
"""The most bytes of a token in a file."""

_NO_KEYS: Final = (
    "no access keys: set access_key_id and secret_access_key, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY in the environment, or run where AWS gives a role to the pod or the "
    "machine"
)


class Taken(NamedTuple):
    """Keys, and for how many seconds they hold; None: as long as the operator leaves them."""

    keys: Keys
    life: float | None = None


class Origin(Protocol):
    """Where keys come from."""

    temporary: bool
    """Whether others come when these are over."""

    @property
    def secrets(self) -> Sequence[Secret]:
        """The operator's secrets in it."""

    async def take(self) -> Taken:
        """Return keys. Raises Refused if an operator must act, and Retryable."""

    async def aclose(self) -> None:
        """Release connections."""


class SignedRequests:
    """
    Credentials that sign each request for *service* in *region*, with the keys of *origin*.

    Keys that are temporary are replaced before they end, and when they are refused.
    """

    def __init__(
        self, origin: Origin, clock: Clock, *, region: str, service: str, scheme: Scheme = AWS
    ) -> None:
        self._origin = origin
        self._clock = clock
        self._region = region
        self._service = service
        self._scheme = scheme
        self._rotation = Rotation(origin.secrets)
        self._held = SharedToken(clock)
        self._keys = Keys("", "")

    async def prepare(self) -> int:
        """See :class:`Credentials`."""
        try:
            return await self._held.fresh(self, self._take)
        except (Retryable, Refused) as error:
            error.sent = False  # what the keys are for was not sent
            raise

    async def _take(self) -> Granted:
        self._keys, life = await self._origin.take()
        return Granted(Secret(self._keys.secret), life)

    def headers(self, request: httpx.Request) -> Mapping[str, str]:
        """Return the signature of *request*."""
        keys = self._keys
        if self._origin.temporary:
            # Once more: the scrubber forgets the oldest of many.
            scrubber.learn_renewed(keys.secret, keys.token, whole=True)
        return signature(
            request,
            keys,
            region=self._region,
            service=self._service,
            now=self._clock.now(),
            scheme=self._scheme,
        )

    async def renewed(self, number: int, _status: int) -> bool:
        """See :class:`Credentials`: temporary keys are always replaced, others if they changed."""
        changed = await self._rotation.changed_since(self._rotation.count)
        if not (changed or self._origin.temporary):
            return number != self._held.number
        self._held.drop(number)
        return True

    async def aclose(self) -> None:
        """See :class:`Credentials`."""
        await self._origin.aclose()


class OwnKeys:
    """The keys of the sink, or of the environment."""

    temporary = False

    def __init__(self, id: str, secret: Secret, token: str = "") -> None:  # noqa: A002  # its name
        self._id = id
        self._secret = secret
        self._token = token
        self.secrets: Sequence[Secret] = [secret]

    async def take(self) -> Taken:
        """See :class:`Origin`."""
        return Taken(Keys(self._id, self._secret.reveal(), self._token))

    async def aclose(self) -> None:
        """See :class:`Origin`; nothing is open."""


class AssumedRole:
    """The keys that STS gives for a role: for a signed request, or for a token in *token_file*."""

    temporary = True

    def __init__(
        self,
        sts: Peer,
        clock: Clock,
        *,
        role: str,
        session: str,
        external_id: str | None = None,
        token_file: Path | None = None,
        secrets: Sequence[Secret] = (),
    ) -> None:
        self._sts = sts
        self._clock = clock
        self._role = role
        self._session = session
        self._external_id = external_id
        self._token_file = token_file
        self.secrets = secrets

    async def take(self) -> Taken:
        """See :class:`Origin`."""
        fields = {
            "Action": "AssumeRole",
            "Version": "2011-06-15",
            "RoleArn": self._role,
            "RoleSessionName": self._session,
        }
        if self._external_id is not None:
            fields["ExternalId"] = self._external_id
        if self._token_file is not None:
            fields["Action"] = "AssumeRoleWithWebIdentity"
            fields["WebIdentityToken"] = await asyncio.to_thread(_token_in, self._token_file)
        reply = await self._sts.request(
            "POST",
            "/",
            headers={
                "content-type": "application/x-www-form-urlencoded",
                "accept": "application/xml",
            },
            content=urlencode(fields).encode(),
        )
        if reply.status != 200:
            raise self._failure(reply)
        return _taken(
            reply, lambda name: _element(reply, name), self._clock.now(), session="SessionToken"
        )

    def _failure(self, reply: Reply) -> RelayError:
        code, message = _element(reply, "Code"), _element(reply, "Message")
        text = f"{message} ({code})" if code else ""
        if code == "Throttling" or reply.status >= 500 or not 400 <= reply.status < 500:
            return error_for(reply, message=text)
        if reply.status == 429:
            return error_for(reply, message=text)
        return Refused(
            f"{reply.status} from {reply.where}: {clean(text)}; the role {self._role} cannot be "
            "assumed: check that it trusts these credentials, and external_id",
            status=reply.status,
        )

    async def aclose(self) -> None:
        """See :class:`Origin`."""
        await self._sts.aclose()


class OfContainer:
    """The keys of a pod or a task, from the endpoint that its environment names."""

    temporary = True
    secrets: Sequence[Secret] = ()

    def __init__(
        self, peer: Peer, path: str, clock: Clock, *, token: str, token_file: Path | None
    ) -> None:
        self._peer = peer
        self._path = path
        self._clock = clock
        self._token = token
        self._token_file = token_file

    async def take(self) -> Taken:
        """See :class:`Origin`."""
        token = self._token
        if self._token_file is not None:
            token = await asyncio.to_thread(_token_in, self._token_file)
        headers = {"authorization": token} if token else {}
        reply = await self._peer.request("GET", self._path, headers=headers)
        if reply.status != 200:
            raise _of_machine(reply)
        return _taken(reply, _fields(reply), self._clock.now())

    async def aclose(self) -> None:
        """See :class:`Origin`."""
        await self._peer.aclose()


class OfMachine:
    """The keys of the role of the machine, from its metadata, version 2 alone."""

    temporary = True
    secrets: Sequence[Secret] = ()

    def __init__(self, peer: Peer, clock: Clock) -> None:
        self._peer = peer
        self._clock = clock

    async def take(self) -> Taken:
        """See :class:`Origin`."""
        try:
            reply = await self._peer.request(
                "PUT",
                "/latest/api/token",
                headers={"x-aws-ec2-metadata-token-ttl-seconds": "21600"},
                content=b"",
            )
        except Retryable as error:
            raise Refused(f"{_NO_KEYS} ({error})") from error
        if reply.status != 200:
            raise _of_machine(reply)
        session = reply.body.decode("ascii", "replace").strip()
        scrubber.learn_renewed(session, whole=True)
        role = await self._get("", session)
        name = role.body.decode("ascii", "replace").strip().partition("\n")[0]
        if not re.fullmatch(r"[\w+=,.@-]{1,128}", name, re.ASCII):
            raise misshapen(role, "it is not the name of a role")
        reply = await self._get(name, session)
        return _taken(reply, _fields(reply), self._clock.now())

    async def _get(self, name: str, session: str) -> Reply:
        reply = await self._peer.request(
            "GET",
            f"/latest/meta-data/iam/security-credentials/{name}",
            headers={"x-aws-ec2-metadata-token": session},
        )
        if reply.status == 404:
            raise Refused(f"{_NO_KEYS}; this machine has no role", status=404)
        if reply.status != 200:
            raise _of_machine(reply)
        return reply

    async def aclose(self) -> None:
        """See :class:`Origin`."""
        await self._peer.aclose()


class Origins:
    """Makes the origin that the *settings* of the sink called *name* and the environment say."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        metrics: Metrics,
        clock: Clock,
        environ: Mapping[str, str],
    ) -> None:
        self._name = name
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._environ = environ
        self._region = settings.region or ""

    def make(self) -> Origin:
        """Return it, with the role on top if there is one."""
        settings = self._settings
        base = self._base()
        if settings.role_arn is None:
            return base
        signed = SignedRequests(base, self._clock, region=self._region, service="sts")
        return AssumedRole(
            self._peer(self._sts, signed),
            self._clock,
            role=settings.role_arn,
            session=self._session,
            external_id=settings.external_id,
            secrets=base.secrets,
        )

    def _base(self) -> Origin:
        settings, environ = self._settings, self._environ
        if settings.access_key_id is not None and settings.secret_access_key is not None:
            return OwnKeys(settings.access_key_id, settings.secret_access_key)
        key_id, secret = environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY")
        if key_id and secret:
            of_environment, token = Secret(secret), environ.get("AWS_SESSION_TOKEN", "")
            scrubber.learn(of_environment, *([Secret(token)] if token else []))
            return OwnKeys(key_id, of_environment, token)
        file, role = environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"), environ.get("AWS_ROLE_ARN")
        if file and role:
            return AssumedRole(
                self._peer(self._sts, KeyCredentials(dict)),
                self._clock,
                role=role,
                session=self._session,
                token_file=Path(file),
            )
        return self._of_container() or OfMachine(
            self._local(environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254")),
            self._clock,
        )

    def _of_container(self) -> Origin | None:
        environ = self._environ
        relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
        full = environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        if relative:
            full = f"http://169.254.170.2{relative}"
        if not full:
            return None
        parts = urlsplit(full)
        file = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
        return OfContainer(
            self._local(f"{parts.scheme}://{parts.netloc}"),
            f"{parts.path}?{parts.query}" if parts.query else parts.path,
            self._clock,
            token=environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN", ""),
            token_file=Path(file) if file else None,
        )

    @property
    def _sts(self) -> str:
        own = f"https://sts.{self._region}.{domain(self._region)}"
        return self._environ.get("AWS_ENDPOINT_URL_STS", own).rstrip("/")

    @property
    def _session(self) -> str:
        return self._environ.get("AWS_ROLE_SESSION_NAME", "auditrelay")

    def _peer(self, base_url: str, credentials: Credentials) -> Peer:
        return Peer(
            self._name,
            self._settings,
            base_url=base_url,
            credentials=credentials,
            metrics=self._metrics,
            clock=self._clock,
            tells_time=False,
        )

    def _local(self, base_url: str) -> Peer:
        # What is on the machine, or beside it, no proxy reaches.
        timeout = min(self._settings.timeout, _LOCAL_TIMEOUT)
        direct = self._settings.model_copy(update={"proxy": None, "timeout": timeout})
        return Peer(
            self._name,
            direct,
            base_url=base_url.rstrip("/"),
            credentials=KeyCredentials(dict),
            metrics=self._metrics,
            clock=self._clock,
            tells_time=False,
        )


def _token_in(file: Path) -> str:
    """Return the token in *file*, read each time: it is replaced every hour or so."""
    try:
        token = read_file(file, _TOKEN_BYTES).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise Refused(f"the token for AWS in {file} cannot be read: {error}") from error
    scrubber.learn_renewed(token, whole=True)
    return token


def _element(reply: Reply, name: str) -> str:
    text = reply.body[:65536].decode("utf-8", "replace")
    found = re.search(rf"<{name}>([^<]{{1,8192}})</{name}>", text)
    return "" if found is None else unescape(found[1]).strip()


def _fields(reply: Reply) -> Any:
    """Return a function of the fields of a JSON *reply*."""
    try:
        answer = json.loads(reply.body)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise misshapen(reply, "it is not a JSON object")
    return lambda name: value if isinstance(value := answer.get(name), str) else ""


def _taken(reply: Reply, field: Any, now: datetime, *, session: str = "Token") -> Taken:
    """Return the keys that *field* finds in *reply*, and their life from *now* on."""
    keys = Keys(field("AccessKeyId"), field("SecretAccessKey"), field(session))
    scrubber.learn_renewed(keys.secret, keys.token, whole=True)
    if not (keys.id and keys.secret and keys.token):
        raise misshapen(reply, "it has no access keys")
    if not all(each.isascii() and each.isprintable() for each in keys):
        raise misshapen(reply, "its access keys have a character that no header may have")
    try:
        ends = datetime.fromisoformat(field("Expiration"))
    except ValueError:
        raise misshapen(reply, "it does not say when its access keys end") from None
    ends = ends if ends.tzinfo is not None else ends.replace(tzinfo=UTC)
    return Taken(keys, max((ends - _EARLY - now).total_seconds(), 1.0))


def _of_machine(reply: Reply) -> RelayError:
    """Return the error for a *reply* of the machine's or pod's own endpoint that is no success."""
    if reply.status == 429 or reply.status >= 500:
        return error_for(reply)
    return Refused(
        f"{reply.status} from {reply.where}: no access keys for AWS; check the role of the machine "
        "or the pod",
        status=reply.status,
    )
