"""
Remove secrets from a record before it is stored or sent.

By default a value is replaced if its key names a secret. The rule, on the words of the key
(``clientSecret``, ``Client-Secret`` and ``CLIENT_SECRET`` are split like ``client_secret``):

* it contains a secret word (``password``, ``token``, ``credentials``...) or a secret pair of
  words (``api key``, ``private key``, ``connection string``...);
* unless its last word only describes a secret (``token_type``, ``api_key_name``, ``secretId``,
  ``password_updated_at``), or its first word makes it a flag (``has_password``), or it counts the
  tokens of a language model (``max_tokens``).

So a value that is not known to be harmless is replaced: ``token_value``, ``password_hash``. A null
is kept. The same applies to the ``value`` next to such a name (``{"name": "Authorization", "value":
"..."}``), to keys of JSON inside a text, and to the credentials in a URL
(``https://user:password@host/?token=...``).

With globs, the operator lists the keys, and only values under those keys are replaced.
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import chain, pairwise
from typing import Any, Literal
from urllib.parse import unquote_plus

from auditrelay.events.decode import MAX_DEPTH, Undecodable, decode, encode

MARK = "[redacted]"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SECRET_WORDS = _words(
    "authorization bearer cookie cookies credential credentials creds csrf dsn jwt otp "
    "passcode passphrase passwd password passwords psk pwd secret secrets token tokens totp "
    "xsrf"
)
_SECRET_ENDINGS = (
    "apikey",
    "apikeys",
    "accesskey",
    "privatekey",
    "secretkey",
    "signingkey",
    "encryptionkey",
    "credential",
    "credentials",
    "passphrase",
    "passwd",
    "password",
    "passwords",
    "secret",
    "secrets",
    "token",
    "tokens",
)
_SECRET_KEYS = _words(
    "access account api auth client decryption encryption hmac host license master "
    "private secret service shared signing ssh ssl storage subscription tls webhook"
)
"""Followed by ``key`` or ``keys``, each of these is a secret."""
_SECRET_PAIRS = frozenset(
    {
        ("auth", "header"),
        ("basic", "auth"),
        ("connection", "string"),
        ("db", "pass"),
        ("recovery", "code"),
        ("recovery", "codes"),
        ("smtp", "pass"),
        ("user", "pass"),
    }
)
_DESCRIPTIVE = _words(
    "age alg algorithm at budget by cost count created date description email enabled endpoint "
    "expiration expires expiry format id ids in kind label last length limit limits method mode "
    "name names owner policies policy prefix protocol provider providers required role rotated "
    "rotation scope scopes size source state status time timestamp total ttl type types "
    "updated uri url usage used user uuid version"
)
_QUESTIONS = frozenset(("has", "is", "needs", "num", "requires", "uses"))
_TOKEN_COUNTS = _words(
    "cached completion input max min num number output prompt reasoning total usage"
)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_LOWER_WORD = re.compile(r"[a-z]+")

_NAME_KEYS = ("name", "key", "field", "header", "Name", "Key", "Field", "Header")
_VALUE_KEYS = (
    "value",
    "values",
    "Value",
    "before",
    "after",
    "old",
    "new",
    "old_value",
    "new_value",
    "oldValue",
    "newValue",
    "from",
    "to",
)
_VALUE_KEY_SET = frozenset(_VALUE_KEYS)

_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_PARAMETER = re.compile(r"([?&;#])([^=&;?#\s]{1,128})=([^&;#\s\"'<>]+)")
_QUERY_SECRETS = frozenset(("code", "key", "sig", "signature", "x-amz-signature"))
"""Parameters that are credentials in a URL, though not as the key of a record."""

# The same in the JSON text of a record, where a character may be escaped: these find at least what
# those would find in its values.
_JSON_IN_TEXT = re.compile(r'"(?:\s|\\[bfnrt]|\\u00[0-9a-f]{2})*[{\[]')
_USERINFO_IN_JSON = re.compile(r'://(?:[^/?#\s"\\]|\\.)*@')
_PARAMETER_IN_JSON = re.compile(r'[?&;#]((?:[^=&;?#\s"\\]|\\.)*)=')

_AFTER_KEY = re.compile(r"([\"']?)\s{0,20}[:=]\s{0,20}")
_BARE_KEY = re.compile(r"[\w.\-]+\Z")
_MAX_KEY_LENGTH = 200
"""Characters before a colon that are examined in a text that is not JSON."""
_QUOTED_END = {quote: re.compile(rf"(?:[^{quote}\\]|\\.)*", re.DOTALL) for quote in "\"'"}
_BARE_END = re.compile(r"[^,;&}\]\r\n\"']*")
_BRACKET = re.compile(r"[\[\]{}]")
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")

Mode = Literal["default", "off"] | list[str]


def looks_secret(key: str) -> bool:
    """Return whether a value under *key* is a secret, by the rule of this module."""
    # Split by camel case and, separately, in lower case: catches both aPi_KeY and apiKey.
    lists = [[word.lower() for word in _WORD.findall(key)], _LOWER_WORD.findall(key.lower())]
    if not any(_names_secret(words) for words in lists):
        return False
    return not any(words and _describes(words) for words in lists)


def _names_secret(words: list[str]) -> bool:
    if not _SECRET_WORDS.isdisjoint(words) or any(word.endswith(_SECRET_ENDINGS) for word in words):
        return True
    return any(
        (second in ("key", "keys") and first in _SECRET_KEYS) or (first, second) in _SECRET_PAIRS
        for first, second in pairwise(words)
    )


def _describes(words: list[str]) -> bool:
    if words[-1] in _DESCRIPTIVE or words[0] in _QUESTIONS:
        return True
    return words[-1] == "tokens" and not _TOKEN_COUNTS.isdisjoint(words)


_MAX_CACHED_KEYS = 8192


class _SecretKeys(dict[str, bool]):
    """Which keys are secret, by :func:`looks_secret` or the operator's globs; a bounded cache."""

    def __init__(self, globs: Iterable[str] | None) -> None:
        super().__init__()
        self.harmless: set[str] = set()
        """Keys that are no secret and not in ``_VALUE_KEYS``: most keys."""
        self._globs = None if globs is None else [glob.lower() for glob in globs]

    def __missing__(self, key: str) -> bool:
        if self._globs is None:
            secret = looks_secret(key)
        else:
            # key#1 is the earlier value of a duplicate key
            names = (key.lower(), key.lower().rpartition("#")[0])
            secret = any(fnmatchcase(name, glob) for name in names for glob in self._globs)
        if len(key) <= 200:
            if len(self) >= _MAX_CACHED_KEYS:
                self.clear()
                self.harmless.clear()
            self[key] = secret
            if not secret and key not in _VALUE_KEY_SET:
                self.harmless.add(key)
        return secret


