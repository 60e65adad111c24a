"""
Examples of a description: conversations with its vendor, each in a folder of its own.

``about.toml`` says what is asked with which settings, ``1.request.json`` what must be asked first,
``1.reply.json`` what comes back, and ``events.json`` what the events must be.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from auditrelay.descriptions import FOLDER
from auditrelay.errors import ConfigError
from auditrelay.files import read_file
from auditrelay.settings.toml import Unreadable, read_toml
from auditrelay.settings.wording import dotted, explained

ABOUT: Final = "about.toml"
EVENTS: Final = "events.json"

ANY: Final = "*"
"""In a header or a form of a request: any text, such as a signature."""

_SHIPPED: Final = Path(*FOLDER.parts[:-4], "tests", "descriptions", "examples")
"""Where the examples of the shipped descriptions are: in the source tree alone."""

Pair = tuple[str, str]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


T = TypeVar("T", bound=_Table)


class Window(_Table):
    """What is asked for."""

    start: AwareDatetime
    end: AwareDatetime


class Expected(_Table):
    """An error that must come, instead of events."""

    error: Literal["refused", "retry", "broken"]
    words: str = ""
    """What its message must contain."""
    wait: float | None = None
    """Seconds after which the same is asked again."""


class About(_Table):
    """What a conversation is about: the file ``about.toml``."""

    evidence: Literal["made up", "recorded"]
    about: Annotated[str, Field(min_length=1)]
    feed: str | None = None
    page_size: int | None = Field(None, ge=1)
    now: AwareDatetime | None = None
    """When it is asked; by default an hour after the window."""
    settings: dict[str, str] = {}
    secrets: dict[str, str] = {}
    window: Window
    expect: Expected | None = None


class Request(_Table):
    """What must be asked."""

    method: Literal["GET", "POST"]
    host: str | None = None
    """The host of the authorisation server, where it is not that of the API."""
    path: str
    query: tuple[Pair, ...] = ()
    """In any order."""
    body: Any = None
    """JSON."""
    form: tuple[Pair, ...] | None = None
    """Instead of JSON; in any order."""
    headers: dict[str, str] = {}
    """Those that must be there."""


class Reply(_Table):
    """What comes back."""

    status: int = Field(ge=200, le=599)
    headers: dict[str, str] = {}
    body: Any = None
    """A text is sent as it is, anything else as JSON; an empty text is an empty body."""


@dataclass(frozen=True)
class Conversation:
    """One conversation; *events* is the text of the file with what must come, if it is there."""

    folder: Path
    about: About
    exchanges: tuple[tuple[Request, Reply], ...]
    events: str | None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name


def conversations(file: Path) -> list[Conversation]:
    """
    Return the conversations of the description *file*, by name.

    They are in ``examples/NAME`` beside it, where its name is ``NAME.toml``, or in ``examples``
    itself; those of a shipped one are in the tests of the source tree. Raises ConfigError.
    """
    folder = examples_of(file)
    return [read(each.parent) for each in sorted(folder.glob(f"*/{ABOUT}"))]


def examples_of(file: Path) -> Path:
    """Return the folder in which the conversations of the description *file* are, if any."""
    if file.parent == FOLDER:
        return _SHIPPED / file.stem
    beside = file.parent / "examples"
    own = beside / file.stem
    return own if own.is_dir() and not (own / ABOUT).exists() else beside


def read(folder: Path) -> Conversation:
    """Return the conversation in *folder*. Raises ConfigError with what is wrong with a file."""
    try:
        table, _ = read_toml(folder / ABOUT)
    except Unreadable as error:
        raise ConfigError(str(error)) from error
    about = _valid(About, table, folder / ABOUT)
    if about.window.start >= about.window.end:
        raise ConfigError(f"{folder / ABOUT}: window.end: must be later than window.start")
    exchanges: list[tuple[Request, Reply]] = []
    while (asked := folder / f"{len(exchanges) + 1}.request.json").exists():
        answered = folder / f"{len(exchanges) + 1}.reply.json"
        exchanges.append(
            (
                _valid(Request, _json(asked), asked),
                _valid(Reply, _json(answered), answered),
            )
        )
    if not exchanges:
        raise ConfigError(f"{folder}: has no 1.request.json: nothing is asked")
    _check_none_is_left(folder, len(exchanges))
    events = folder / EVENTS
    return Conversation(folder, about, tuple(exchanges), _text(events) if events.exists() else None)


def _check_none_is_left(folder: Path, count: int) -> None:
    """Raise ConfigError for a request or reply behind a number that is missing."""
    known = {
        f"{number}.{part}.json" for number in range(1, count + 1) for part in ("request", "reply")
    }
    for part in ("request", "reply"):
        for file in sorted(folder.glob(f"*.{part}.json")):
            if file.name not in known:
                raise ConfigError(
                    f"{file}: is never asked for: there are {count} exchanges before the first "
                    "number that is missing"
                )


def _valid(model: type[T], value: Any, file: Path) -> T:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        table = value if isinstance(value, dict) else {}
        sentences = [explained(detail, model, table) for detail in error.errors(include_url=False)]
        raise ConfigError(
            *dict.fromkeys(f"{file}: {dotted(path)}: {text}" for path, text in sentences)
        ) from error


def _text(file: Path) -> str:
    try:
        return read_file(file).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not text in UTF-8 (byte {error.start})") from error


def _json(file: Path) -> Any:
    return json_of(_text(file), file)


def json_of(text: str, file: Path) -> Any:
    """Return the JSON *text* of *file*. Raises ConfigError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: is not valid JSON: {error}") from error
