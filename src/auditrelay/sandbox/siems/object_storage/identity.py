"""
Where AWS's temporary keys come from: STS, the endpoint of a pod or a task, a machine's metadata.

Of the metadata only version 2 is answered. Each of them gives new keys whenever it is asked.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import parse_qs

from auditrelay.sandbox.messages import Request, Response, json_response
from auditrelay.sandbox.siems.object_storage.signatures import Denied, Key, verify

ROLE = "arn:aws:iam::123456789012:role/audit-writer"
EXTERNAL_ID = "agreed-with-the-owner"
WEB_IDENTITY = "eyJzdWIiOiJhIHdlYiBpZGVudGl0eSJ9"
POD_TOKEN = "a-token-of-the-pod"  # noqa: S105  # not a secret: nothing outside takes it
POD_PATH = "/v1/credentials"
MACHINE_ROLE = "machine-role"

_METADATA = "/latest/meta-data/iam/security-credentials/"


class Identity:
    """
    Issues temporary keys into *keys*, each for *life* seconds.

    *clock* gives epoch seconds. :attr:`issued` counts them by where they came from.
    """

    def __init__(self, keys: dict[str, Key], clock: Callable[[], float], region: str) -> None:
        self.life = 3600.0
        self.issued: dict[str, int] = {"role": 0, "web": 0, "pod": 0, "machine": 0}
        self._keys = keys
        self._clock = clock
        self._region = region
        self._sessions: set[str] = set()

    def respond(  # noqa: PLR0911  # one place after the other
        self, request: Request
    ) -> Response | None:
        """Answer *request*; None: it is for none of these."""
        match request.method, request.path:
            case "POST", "/":
                return self._sts(request)
            case "GET", path if path == POD_PATH:
                if request.headers.get("authorization") != POD_TOKEN:
                    return json_response(401, {"message": "invalid authorization token"})
                return self._as_json("pod", code=False)
            case "PUT", "/latest/api/token":
                if "x-aws-ec2-metadata-token-ttl-seconds" not in request.headers:
                    return Response(400)
                session = f"session-{len(self._sessions)}"
                self._sessions.add(session)
                return Response(200, session.encode())
            case "GET", path if path.startswith(_METADATA):
                return self._metadata(request, path.removeprefix(_METADATA))
        return None

    def _metadata(self, request: Request, role: str) -> Response:
        if request.headers.get("x-aws-ec2-metadata-token") not in self._sessions:
            return Response(401)  # as version 1 would ask
        if not role:
            return Response(200, MACHINE_ROLE.encode())
        return self._as_json("machine") if role == MACHINE_ROLE else Response(404)

    def _as_json(self, origin: str, *, code: bool = True) -> Response:
        key_id, key = self._issue(origin)
        answer = {
            "AccessKeyId": key_id,
            "SecretAccessKey": key.secret,
            "Token": key.token,
            "Expiration": _iso(key.ends or 0.0),
        }
        return json_response(200, {"Code": "Success", **answer} if code else answer)

    def _sts(self, request: Request) -> Response:
        fields = {name: values[-1] for name, values in parse_qs(request.body.decode()).items()}
        action = fields.get("Action", "")
        try:
            self._check(request, fields, action)
        except Denied as denied:
            body = f"<Error><Code>{denied.code}</Code><Message>{denied}</Message></Error>"
            return _xml(denied.status, f"<ErrorResponse>{body}</ErrorResponse>")
        key_id, key = self._issue("role" if action == "AssumeRole" else "web")
        return _xml(
            200,
            f"<{action}Response><{action}Result><Credentials><AccessKeyId>{key_id}</AccessKeyId>"
            f"<SecretAccessKey>{key.secret}</SecretAccessKey><SessionToken>{key.token}"
            f"</SessionToken><Expiration>{_iso(key.ends or 0.0)}</Expiration></Credentials>"
            f"</{action}Result></{action}Response>",
        )

    def _check(self, request: Request, fields: dict[str, str], action: str) -> None:
        if fields.get("Version") != "2011-06-15":
            raise Denied(400, "InvalidAction", f"Could not find operation {action}")
        if fields.get("RoleArn") != ROLE:
            raise Denied(403, "AccessDenied", "is not authorized to perform: sts:AssumeRole")
        match action:
            case "AssumeRole":
                verify(request, self._keys, scheme="AWS4", region=self._region, service="sts")
                if fields.get("ExternalId") != EXTERNAL_ID:
                    raise Denied(403, "AccessDenied", "is not authorized to perform: AssumeRole")
            case "AssumeRoleWithWebIdentity":
                if fields.get("WebIdentityToken") != WEB_IDENTITY:
                    raise Denied(400, "ExpiredTokenException", "Token expired")
            case _:
                raise Denied(400, "InvalidAction", f"Could not find operation {action}")

    def _issue(self, origin: str) -> tuple[str, Key]:
        self.issued[origin] += 1
        number = f"{origin}{self.issued[origin]:04}"
        key_id = f"ASIA{number.upper():0>16}"
        # What base64 may have, so that escaping is tested.
        key = Key(f"temporary/secret+{number}", f"token//of+{number}==", self._clock() + self.life)
        self._keys[key_id] = key
        return key_id, key


def _xml(status: int, text: str) -> Response:
    return Response(status, text.encode(), {"Content-Type": "text/xml"})


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
