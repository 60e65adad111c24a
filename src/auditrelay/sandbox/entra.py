"""
Microsoft Entra ID, and the places in Azure that give a token to what runs there.

One double for three: the token endpoint of a tenant (client secret, federated token), the metadata
service of a virtual machine, and the identity endpoint of an app. Stricter than the products where
they are lenient: each parameter must be there once, and no other.

https://learn.microsoft.com/en-us/entra/identity-platform/v2-oauth2-client-creds-grant-flow and
.../entra/identity/managed-identities-azure-resources/how-to-use-vm-token.
"""

import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any
from urllib.parse import parse_qsl

from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.server import Double

TENANT = "11111111-aaaa-4bbb-8ccc-000000000001"
CLIENT_ID = "22222222-aaaa-4bbb-8ccc-000000000002"
CLIENT_SECRET = "sandbox-entra-client-secret-not-real"  # noqa: S105  # so it says
IDENTITY_HEADER = "5B0D3E1F2A4C46B8sandboxnotreal01"
ASSERTION = "sandbox.Zm9yIHRoZSBzYW5kYm94.not7a4real2one"

MACHINE_PATH = "/metadata/identity/oauth2/token"
APP_PATH = "/msi/token"

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Entra(Double):
    """Gives tokens to one application, and to one managed identity. *life* is in seconds."""

    def __init__(self, *, life: float = 3600, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.life = life
        self.client_secret = CLIENT_SECRET
        self.assertions = {ASSERTION}
        """The federated tokens that it accepts."""
        self.granted: list[str] = []
        """Every token that it gave."""
        self._valid: dict[str, tuple[float, str]] = {}
        """By token: until when it holds, and for which resource."""
        self._numbers = count(1)

    def accepts(self, token: str, resource: str) -> bool:
        """Return whether *token* holds, and is for *resource*."""
        until, of = self._valid.get(token, (0.0, ""))
        return until > self.clock() and of == resource

    def revoke(self) -> None:
        """End every token."""
        self._valid.clear()

    def respond(self, request: Request) -> Response:
        """Give a token, or refuse in the words of the product that was asked."""
        if request.path == MACHINE_PATH:
            return self._of_machine(request)
        if request.path == APP_PATH:
            return self._of_app(request)
        tenant, _, rest = request.path.removeprefix("/").partition("/")
        if rest != "oauth2/v2.0/token" or request.method != "POST":
            return Response(404)
        if tenant != TENANT:
            return _refusal(400, "invalid_request", 90002, f"Tenant '{tenant}' not found.")
        return self._of_application(request)

    def _of_application(  # noqa: PLR0911  # one check after the other
        self, request: Request
    ) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != (
            "application/x-www-form-urlencoded"
        ):
            return _refusal(400, "invalid_request", 900144, "The request body must be a form.")
        pairs = parse_qsl(request.body.decode(), keep_blank_values=True)
        form = dict(pairs)
        proof = {"client_assertion", "client_assertion_type"}
        if "client_secret" in form:
            proof = {"client_secret"}
        expected = {"grant_type", "client_id", "scope", *proof}
        if len(form) != len(pairs) or form.keys() != expected or request.query:
            return _refusal(400, "invalid_request", 900144, "A parameter is missing or unknown.")
        if form["grant_type"] != "client_credentials":
            return _refusal(400, "unsupported_grant_type", 70003, "The grant is not supported.")
        if form["client_id"] != CLIENT_ID:
            why = f"Application with identifier '{form['client_id']}' was not found."
            return _refusal(400, "unauthorized_client", 700016, why)
        resource, _, what = form["scope"].rpartition("/")
        if what != ".default":
            return _refusal(400, "invalid_scope", 1002012, "The scope must end in /.default.")
        if not self._proves(form):
            return _refusal(401, "invalid_client", *_NO_PROOF["client_secret" in form])
        return json_response(
            200,
            {
                "token_type": "Bearer",
                "expires_in": int(self.life),
                "ext_expires_in": int(self.life),
                "access_token": self._token(resource),
            },
        )

    def _proves(self, form: Mapping[str, str]) -> bool:
        if "client_secret" in form:
            return form["client_secret"] == self.client_secret
        return (
            form["client_assertion_type"] == _ASSERTION_TYPE
            and form["client_assertion"] in self.assertions
        )

    def _of_machine(self, request: Request) -> Response:
        if request.headers.get("metadata") != "true":
            return _plain(400, "invalid_request", "Required metadata header not specified")
        if "x-forwarded-for" in request.headers:
            return _plain(400, "invalid_request", "X-Forwarded-For is not allowed")
        refusal = _of_query(request, "2018-02-01")
        if refusal is not None:
            return refusal
        # Everything is a text here, numbers too.
        until = self.clock() + self.life
        return json_response(
            200,
            {
                "access_token": self._token(request.query["resource"]),
                "client_id": CLIENT_ID,
                "expires_in": str(int(self.life)),
                "expires_on": str(int(until)),
                "not_before": str(int(self.clock())),
                "resource": request.query["resource"],
                "token_type": "Bearer",
            },
        )

    def _of_app(self, request: Request) -> Response:
        if request.headers.get("x-identity-header") != IDENTITY_HEADER:
            return Response(401)
        refusal = _of_query(request, "2019-08-01")
        if refusal is not None:
            return refusal
        return json_response(
            200,
            {
                "access_token": self._token(request.query["resource"]),
                "expires_on": str(int(self.clock() + self.life)),
                "resource": request.query["resource"],
                "token_type": "Bearer",
                "client_id": CLIENT_ID,
            },
        )

    def _token(self, resource: str) -> str:
        token = f"sandbox.dG9rZW4gb2YgZW50cmE{next(self._numbers)}.not3a8real1one"
        self._valid[token] = self.clock() + self.life, resource
        self.granted.append(token)
        return token


_NO_PROOF = {
    True: (7000215, "Invalid client secret provided."),
    False: (70021, "No matching federated identity record found for presented assertion."),
}


def _of_query(request: Request, version: str) -> Response | None:
    """Return the refusal of a managed identity's query, if there is one."""
    if request.method != "GET":
        return Response(405)
    query = request.query
    if query.get("api-version") != version or not query.get("resource"):
        return _plain(400, "invalid_request", "api-version or resource is missing or wrong")
    if query.keys() - {"api-version", "resource", "client_id"}:
        return _plain(400, "invalid_request", "unknown parameter")
    if query.get("client_id", CLIENT_ID) != CLIENT_ID:
        return _plain(400, "invalid_request", "Identity not found")
    return None


def _plain(status: int, code: str, text: str) -> Response:
    return json_response(status, {"error": code, "error_description": text})


def _refusal(status: int, code: str, number: int, text: str) -> Response:
    words: dict[str, Any] = {
        "error": code,
        "error_description": f"AADSTS{number}: {text} Trace ID: 0 Correlation ID: 0",
        "error_codes": [number],
        "trace_id": "0",
        "correlation_id": "0",
    }
    return json_response(status, words)
