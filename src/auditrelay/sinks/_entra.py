"""
What identifies a sink to services of Azure: a token of Microsoft Entra ID, in three ways.

* An application's secret (https://learn.microsoft.com/en-us/entra/identity-platform/
  v2-oauth2-client-creds-grant-flow).
* ``workload``: a token that the platform writes to a file, such as AKS; Entra ID changes it into
  one of its own.
* ``managed``: Azure itself gives the token to the machine, the app or the container
  (https://learn.microsoft.com/en-us/entra/identity/managed-identities-azure-resources/
  how-to-use-vm-token), at an address that only it can reach.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

import orjson
from pydantic import field_validator, model_validator

from auditrelay.clock import Clock
from auditrelay.errors import ConfigError, Refused, Retryable
from auditrelay.files import read_file
from auditrelay.http.credentials import KeyCredentials
from auditrelay.http.grants import MAX_REPLY_BYTES, Granted, read_grant, seconds
from auditrelay.http.peer import Peer
from auditrelay.http.replies import Reply
from auditrelay.http.tokens import TokenCredentials, TokenRequest, shared
from auditrelay.settings import PeerSettings, SinkSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Secret
from auditrelay.telemetry.metrics import Metrics
from auditrelay.telemetry.scrubber import scrubber

Cloud = Literal["public", "government", "china"]

AUTHORITIES: Final[Mapping[Cloud, str]] = {
    "public": "https://login.microsoftonline.com",
    "government": "https://login.microsoftonline.us",
    "china": "https://login.chinacloudapi.cn",
}
"""Where Entra ID gives tokens, by cloud."""

METADATA: Final = "http://169.254.169.254/metadata/identity/oauth2/token"
"""
Where a virtual machine in Azure gets its token.

It is link-local, so settings refuse it as an address: only this constant leads there.
"""

_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
_GUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_FORM: Final = {"content-type": "application/x-www-form-urlencoded"}
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_MAX_ASSERTION: Final = 64 * 1024


class EntraSettings(SinkSettings):
    """The keys by which a sink in Azure is identified."""

    cloud: Cloud = "public"
    authority: Address | None = None
    """Where Entra ID gives tokens, in a cloud that has its own address for that."""
    tenant_id: str | None = None
    """The directory of the application: its id, or a domain of it."""
    client_id: str | None = None
    """The id of the application, or of a managed identity that is assigned by the user."""
    client_secret: Secret | None = None
    identity: Literal["managed", "workload"] | None = None
    """Instead of a secret: where the platform identifies what runs on it."""

    @property
    def token_authority(self) -> str | None:
        """The address of Entra ID; None if a managed identity needs none."""
        if self.identity == "managed":
            return None
        return self.authority or AUTHORITIES[self.cloud]

    @field_validator("tenant_id")
    @classmethod
    def _is_a_tenant(cls, tenant: str | None) -> str | None:
        if tenant is not None and not _TENANT.fullmatch(tenant):
            raise ValueError("is not a tenant: write its id (a GUID) or a domain of it")
        return tenant

    @field_validator("client_id")
    @classmethod
    def _is_a_client(cls, client: str | None) -> str | None:
        if client is not None and not _GUID.fullmatch(client):
            raise ValueError("is not the id of an application: it is a GUID, not a name")
        return client

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if (self.client_secret is None) == (self.identity is None):
            raise ValueError(
                'client_secret and identity: set one; identity = "managed" or "workload" where '
                "Azure or the cluster identifies what runs on it"
            )
        if self.identity == "managed" and self.tenant_id is not None:
            raise ValueError("tenant_id: a managed identity has none to choose; remove it")
        if self.identity == "managed" and self.authority is not None:
            raise ValueError("authority: a managed identity does not ask Entra ID; remove it")
        for key, variable in _VARIABLES.items():
            if getattr(self, key) is None and self.identity != "managed":
                if self.identity is None:
                    raise ValueError(f"{key}: is missing; client_secret needs it")
                if not os.environ.get(variable):
                    raise ValueError(
                        f"{key}: is missing, and the environment has no {variable} either; where "
                        "the webhook of workload identity has set it, leave the key out"
                    )
        return self


_VARIABLES: Final = {"tenant_id": "AZURE_TENANT_ID", "client_id": "AZURE_CLIENT_ID"}
"""What the webhook of workload identity sets, by the key that it stands for."""


def token_credentials(
    name: str, settings: EntraSettings, resource: str, metrics: Metrics, clock: Clock
) -> TokenCredentials:
    """
    Return what identifies the sink *name* to *resource*, such as ``https://monitor.azure.com``.

    Raises ConfigError if what the platform should have set is not there.
    """
    request, asked = _request(name, settings, resource)
    endpoint = Peer(
        name,
        asked.settings,
        base_url=asked.address,
        credentials=KeyCredentials(dict),
        metrics=metrics,
        clock=clock,
        max_body_bytes=MAX_REPLY_BYTES,
        tells_time=False,
    )
    token = shared(clock, asked.client)
    return TokenCredentials(name, request, endpoint, token, "Bearer ")


class _Asked(NamedTuple):
    """Where a token is asked for, how that is reached, and the client as a digest."""

    address: str
    settings: PeerSettings
    client: str


def _request(name: str, settings: EntraSettings, resource: str) -> tuple[TokenRequest, _Asked]:
    if settings.identity == "managed":
        given = _ManagedIdentity.of(name, settings, resource)
        # Past any proxy: the address means this machine.
        here = PeerSettings(timeout=settings.timeout, allow_insecure_http=True)
        client = _digest(given.address, resource, settings.client_id or "")
        return given, _Asked(given.address, here, client)
    tenant, client_id = (
        getattr(settings, key) or os.environ[variable] for key, variable in _VARIABLES.items()
    )
    address = f"{settings.token_authority}/{tenant}/oauth2/v2.0/token"
    scope = f"{resource}/.default"
    asked = _Asked(address, settings, _digest(address, scope, client_id))
    if settings.client_secret is not None:
        return _ClientSecret(client_id, scope, settings.client_secret), asked
    file = os.environ.get("AZURE_FEDERATED_TOKEN_FILE")
    if not file:
        raise ConfigError(
            f'{name}: identity = "workload" needs $AZURE_FEDERATED_TOKEN_FILE, which the webhook '
            "of workload identity sets; it is not set"
        )
    return _Workload(client_id, scope, Path(file)), asked


def _digest(*asked: str) -> str:
    return hashlib.sha256(orjson.dumps(asked)).hexdigest()


@dataclass(frozen=True, slots=True)
class _ClientSecret:
    """An application and its secret."""

    client_id: str
    scope: str
    secret: Secret

    @property
    def secrets(self) -> Sequence[Secret]:
        """See :class:`TokenRequest`."""
        return (self.secret,)

    async def send(self, endpoint: Peer) -> Reply:
        """See :class:`TokenRequest`."""
        fields = {"client_secret": self.secret.reveal()}
        return await _post(endpoint, self.client_id, self.scope, fields)

    def read(self, reply: Reply) -> Granted:
        """See :class:`TokenRequest`."""
        return read_grant(reply, hint="check tenant_id, client_id and client_secret")


@dataclass(frozen=True, slots=True)
class _Workload:
    """A token that the platform keeps in *file*: it changes, so it is read each time."""

    client_id: str
    scope: str
    file: Path

    @property
    def secrets(self) -> Sequence[Secret]:
        """See :class:`TokenRequest`; there are none of the operator's."""
        return ()

    async def send(self, endpoint: Peer) -> Reply:
        """See :class:`TokenRequest`."""
        try:
            content = await asyncio.to_thread(read_file, self.file, _MAX_ASSERTION)
            assertion = content.decode("ascii").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not a token"
            raise Refused(f"AZURE_FEDERATED_TOKEN_FILE: cannot read {self.file}: {why}") from None
        if not assertion:
            raise Refused(f"AZURE_FEDERATED_TOKEN_FILE: {self.file} is empty")
        scrubber.learn_renewed(assertion, whole=True)
        fields = {"client_assertion_type": _ASSERTION_TYPE, "client_assertion": assertion}
        return await _post(endpoint, self.client_id, self.scope, fields)

    def read(self, reply: Reply) -> Granted:
        """See :class:`TokenRequest`."""
        try:
            return read_grant(reply, hint="check tenant_id and client_id")
        except Refused as error:
            raise Refused(
                f"{error}; check the federated credential of the application too: its issuer, "
                "subject and audience",
                status=error.status,
            ) from None