class Redactor:
    """
    Replaces secret values. *documented* are the vendor's own top-level fields of a record.

    Those are known to contain no secret, and are exempt by default; the operator's globs apply to
    them too.
    """

    def __init__(self, mode: Mode, documented: frozenset[str]) -> None:
        self._enabled = mode != "off"
        self._default = mode == "default"
        self._secret = _SecretKeys(None if isinstance(mode, str) else mode)
        self._exempt = documented if self._default else frozenset[str]()
        self.spares_documented = not self._enabled or (
            _VALUE_KEY_SET.isdisjoint(documented)
            and (self._default or not any(map(self._secret.__getitem__, documented)))
        )
        """Whether no documented field is redacted as a whole, whatever is in it."""

    def spares_texts(self, json: str) -> bool:
        """Return whether no text in *json* contains a secret; false where that is not obvious."""
        if not self._enabled:
            return True
        if '\\"' in json and _JSON_IN_TEXT.search(json):
            return False
        if "://" not in json:
            return True
        if self._default and _USERINFO_IN_JSON.search(json):
            return False
        names = [found[1] for found in _PARAMETER_IN_JSON.finditer(json)]
        return not any("\\" in name or self._is_secret_parameter(name) for name in names)

    def spares_values(self, value: Any, levels: int = 20) -> bool:
        """
        Return whether no key or name in *value* makes a value a secret; texts are not searched.

        False where that is not obvious, and for more than *levels* of nesting.
        """
        kind = type(value)
        if kind not in _CONTAINERS or not self._enabled:
            return True
        if kind is dict and not self._spares_object(value):
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
            if not self._secret.harmless.issuperset(chain.from_iterable(objects)):
                return False
            inner = chain.from_iterable(map(dict.values, objects))
            listed = chain.from_iterable(each for each in level if type(each) is list)
            level = [each for each in chain(inner, listed) if type(each) in _CONTAINERS]
            if not level:
                return True
        return False

    def _spares_object(self, node: dict[str, Any]) -> bool:
        secret = self._secret
        if secret.harmless.issuperset(node):
            return True
        if any(map(self._secret.__getitem__, node)):
            return False
        if _VALUE_KEY_SET.isdisjoint(node):
            return True
        return not any(type(name) is str and secret[name] for name in map(node.get, _NAME_KEYS))

    def record(self, record: Any, compact: bytes, depth: int = 0) -> bool:
        """
        Replace every secret in *record*, in place, and return whether there was one.

        *compact* is the record as JSON, from which it is decided whether to search texts at all.
        *depth* is at how many levels of nesting it is, if it is JSON in a text of a record.
        """
        if not self._enabled:
            return False
        # Searching one byte is ten times faster than two or three; most records lack it.
        search = (b"/" in compact and b"://" in compact) or (b"\\" in compact and b'\\"' in compact)
        if type(record) is not dict:
            return type(record) is list and self._items(
                record, enumerate(record), search=search, depth=depth
            )
        if search or not self._exempt.issuperset(record):
            return self._object(record, self._exempt, search=search, depth=depth)
        return self._nested(record)

    def _nested(self, node: dict[str, Any]) -> bool:
        """Redact the objects and lists in *node*, whose own keys are no secrets."""
        changed = False
        harmless = self._secret.harmless
        for value in node.values():
            kind = type(value)
            if kind not in _CONTAINERS:
                continue
            if kind is dict:
                if harmless.issuperset(value):
                    changed |= self._nested(value)
                else:
                    changed |= self._object(value, _NO_KEYS, search=False, depth=0)
            elif not _CONTAINERS.isdisjoint(map(type, value)):
                changed |= self._items(value, enumerate(value), search=False, depth=0)
        return changed

    def _object(
        self, node: dict[str, Any], exempt: frozenset[str], *, search: bool, depth: int
    ) -> bool:
        changed = False
        harmless: list[tuple[str, Any]] = []
        for key, value in node.items():
            if not self._secret[key] or key in exempt:
                harmless.append((key, value))
            elif value is not None and value != MARK:
                node[key] = MARK
                changed = True
        changed |= self._items(node, harmless, search=search, depth=depth)
        if not _VALUE_KEY_SET.isdisjoint(node):
            changed |= self._named_values(node, exempt)
        return changed

    def _items(
        self,
        node: dict[str, Any] | list[Any],
        items: Iterable[tuple[Any, Any]],
        *,
        search: bool,
        depth: int,
    ) -> bool:
        """Redact inside the *items* of *node*, which are no secrets themselves."""
        changed = False
        for place, value in items:
            kind = type(value)
            if kind is dict:
                changed |= self._object(value, _NO_KEYS, search=search, depth=depth + 1)
            elif kind is list:
                changed |= self._items(value, enumerate(value), search=search, depth=depth + 1)
            elif kind is str and search:
                safe = self._string(value, depth)
                if safe != value:
                    node[place] = safe
                    changed = True
        return changed

    def _named_values(self, node: dict[str, Any], exempt: frozenset[str]) -> bool:
        """Replace the value of ``{"name": "password", "value": ...}``."""
        names = (node.get(naming) for naming in _NAME_KEYS)
        if not any(type(name) is str and self._secret[name] for name in names):
            return False
        changed = False
        for key in _VALUE_KEYS:
            if key not in exempt and node.get(key) not in (None, MARK):
                node[key] = MARK
                changed = True
        return changed

    def _string(self, text: str, depth: int) -> str:
        """Return *text* without the secrets of JSON or of a URL in it."""
        if '"' in text and text.lstrip()[:1] in ("{", "["):
            text = self._json_text(text, depth)
        if "://" in text:
            if self._default:
                text = _USERINFO.sub(f"{MARK}@", text)
            text = _PARAMETER.sub(self._parameter, text)
        return text

    def _json_text(self, text: str, depth: int) -> str:
        # Nesting of all texts in each other counts together: each level is a call.
        depth += 1 + _nesting(text)
        if depth > MAX_DEPTH:
            plain = text.replace("\\", "")  # so that keys in texts in texts look like others
            redacted = self.text(plain)
            return self.text(text) if redacted == plain else redacted
        try:
            decoded = decode(text.encode())
        except Undecodable:
            return self.text(text)
        if not decoded.complete:
            return self.text(text)
        changed = self.record(decoded.value, decoded.compact, depth)
        return encode(decoded.value).decode() if changed else text

    def _parameter(self, found: re.Match[str]) -> str:
        secret = self._is_secret_parameter(found[2])
        return f"{found[1]}{found[2]}={MARK}" if secret else found[0]

    def _is_secret_parameter(self, quoted: str) -> bool:
        name = unquote_plus(quoted)
        return self._secret[name] or (self._default and name.lower() in _QUERY_SECRETS)

    def text(self, text: str) -> str:
        """
        Return *text*, which is not JSON, without the values after secret-looking keys.

        Errs on the side of redacting: the end of a secret that begins like an object or a list is
        unknown, so the whole rest is replaced.
        """
        if not self._enabled:
            return text
        kept: list[str] = []
        done = 0
        for found in _AFTER_KEY.finditer(text):
            if found.start() < done or not self._secret[_key_before(found, text, done)]:
                continue
            kept.append(text[done : found.end()])
            opening = text[found.end() : found.end() + 1]
            if opening in ("{", "["):
                done = len(text)
            elif opening in _QUOTED_END:
                kept.append(opening)
                done = _match_end(_QUOTED_END[opening], text, found.end() + 1)
            else:
                done = _match_end(_BARE_END, text, found.end())
            kept.append(MARK)
            if done == len(text):
                break
        kept.append(text[done:])
        whole = "".join(kept)
        if "://" not in whole:
            return whole
        if self._default:
            whole = _USERINFO.sub(f"{MARK}@", whole)
        return _PARAMETER.sub(self._parameter, whole)


_NO_KEYS: frozenset[str] = frozenset()
_CONTAINERS = frozenset((dict, list))
"""The types of values that contain others."""


def _key_before(found: re.Match[str], text: str, start: int) -> str:
    """Return the key that ends where *found* begins, at most its last characters."""
    before = text[max(start, found.start() - _MAX_KEY_LENGTH) : found.start()]
    if found[1]:
        key = before[before.rfind(found[1]) + 1 :]
    else:
        bare = _BARE_KEY.search(before)
        key = bare[0] if bare else ""
    return _ESCAPE.sub(lambda code: chr(int(code[1], 16)), key)


def _nesting(json: str) -> int:
    """Return how deep *json* is nested at most: brackets in its texts count, too."""
    deepest = depth = 0
    for bracket in _BRACKET.findall(json):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _match_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start
