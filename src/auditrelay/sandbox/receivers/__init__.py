"""
The doubles of receivers that are described in files.

Each reads the file by itself, and believes what it says of a request: another path, another shape,
a time in another spelling, a missing uid are refused. What a real product does besides (what it
drops without a word, what it stores of a request that it refuses) is in the module of its name;
one without a module stores what it is sent. No sandbox or demo has them unless they are asked for.
"""

import base64
import json
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar, Final

from auditrelay.sandbox.messages import BadRequest, Request, Response
from auditrelay.sandbox.receivers.description import Description, Item, Mismatch
from auditrelay.sandbox.siems import Intake

FOLDER: Final = Path(__file__).parents[2] / "descriptions" / "receivers"
"""The shipped descriptions."""

NATIVE_IDS: Final = ("original_event_uid", "native_id")
"""The keys under which forms have the vendor's own id."""


class Receiver(Intake):
    """
    The receiver that *file* describes.

    Subclasses may refuse single events (:meth:`problem`), and answer as the product does
    (:meth:`conclude`). *settings* are those of the description, where they are not its examples.
    """

    NAME: ClassVar = "receiver"
    GIVEN: ClassVar[Mapping[str, str]] = {}
    """Settings of the description that are not its examples."""

    UNAUTHORIZED: ClassVar[tuple[int, str]] = (401, "Unauthorized")
    """Status and text for another credential."""

    FILE: ClassVar[Path | None] = None
    """The file, for a class that is made for one."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        seed: int = 0,
        file: Path | None = None,
    ) -> None:
        super().__init__(clock=clock, seed=seed)
        path = file or self.FILE or FOLDER / f"{self.NAME}.toml"
        self.description = Description(path, dict(self.GIVEN))
        self.most_bytes: int = _bytes(self.description.limits.get("bytes")) or 10_000_000
        self.most_events: int = self.description.limits.get("events", 10**9)
        self.secret_name = next(iter(self.description.secrets), "")

    @property
    def secret(self) -> str:
        """Its first secret; of an address that is one, the whole address."""
        if self.description.request["url"].startswith("secret:"):
            return f"{self.url}/{self.description.secrets[self.secret_name]}"
        return self.description.secrets.get(self.secret_name, "")

    def settings(self) -> dict[str, Any]:
        """Return the settings of a sink that sends to this double."""
        described = self.description
        is_shipped = described.file.parent == FOLDER
        own: dict[str, Any] = {"type": described.name if is_shipped else "http"}
        if not is_shipped:
            own["description"] = str(described.file)
        return {**own, "url": self.url, **described.settings, **self.credentials()}

    def credentials(self) -> dict[str, str]:
        """Return every credential that it accepts, by the key of a sink's settings."""
        return {
            **self.description.secrets,
            **({self.secret_name: self.secret} if self.secret else {}),
        }

    def rotate(self, secret: str) -> None:
        """Accept only *secret* from now on."""
        self.description.secrets[self.secret_name] = secret

    def limit_body(self, size: int) -> None:
        """Answer 413 to a body of more than *size* bytes."""
        self.most_bytes = size

    # -- what a product does

    def problem(self, item: Item) -> str | None:  # noqa: ARG002  # for subclasses
        """Return why the product does not take *item*, or None."""
        return None

    def take(self, items: list[Item]) -> Response:
        """Store what the product stores of a request that has the right form, and answer."""
        problems = [(item, self.problem(item)) for item in items]
        return self.conclude(
            [item for item, why in problems if why is None],
            [(item, why) for item, why in problems if why is not None],
        )

    def conclude(self, good: list[Item], bad: list[tuple[Item, str]]) -> Response:
        """Store what the product stores, and return its answer: all or nothing."""
        if bad:
            return self.refusal(400, bad[0][1])
        self.store(good)
        return self.success(len(good))

    def malformed(self, why: str) -> Response:
        """Return the answer to a body that is not what is described."""
        return self.refusal(400, why)

    def refusal(self, status: int, why: str) -> Response:
        """Return the answer *status* for the reason *why*."""
        body = json.dumps({"error": {"code": status, "message": why}}).encode()
        return Response(status, body, {"Content-Type": "application/json"})

    # -- what all do

    def success(self, count: int) -> Response:
        """Return the answer to a request of which *count* events are stored."""
        status, body = self.description.taken(count)
        return Response(status, body, {"Content-Type": "application/json"} if body else {})

    def store(self, items: list[Item]) -> None:
        """Store *items*; one whose uid makes a repeat harmless once."""
        for item in items:
            if self.DEDUPLICATES and item.uid in self.stored.by_uid:
                continue
            document = _opened(item.value)
            self.stored.add(document, item.uid, _native_id(document))

    def respond(self, request: Request) -> Response:
        """Answer as the receiver would."""
        described = self.description
        check = described.tables.get("check")
        if check is not None and request.method == check.get("method", "GET"):
            own_path = described.check_path
            if request.path == (own_path or self._path) and (
                own_path is not None or request.body == check.get("body", "").encode()
            ):
                return self._refused_credentials(request) or self.checked()
        if request.path != self._path:
            return self._elsewhere(request)
        if request.method != described.request.get("method", "POST"):
            return self.refusal(405, "method not allowed")
        return self._refused_credentials(request) or self._receive(request)

    def checked(self) -> Response:
        """Return the answer to the check of the description."""
        check = self.description.tables["check"]
        answer: dict[str, Any] = {
            path: json.loads(values[0]) for path, values in check.get("where", {}).items()
        }
        return Response(check["statuses"][0], json.dumps(answer).encode() if answer else b"")

    def _elsewhere(self, request: Request) -> Response:  # noqa: ARG002  # for subclasses
        return self.refusal(404, "not found")

    @property
    def _path(self) -> str:
        if self.description.request["url"].startswith("secret:"):
            return f"/{self.description.secrets[self.secret_name]}"
        return self.description.path

    def _receive(self, request: Request) -> Response:
        described = self.description
        if (why := self._unlike(request)) is not None:
            return self.refusal(*why)
        try:
            body = request.content(*(["gzip"] if described.request.get("gzip", True) else []))
            if len(body) > self.most_bytes:
                return self.refusal(413, "the request is too large")
            items = described.items(body)
        except BadRequest as error:
            return self.refusal(error.status, error.reason)
        except Mismatch as error:
            return self.malformed(str(error))
        return self._count(items, request)

    def _count(self, items: list[Item], request: Request) -> Response:
        if len(items) > self.most_events:
            return self.refusal(413, "too many events in one request")
        key = self.description.tables.get("key", {}).get("header")
        if key is not None:
            items = [item._replace(uid=request.headers.get(key.lower())) for item in items]
        if any(item.uid is None for item in items):
            return self.malformed("an event has no uid")
        return self.take(items)

    def _unlike(self, request: Request) -> tuple[int, str] | None:
        """Return status and text if the head of *request* is not what is described."""
        described = self.description
        for name, value in described.params.items():
            if request.query.get(name) != value:
                return 400, f"the parameter {name} is not {value}"
        for name, value in described.headers.items():
            if request.headers.get(name) != value:
                return 400, f"the header {name} is not {value}"
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != described.content_type:
            return 415, f"Content-Type must be {described.content_type}"
        return None

    def _refused_credentials(self, request: Request) -> Response | None:
        for name, value in self._identity().items():
            if request.headers.get(name) != value:
                return self.refusal(*self.UNAUTHORIZED)
        return None

    def _identity(self) -> dict[str, str]:
        """Return the headers that identify a sink."""
        auth, secrets = self.description.auth, self.description.secrets
        match auth["kind"]:
            case "header":
                value = auth.get("prefix", "") + secrets[auth["secret"]]
                return {auth.get("header", "authorization").lower(): value}
            case "headers":
                return {key.lower(): secrets[name] for key, name in auth["headers"].items()}
            case "basic":
                user, password = (self._part(auth[key]) for key in ("user", "password"))
                both = base64.b64encode(f"{user}:{password}".encode()).decode()
                return {"authorization": f"Basic {both}"}
        return {}

    def _part(self, text: str) -> str:
        kind, _, name = text.partition(":")
        if kind == "secret":
            return self.description.secrets[name]
        return self.description.settings[name] if kind == "setting" else name


