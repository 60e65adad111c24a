"""
Remove secrets from a record before it is stored or sent.

By default a value is replaced

* if its key names a secret (:mod:`auditrelay.events.secret_keys`), in the record and in JSON inside
  a text;
* if it is beside such a name, as in ``{"name": "Authorization", "value": "..."}``, and may be one;
* and, in any text, what looks like a secret (:mod:`auditrelay.events.secret_texts`).

With globs, the operator lists the keys, and only values under those keys are replaced.

The one who is audited may choose names and texts. So only the secret itself is replaced, a name
alone hides no plain word beside it, and where something was replaced is noted on the event.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any, Literal

from auditrelay.events.decode import MAX_DEPTH, Undecodable, decode, encode
from auditrelay.events.marks import MAX_PLACE_LENGTH
from auditrelay.events.patterns import lazily
from auditrelay.events.secret_keys import SecretKeys, may_be_secret
from auditrelay.events.secret_texts import MARK, Search, SecretTexts


def _spellings(*names: str) -> tuple[str, ...]:
    """Return *names* as ``old_value``, ``oldValue``, ``OldValue`` and ``old-value``."""
    found: dict[str, None] = {}
    for name in names:
        title = name.title().replace("_", "")
        found |= dict.fromkeys((name, title[0].lower() + title[1:], title, name.replace("_", "-")))
    return tuple(found)


_NAME_KEYS = _spellings(
    *("name", "key", "field", "header", "k", "n", "attribute", "property", "parameter", "param"),
    *("variable", "setting", "option", "path", "field_name", "attribute_name", "property_name"),
    *("header_name", "parameter_name", "key_name", "variable_name"),
)
_VALUE_KEYS = _spellings(
    *("value", "values", "v", "val", "before", "after", "old", "new", "old_value", "new_value"),
    *("from", "to", "previous_value", "string_value", "field_value", "content"),
)
_NAME_KEY_SET = frozenset(_NAME_KEYS)
_VALUE_KEY_SET = frozenset(_VALUE_KEYS)
_HEADERS = frozenset(
    (
        *("authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key"),
        *("x-auth-token", "x-access-token", "x-amz-security-token", "x-vault-token"),
        *("x-csrf-token", "private-token"),
    )
)
"""Names in lists such as ``["Authorization", "Bearer ..."]``, in lower case."""

_JSON_IN_TEXT = lazily(r'"(?:\s|\\[bfnrt]|\\u00[0-9a-f]{2})*[{\[]')
"""In the JSON text of a record, where characters may be escaped."""
_MAY_BE_JSON_IN_TEXT = lazily(_JSON_IN_TEXT.pattern.replace(r"\s", r"[\s\x80-\xff]").encode())
_QUOTED_NAME = lazily(r"\\\"\]? {0,8}[:=]")
_QUOTED_NAME_IN_BYTES = lazily(_QUOTED_NAME.pattern.encode())
_BRACKET = lazily(r"[\[\]{}]")
_CONTROL = lazily(r"\\(?:[bfnrt]|u00[0-9a-f]{2})")
_ESCAPE = lazily(r"\\u00([2-7][0-9a-fA-F])")

_NO_KEYS: frozenset[str] = frozenset()

Mode = Literal["default", "off"] | list[str]

_Path = tuple[Any, ...]
"""The keys and numbers that lead to a value; as a text only where something is replaced."""

Place = tuple[str | None, ...]
"""The keys that lead to a value, and None for any place in a list."""

Paths = list[str]
"""Where in a record something was replaced: keys and numbers, joined by dots."""


class Redactor:
    """
    Replaces secret values. *documented* are the vendor's own top-level fields of a record.

    Those are known to contain no secret as a whole, nor is what stands at *places* in it: keys, and
    None for any place in a list. They are exempt by default; the operator's globs apply to them
    too.
    """

    def __init__(
        self, mode: Mode, documented: frozenset[str], places: frozenset[Place] = frozenset()
    ) -> None:
        self._enabled = mode != "off"
        self._default = mode == "default"
        self._keys = SecretKeys(None if isinstance(mode, str) else mode, _VALUE_KEY_SET)
        self._texts = SecretTexts(self._keys, by_value=self._default)
        self._exempt = documented if self._default else frozenset[str]()
        self._places = places if self._default else frozenset[Place]()
        self.spares_documented = not self._enabled or (
            _VALUE_KEY_SET.isdisjoint(documented)
            and (self._default or not any(map(self._keys.__getitem__, documented)))
        )
        """Whether no documented field is redacted as a whole, whatever is in it."""

    # -- whether there is something to do: for a whole page

    def searches(self, page: bytes) -> Sequence[Search]:
        """Return the searches that may find a secret in a text of the records in *page*."""
        if not self._enabled:
            return ()
        found = [search for search in self._texts.searches if search.may_be_in(page)]
        return [_JSON_SEARCH, *found] if _JSON_SEARCH.may_be_in(page) else found

    def spares_texts(self, record: bytes, text: str, searches: Sequence[Search]) -> bool:
        """
        Return whether no text in *record*, which is *text* in strict JSON, contains a secret.

        False where that is not obvious. *searches* are those that may find something in its page.
        """
        found = [search for search in searches if search.may_be_in(record)]
        if not found:
            return True
        if found[0] is _JSON_SEARCH:
            if _finds_json(text):
                return False
            del found[0]
        if found and "\\" in text:  # no pattern may read an escape as a letter
            text = _CONTROL.sub(" ", text.replace("\\\\", "  "))
        return not any(search.finds(text) for search in found)

    def spares_values(self, value: Any, levels: int = 20) -> bool:
        """
        Return whether no key or name in *value* makes a value a secret; texts are not searched.

        False where that is not obvious, and for more than *levels* of nesting.
        """
        kind = type(value)
        if kind not in _CONTAINERS or not self._enabled:
            return True
        if not (self._spares_object(value) if kind is dict else self.spares_list(value)):
            return False
        inner = value.values() if kind is dict else value
        nested = [each for each in inner if type(each) in _CONTAINERS]
        return not nested or (
            levels > 0 and all(self.spares_values(each, levels - 1) for each in nested)
        )

    def spares_page(self, values: Iterable[Any]) -> bool:
        """Return whether :meth:`spares_values` holds for all *values*; if not, it may for some."""
        if not self._enabled:
            return True
        level = list(values)
        for _ in range(20):
            objects = [each for each in level if type(each) is dict]
            if not self._spares_objects(objects):
                return False
            lists = [each for each in level if type(each) is list]
            if lists and not self.spares_list(list(chain.from_iterable(lists))):
                return False
            inner = list(chain.from_iterable(map(dict.values, objects)))
            inner += chain.from_iterable(lists)
            if _CONTAINERS.isdisjoint(map(type, inner)):
                return True
            level = [each for each in inner if type(each) in _CONTAINERS]
        return False

    def _spares_objects(self, nodes: list[dict[str, Any]]) -> bool:
        odd = set(chain.from_iterable(nodes)) - self._keys.harmless
        for key in odd:
            if not self._keys[key] and key in self._keys.harmless:  # now it is known
                continue
            having = [node for node in nodes if node.get(key) is not None]
            if any(self._keys.hides(key, node[key]) for node in having):
                return False
            if key in _VALUE_KEY_SET and any(map(self.is_named, having)):
                return False
        return True

    def _spares_object(self, node: dict[str, Any]) -> bool:
        odd = node.keys() - self._keys.harmless
        if any(self._keys.hides(key, node[key]) for key in odd):
            return False
        return _VALUE_KEY_SET.isdisjoint(odd) or not self.is_named(node)

    def spares_list(self, node: list[Any]) -> bool:
        """Return whether no text in *node* is the name of a header with a secret."""
        return not self._default or _HEADERS.isdisjoint(
            [each.lower() for each in node if type(each) is str]
        )

    def is_named(self, node: dict[str, Any]) -> bool:
        """Return whether *node* is such as ``{"name": "password", "value": ...}``."""
        if _NAME_KEY_SET.isdisjoint(node):
            return False
        names = map(node.get, _NAME_KEYS)
        return any(type(name) is str and self._keys[name] for name in names)

    def spares_key(self, key: str) -> bool:
        """Return whether nothing is a secret for being under *key*, or beside it."""
        return not self._enabled or (not self._keys[key] and key in self._keys.harmless)

    def is_beside(self, key: str) -> bool:
        """Return whether what is under *key* may be a secret for what is beside it."""
        return key in _VALUE_KEY_SET

    def hides_at(self, place: tuple[str, ...], value: Any) -> bool | None:
        """Return whether *value* is to be replaced at *place*; None if more than that has to be."""
        key = place[-1]
        if value is None or not self._keys.hides(key, value):
            return False
        if type(value) in _CONTAINERS or value == MARK:
            return None
        return place not in self._places and not (len(place) == 1 and key in self._exempt)

    def name_of(self, place: tuple[str, ...]) -> str:
        """Return how an event names *place*, where something was replaced."""
        return _joined(place[:-1], place[-1])

    # -- one record

    def record(self, record: Any, compact: bytes, depth: int = 0, path: str = "") -> Paths:
        """
        Replace every secret in *record*, in place, and return where they were.

        *compact* is the record as JSON, from which it is decided whether to search texts at all;
        an empty one has been found to have none in its texts. *depth* is at how many levels of
        nesting it is, and *path* where, if it is JSON in a text of a record.
        """
        if not self._enabled or type(record) not in _CONTAINERS:
            return []
        search = bool(self.searches(compact))
        places = self._places if not depth else frozenset[Place]()
        walk = _Walk(self._keys, self._texts, self, search=search, places=places)
        begin = (path,) if path else ()
        if type(record) is dict:
            walk.object(record, begin, depth, exempt=self._exempt if not depth else _NO_KEYS)
        else:
            walk.list(record, begin, depth)
        return walk.paths

    def text(self, text: str, depth: int = 0) -> str:
        """Return *text*, which is not JSON though it may have been meant to be, without secrets."""
        if not self._enabled:
            return text
        plain = _ESCAPE.sub(lambda code: chr(int(code[1], 16)), text)
        redacted = self._text(plain, depth)
        return self._text(text, depth) if redacted == plain != text else redacted

    def _text(self, text: str, depth: int) -> str:
        named = self._texts.without_named(text)
        return self._texts.without_secrets(named, partial(self.is_secret_json, depth=depth))

    def json(self, text: str, path: str, depth: int) -> tuple[str, Paths]:
        """Return *text*, which begins as JSON does, without secrets, and where they were."""
        # Nesting of all texts in each other counts together: each level is a call.
        depth += 1 + _nesting(text)
        if depth > MAX_DEPTH:
            plain = text.replace("\\", "")  # so that keys in texts in texts look like others
            redacted = self.text(plain, depth)
            safe = self.text(text, depth) if redacted == plain else redacted
            return safe, [path] if safe != text else []
        try:
            decoded = decode(text.encode())
        except Undecodable:
            decoded = None
        if decoded is None or not decoded.complete:
            safe = self.text(text, depth)
            return safe, [path] if safe != text else []
        paths = self.record(decoded.value, decoded.compact, depth, path)
        return (encode(decoded.value).decode() if paths else text), paths

    def is_secret_json(self, text: str, depth: int) -> bool:
        """Return whether something is to be replaced in *text*, if it is JSON at that *depth*."""
        if depth > MAX_DEPTH or text[:1] not in ("{", "["):
            return False
        return bool(self.json(text, "", depth)[1])


class _Walk:
    """One way through a record, which replaces and notes what is secret in it."""

    def __init__(
        self,
        keys: SecretKeys,
        texts: SecretTexts,
        redactor: Redactor,
        *,
        search: bool,
        places: frozenset[Place],
    ) -> None:
        self._keys = keys
        self._texts = texts
        self._redactor = redactor
        self._search = search
        self._places = places
        self._seen: set[int] = set()
        """What was looked through for the sake of a name beside it: each only once."""
        self.paths: Paths = []

    def _hide(self, node: Any, place: Any, path: _Path) -> None:
        if node[place] != MARK:
            node[place] = MARK
            self.paths.append(_joined(path, place))

    def object(
        self, node: dict[str, Any], path: _Path, depth: int, *, exempt: frozenset[str] = _NO_KEYS
    ) -> None:
        if self._search:
            self._rename(node, path)
        elif self._keys.harmless.issuperset(node):
            self._below(node, path, depth)
            return
        for key, value in node.items():
            if key not in exempt and self._keys.hides(key, value):
                if _place((*path, key)) not in self._places:
                    self._hide(node, key, path)
                    continue
                self._around(value, (*path, key))
            self._inside(node, key, path, depth)
        if not _VALUE_KEY_SET.isdisjoint(node) and self._redactor.is_named(node):
            for key in _VALUE_KEYS:
                if key in node and key not in exempt:
                    self._beside(node, key, path)

    def _around(self, value: Any, path: _Path) -> None:
        """Hide what may be a secret in *value*, whose key names one, but not at known places."""
        if type(value) not in _CONTAINERS:
            return
        for inner in value if type(value) is dict else range(len(value)):
            if _place((*path, inner)) in self._places:
                self._around(value[inner], (*path, inner))
            else:
                self._beside(value, inner, path)

    def _below(self, node: dict[str, Any], path: _Path, depth: int) -> None:
        """Look into what is in *node*, in which itself there is nothing to hide."""
        for key, value in node.items():
            kind = type(value)
            if kind is dict:
                self.object(value, (*path, key), depth + 1)
            elif kind is list:
                self.list(value, (*path, key), depth + 1)

    def list(self, node: list[Any], path: _Path, depth: int) -> None:
        before: Any = None
        names_headers = not self._redactor.spares_list(node)
        for place, value in enumerate(node):
            if names_headers and type(before) is str and before.lower() in _HEADERS:
                self._beside(node, place, path)
            self._inside(node, place, path, depth)
            before = value

    def _inside(self, node: Any, place: Any, path: _Path, depth: int) -> None:
        value = node[place]
        kind = type(value)
        if kind is str:
            if self._search:
                self._string(node, place, path, depth)
        elif kind is dict:
            self.object(value, (*path, place), depth + 1)
        elif kind is list:
            self.list(value, (*path, place), depth + 1)

    def _string(self, node: Any, place: Any, path: _Path, depth: int) -> None:
        text: str = node[place]
        if '"' in text and text.lstrip()[:1] in ("{", "["):
            node[place], paths = self._redactor.json(text, _joined(path, place), depth)
            self.paths += paths
            return
        encoded = partial(self._redactor.is_secret_json, depth=depth)
        safe = self._texts.without_secrets(text, encoded)
        if safe != text:
            node[place] = safe
            self.paths.append(_joined(path, place))

    def _beside(self, node: Any, place: Any, path: _Path) -> None:
        """Hide what may be a secret in the value beside the name of one."""
        value = node[place]
        if type(value) in _CONTAINERS:
            if id(value) not in self._seen:
                self._seen.add(id(value))
                for inner in value if type(value) is dict else range(len(value)):
                    self._beside(value, inner, (*path, place))
        elif may_be_secret(value) or (self._keys.are_given and value is not None):
            self._hide(node, place, path)

    def _rename(self, node: dict[str, Any], path: _Path) -> None:
        """Replace tokens that are keys."""
        safe = {key: self._texts.without_token(key) for key in node if len(key) > 8}
        if any(key != name for key, name in safe.items()):
            items = list(node.items())
            node.clear()
            for number, (key, value) in enumerate(items):
                name = safe.get(key, key)
                if name != key:
                    self.paths.append(_joined(path, name))
                node[name if name not in node else f"{name}#{number}"] = value


_CONTAINERS = frozenset((dict, list))
"""The types of values that contain others."""


def _finds_json(text: str) -> bool:
    """Return whether a text in *text* may be JSON, or quotes a name with something beside it."""
    return _QUOTED_NAME.search(text) is not None or _JSON_IN_TEXT.search(text) is not None


def _may_have_json(text: bytes) -> bool:
    """Return whether :func:`_finds_json` may be true for a record in *text*."""
    # Few records have a quotation mark in a text, and one character is found much faster than two.
    return (
        b"\\" in text
        and b'\\"' in text
        and (
            _QUOTED_NAME_IN_BYTES.search(text) is not None
            or _MAY_BE_JSON_IN_TEXT.search(text) is not None
        )
    )


_JSON_SEARCH = Search(_may_have_json, _finds_json)


def _place(path: _Path) -> Place:
    return tuple([None if type(each) is int else each for each in path])


def _joined(path: _Path, place: Any) -> str:
    """Return the path of *place* in *path*, no longer than is shown: a key may be very long."""
    shown = ""
    for each in (*path, place):
        key = str(each)[:MAX_PLACE_LENGTH]
        shown = f"{shown}.{key}"[:MAX_PLACE_LENGTH] if shown else key
    return shown


def _nesting(json: str) -> int:
    """Return how deep *json* is nested at most: brackets in its texts count, too."""
    deepest = depth = 0
    for bracket in _BRACKET.findall(json):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest
