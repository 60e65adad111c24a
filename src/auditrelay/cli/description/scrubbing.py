"""
Take every identity and secret out of recorded replies, so that the rest can be shown.

What identifies is replaced by a keyed map whose key is thrown away: equal values stay equal, within
one recording, and keep their shape. What else a record holds is kept, as an example needs it: the
one who recorded it reads it before it is given to anybody.
"""

import hmac
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from auditrelay.descriptions.holes import fill_address
from auditrelay.descriptions.model import EventPaths, Feed, OAuth2Auth
from auditrelay.descriptions.places import Path, find
from auditrelay.descriptions.settings import DescribedSettings
from auditrelay.events import timestamps
from auditrelay.events.addresses import is_ip
from auditrelay.events.redact import Redactor

LONGEST: Final = 40
"""Characters of a text with blanks that are kept."""

_SHORTEST: Final = 3
"""Characters of an id or a name that is replaced: a shorter one identifies no one."""

_SHORTEST_INSIDE: Final = 5
"""The same inside of another text, where a short word may be part of any."""

_SHORTEST_SURE: Final = 8
"""The same of what must not be found in the end: a shorter one may be there by chance."""

_EMAIL: Final = re.compile(r"[\w.+'-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_IP: Final = re.compile(r"(?<![\w.:])[0-9A-Fa-f:]*[.:][0-9A-Fa-f:.]*(?![\w:])")
_TOKEN: Final = re.compile(r"(?<![\w-])(?=[\w-]*\d)[\w-]{20,}(?![\w-])")
"""What is long and has digits is an id, or part of one."""


class Scrubber:
    """Scrubs the exchanges of one recording of *settings*; *key* must be new, and is not kept."""

    def __init__(self, key: bytes, settings: DescribedSettings) -> None:
        feed = settings.FEED
        self._key = key
        self._feed = feed
        self._redactor = Redactor("default", frozenset())
        self._map: dict[str, str] = {}
        self._taken: set[str] = set()
        self._known: dict[str, str] = {}
        """What is replaced wherever it stands."""
        self._kept: set[str] = set()
        self._inside: re.Pattern[str] | None = None
        self.gone: set[str] = set()
        """What must not be in anything that is written."""
        for name, setting in feed.settings.items():
            value = settings.values[name]
            if value != example_setting(settings, name):
                self._replace(value, setting.example)
            else:
                self._kept.add(value)  # it stands in the example, and identifies no one
        for name in feed.secrets:
            value = settings.secret(name).reveal()
            if value:
                self._replace(value, example_secret(name))
        own, vendors = urlsplit(settings.base_url), urlsplit(api_address(settings))
        self._own, self._vendors = own, vendors
        if own.netloc != vendors.netloc:
            self._known[own.netloc] = vendors.netloc

    def _replace(self, value: str, by: str) -> None:
        self._known[value] = by
        if len(value) >= _SHORTEST_INSIDE:
            self.gone.add(value)

    def is_left_in(self, text: str) -> bool:
        """Return whether something is left in *text* that was to be replaced."""
        return any(_as_a_word(gone).search(text) for gone in self.gone)

    # --- what is to be replaced

    def learn(self, records: Iterable[Any], cursors: Iterable[Any] = ()) -> None:
        """Learn who and what is named in *records*, and the *cursors* between pages."""
        event = self._feed.event
        kept = [find(path) for path in _meaning(event)]
        named = [find(path) for path in (*_identities(event), *_ids(self._feed))]
        for record in records:
            self._kept.update(text for each in kept if isinstance(text := each(record), str))
            for each in named:
                self._name(each(record))
        for cursor in cursors:
            self._name(cursor)
        inside = sorted(
            (text for text in self._known if len(text) >= _SHORTEST_INSIDE), key=len, reverse=True
        )
        self._inside = re.compile("|".join(map(re.escape, inside))) if inside else None

    def _name(self, value: Any) -> None:
        if isinstance(value, list | tuple):
            for each in value:
                self._name(each)
        if not isinstance(value, str | int) or isinstance(value, bool):
            return
        text = str(value)
        if len(text) < _SHORTEST or text in self._kept or text in self._known:
            return
        if isinstance(value, str) and timestamps.parse(value) is not None:
            return
        self._known[text] = self._other(text) if isinstance(value, str) else self._shaped(text)
        if len(text) >= _SHORTEST_SURE and any(map(str.isdigit, text)):
            self.gone.add(text)

    # --- replacing

    def value(self, value: Any) -> Any:
        """Return the JSON *value* without identities, and without secrets."""
        if isinstance(value, dict | list):
            content = json.loads(json.dumps(value))
            self._redactor.record(content, json.dumps(content).encode())
            return self.plain(content)
        return self.plain(value)

    def plain(self, value: Any) -> Any:
        """Return *value*, in which there are no secrets, without identities."""
        if isinstance(value, dict):
            return {self._word(key): self.plain(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.plain(each) for each in value]
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, int) and not isinstance(value, bool):
            known = self._known.get(str(value))
            return int(known) if known is not None and known.lstrip("-").isdigit() else value
        return value

    def text(self, text: str) -> str:
        """Return *text* without identities, and not longer than a few words."""
        if text in self._kept or timestamps.parse(text) is not None:
            return text
        found = self._known.get(text)
        if found is not None:
            return found
        if text[:1] in ("{", "["):
            try:
                inner = json.loads(text)
            except ValueError:
                pass
            else:
                return json.dumps(self.plain(inner), ensure_ascii=False, separators=(",", ":"))
        cut = self._word(self._redactor.text(text))
        if " " in cut and len(cut) > LONGEST:
            return cut[:LONGEST] + "…"
        return cut

    def _word(self, text: str) -> str:
        if self._inside is not None:
            text = self._inside.sub(lambda found: self._known[found[0]], text)
        text = _EMAIL.sub(lambda found: self._other(found[0]), text)
        text = _IP.sub(lambda found: self._address(found[0]), text)
        return _TOKEN.sub(lambda found: self._other(found[0]), text)

    def _address(self, text: str) -> str:
        return self._other(text) if is_ip(text) else text

    def _other(self, text: str) -> str:
        """Return what stands for *text*: an address of an example, or a text of the same shape."""
        if text in self._map:
            return self._map[text]
        if text in self._taken:
            return text  # it stands for something already
        if is_ip(text) or _EMAIL.fullmatch(text):
            self.gone.add(text)
        return self._shaped(text)

    def _shaped(self, text: str) -> str:
        if text in self._map:
            return self._map[text]
        for attempt in range(100):
            made = _drawn(text, self._stream(f"{attempt}:{text}"))
            if made not in self._taken and made != text:
                break
        self._taken.add(made)
        self._map[text] = made
        return made

    def _stream(self, text: str) -> Iterator[int]:
        """Yield bytes without an end, which only the key and *text* determine."""
        block = 0
        while True:
            yield from hmac.digest(
                self._key, f"{block}:{text}".encode("utf-8", "replace"), "sha256"
            )
            block += 1

    # --- addresses

    def query(self, pairs: Iterable[tuple[str, str]], asked: Mapping[str, str]) -> list[list[str]]:
        """Return *pairs* of a query; what was *asked* at first is no secret but for settings."""
        return [
            [name, self._setting(text) if asked.get(name) == text else self._parameter(text)]
            for name, text in pairs
        ]

    def _parameter(self, text: str) -> str:
        join = self._feed.pages.join
        if join and text not in self._known and join in text:
            return join.join(map(self.text, text.split(join)))
        return self.text(text)

    def _setting(self, text: str) -> str:
        """Return *text*, of a request of ours, without the values of settings and secrets."""
        for value, by in sorted(self._known.items(), key=lambda item: -len(item[0])):
            if value in self.gone and value in text and value not in self._map:
                text = text.replace(value, by)
        return self._known.get(text, text) if text not in self._map else text

    def path(self, path: str) -> str:
        """Return the *path* of a request, as the vendor's own address has it."""
        if self._own.path != self._vendors.path and path.startswith(self._own.path):
            path = self._vendors.path + path.removeprefix(self._own.path)
        return self._setting(path)

    def form(self, text: str) -> str:
        """Return *text*, of a form of ours, without the values of settings and secrets."""
        return self._setting(text)

    def known(self, text: str) -> str:
        """Return *text*, of a body of ours: a cursor, or what a setting is part of."""
        return self._known.get(text) or self._setting(text)

    def next_address(self, address: str, asked: Mapping[str, str]) -> str:
        """Return the *address* of the next page, as a reply names it."""
        parts = urlsplit(address)
        pairs = self.query(parse_qsl(parts.query, keep_blank_values=True), asked)
        query = "&".join(f"{quote(name, safe='')}={quote(text, safe='')}" for name, text in pairs)
        path = self.path(parts.path)
        if parts.netloc == self._own.netloc:
            scheme, host = self._vendors.scheme, self._vendors.netloc
            return parts._replace(scheme=scheme, netloc=host, path=path, query=query).geturl()
        host = self._setting(parts.netloc)
        return parts._replace(netloc=host, path=path, query=query).geturl()


def _as_a_word(text: str) -> re.Pattern[str]:
    """Return what finds *text*, but not as a part of a longer word or address."""
    after = r"(?![\w:])" if ":" in text else r"(?!\.?\w)"
    return re.compile(rf"(?<!\w)(?<!\w\.){re.escape(text)}{after}")


def example_setting(settings: DescribedSettings, name: str) -> str:
    """Return what an example has for the setting *name*: its value, if that identifies no one."""
    setting, value = settings.FEED.settings[name], settings.values[name]
    return value if setting.choices is not None or value == setting.default else setting.example


def _examples(settings: DescribedSettings) -> dict[str, str]:
    return {name: example_setting(settings, name) for name in settings.values}


def api_address(settings: DescribedSettings) -> str:
    """Return the vendor's own address of the API, with the settings of an example."""
    return fill_address(settings.FEED.request.base_url, _examples(settings))


def token_address(settings: DescribedSettings) -> str:
    """Return the vendor's own address for tokens, likewise; empty if it has none."""
    auth = settings.FEED.auth
    return fill_address(auth.token_url, _examples(settings)) if isinstance(auth, OAuth2Auth) else ""


def example_secret(name: str) -> str:
    """Return what stands for the secret *name* in an example."""
    return f"example-{name.replace('_', '-')}"


def _drawn(text: str, stream: Iterator[int]) -> str:
    if is_ip(text):
        if ":" in text:
            return f"2001:2::{next(stream):x}:{next(stream):x}"
        return f"198.18.{next(stream)}.{next(stream)}"  # like that, reserved for benchmarks
    if _EMAIL.fullmatch(text):
        local, _, domain = text.partition("@")
        made = _drawn(domain.partition(".")[0], stream).lower().replace("_", "-")
        return f"{_drawn(local, stream)}@{made}.example"
    drawn = []
    for number, letter in enumerate(text):
        byte = next(stream)
        if letter.isdigit():
            first = number == 0 and letter != "0"
            drawn.append(str(byte % 9 + 1 if first else byte % 10))
        elif letter.isalpha():
            letters = "abcdef" if letter.lower() in "abcdef" else "abcdefghijklmnopqrstuvwxyz"
            made = letters[byte % len(letters)]
            drawn.append(made.upper() if letter.isupper() else made)
        else:
            drawn.append(letter)
    return "".join(drawn)


def _meaning(event: EventPaths) -> Iterator[Path]:
    """Yield the paths of what says what happened."""
    for paths in (event.action, event.action_parts, event.category, event.outcome):
        yield from paths or ()
    if event.refine is not None:
        yield event.refine
    for actor in event.actor:
        yield from actor.type or ()
    for target in event.target:
        yield from target.type or ()


def _identities(event: EventPaths) -> Iterator[Path]:
    for party in (*event.actor, *event.target):
        for part in ("id", "name", "email"):
            yield from getattr(party, part) or ()
    for paths in (event.org_name, event.project_id, event.project_name, event.privilege):
        yield from paths or ()


def _ids(feed: Feed) -> Iterator[Path]:
    times = {str(path) for path in feed.records.time}
    for path in (*(feed.records.id or ()), *(feed.records.id_parts or ())):
        if str(path) not in times:
            yield path
    if feed.records.organisation is not None:
        yield feed.records.organisation