def available() -> dict[str, type[Receiver]]:
    """Return the double of every receiver of which a description is shipped, by its type."""
    modules = {module.name for module in iter_modules(__path__)}
    return {
        file.stem: _of_module(file.stem) if file.stem in modules else Receiver
        for file in sorted(FOLDER.glob("*.toml"))
    }


def double(which: str, *, clock: Callable[[], float] = time.time, seed: int = 0) -> Receiver:
    """Return the double of the shipped receiver *which*, or of the description in that file."""
    shipped = available()
    if which in shipped:
        name = FOLDER / f"{which}.toml"
        return shipped[which](clock=clock, seed=seed, file=name)
    return Receiver(clock=clock, seed=seed, file=Path(which).resolve())


def _of_module(name: str) -> type[Receiver]:
    module = import_module(f"{__name__}.{name}")
    return next(
        thing
        for thing in vars(module).values()
        if isinstance(thing, type)
        and issubclass(thing, Receiver)
        and thing.__module__ == module.__name__
    )


def _bytes(size: Any) -> int:
    """Return the bytes of a *size* of a description, a number or such as ``1MB``."""
    if isinstance(size, str):
        number, unit = size.rstrip("KMGiB"), size.lstrip("0123456789 ")
        return int(number) * {"B": 1, "KB": 10**3, "MB": 10**6, "KiB": 2**10, "MiB": 2**20}[unit]
    return int(size or 0)


def _opened(value: Any) -> Any:
    """Return *value* with the JSON texts in it decoded, as a search would show them."""
    if isinstance(value, dict):
        return {key: _opened(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_opened(each) for each in value]
    if isinstance(value, str) and value[:1] in "{[" and value:
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _native_id(value: Any) -> str | None:
    """Return the vendor's id that a form has put somewhere into *value*."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key.rpartition(".")[2] in NATIVE_IDS and isinstance(each, str | int):
                return str(each)
        for each in value.values():
            found = _native_id(each)
            if found is not None:
                return found
    if isinstance(value, list):
        return next((found for each in value if (found := _native_id(each)) is not None), None)
    return None