async def _post(endpoint: Peer, client_id: str, scope: str, proof: Mapping[str, str]) -> Reply:
    fields = {"grant_type": "client_credentials", "client_id": client_id, "scope": scope, **proof}
    return await endpoint.request("POST", "", headers=_FORM, content=urlencode(fields).encode())


@dataclass(frozen=True, slots=True)
class _ManagedIdentity:
    """What Azure gives to the app (App Service, Container Apps), or else to the machine."""

    address: str
    params: Mapping[str, str]
    header: str
    value: str

    @classmethod
    def of(cls, name: str, settings: EntraSettings, resource: str) -> Self:
        """Return the request of where this runs. Raises ConfigError for an address that is none."""
        address, value = map(os.environ.get, ("IDENTITY_ENDPOINT", "IDENTITY_HEADER"))
        is_app = bool(address and value)
        params = {
            "api-version": "2019-08-01" if is_app else "2018-02-01",
            "resource": resource,
            **({} if settings.client_id is None else {"client_id": settings.client_id}),
        }
        if not (address and value):
            return cls(METADATA, params, "Metadata", "true")
        if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
            raise ConfigError(f"{name}: $IDENTITY_ENDPOINT is not an address")
        return cls(address, params, "X-IDENTITY-HEADER", value)

    @property
    def secrets(self) -> Sequence[Secret]:
        """See :class:`TokenRequest`; there are none of the operator's."""
        return ()

    async def send(self, endpoint: Peer) -> Reply:
        """See :class:`TokenRequest`."""
        scrubber.learn_renewed(self.value, whole=True)
        try:
            return await endpoint.request(
                "GET", "", params=self.params, headers={self.header: self.value}
            )
        except Retryable as error:
            if error.reason not in ("connect", "timeout"):
                raise
            raise Retryable(
                f"{error}; does this run in Azure, with a managed identity?", reason=error.reason
            ) from None

    def read(self, reply: Reply) -> Granted:
        """See :class:`TokenRequest`. App Service says when a token ends, not how long it holds."""
        granted = read_grant(
            reply, hint="check that an identity is assigned, and client_id if there are several"
        )
        if granted.life is None:
            until = seconds((reply.object() or {}).get("expires_on"))
            life = None if until is None else until - reply.at.timestamp()
            granted = replace(granted, life=life if life is not None and life > 0 else None)
        return granted
