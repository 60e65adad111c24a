"""
Which keys of a record name a secret, and which values under such a key are one.

The rule for a key, on its words (``clientSecret``, ``Client-Secret`` and ``CLIENT_SECRET`` are
split like ``client_secret``; letters that only look like others are read as those):

* it contains a secret word (``password``, ``token``, ``credentials``...) or a secret pair of words
  (``api key``, ``private key``, ``connection string``...);
* unless its last word only describes a secret (``token_type``, ``api_key_name``, ``secretId``,
  ``password_updated_at``), or its first word makes it a flag (``has_password``), or it counts the
  tokens of a language model (``max_tokens``).

The rule for a value under such a key: everything is a secret but what cannot be one. That is null,
true and false; a number below a million where the key counts something (``tokens_deleted``,
``password_age_days``) or is a plural; and a word such as ``yes`` where the key says what happened
(``password_changed``). So ``password: 123456`` and ``pin: 1234`` are hidden.

Some words name a secret as often as something else (``code``, ``key``, ``session_id``): a value
under them is hidden only if it looks like one.
"""

import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, Final

from auditrelay.events.addresses import is_email, is_ip
from auditrelay.events.patterns import lazily


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SECRET_WORDS: Final = _words(
    "authorization bearer contrasena cookie cookies credential credentials creds csrf dsn jwt "
    "kennwort otp passcode passphrase passwd password passwords passwort psk pwd secret secrets "
    "senha token tokens totp wachtwoord xsrf"
)
_SECRET_ENDINGS: Final = (
    *("apikey", "apikeys", "accesskey", "privatekey", "secretkey", "signingkey"),
    *("encryptionkey", "credential", "credentials", "passphrase", "passwd", "password"),
    *("passwords", "secret", "secrets", "token", "tokens"),
)
_SECRET_KEYS: Final = _words(
    "access account api auth client decryption deploy encryption gpg hmac host license master pgp "
    "private secret service shared signing ssh ssl storage subscription tls webhook"
)
"""Followed by ``key`` or ``keys``, each of these is a secret."""
_SECRET_PAIRS: Final = frozenset(
    {
        *(("auth", "header"), ("basic", "auth"), ("client", "assertion"), ("saml", "response")),
        *(("connection", "string"), ("db", "pass"), ("smtp", "pass"), ("user", "pass")),
        *(("seed", "phrase"), ("recovery", "phrase"), ("mnemonic", "phrase")),
        *((kind, code) for kind in ("backup", "recovery") for code in ("code", "codes")),
        *((kind, "code") for kind in ("mfa", "verification", "pin", "sms", "auth")),
    }
)
_DESCRIPTIVE: Final = _words(
    "age alg algorithm at budget by consent cost count created date description email enabled "
    "endpoint expiration expires expiry format id ids in kind label last length limit limits "
    "method mode model name names owner policies policy prefix protocol provider providers "
    "required role rotated rotation scope scopes size source state status time timestamp total "
    "strength ttl type types updated uri url usage used user uuid version"
)
_QUESTIONS: Final = _words("has is needs num requires uses")
_TOKEN_COUNTS: Final = _words(
    "cached completion input max min num number output prompt reasoning total usage"
)
_AMBIGUOUS: Final = _words("assertion auth code key pass pem pin private sid signature")
"""Last words of keys that name a secret, or something else."""
_COUNTING: Final = _words(
    "ages attempts count counts days failures hours length limit max min minutes months number "
    "quantity retries seconds size total tries uses weeks years"
)
_PARTICIPLES: Final = lazily(r"(?:[a-z]{2,}ed|reset|set|sent|shown|hidden|given|taken)\Z")
"""What was done with the thing that the words before it name."""
_FLAG_WORDS: Final = _words("true false yes no on off enabled disabled y n 0 1 none null")
_MAX_COUNT: Final = 1_000_000
"""A number below it, under a key that counts, is no secret."""

_ANY_WORD: Final = lazily(
    "|".join(
        sorted(
            {*_SECRET_WORDS, *_SECRET_ENDINGS, *_AMBIGUOUS, "key", "session"}
            | {second for _, second in _SECRET_PAIRS}
        )
    )
)
"""Where none of these is in a key, it names no secret: its words are not looked at."""

_WORD = lazily(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_LOWER_WORD = lazily(r"[a-z]+")

_LOOKALIKES: Final = str.maketrans(
    "аеорсухіјѕһԁɡӏкмтвнАВЕКМНОРСТУХІЈЅαεικνορτυχΑΒΕΖΗΙΚΜΝΟΡΤΥΧı",
    "aeopcyxijshdglkmtbhABEKMHOPCTYXIJSaeiknoptuxABEZHIKMNOPTYXi",
)
"""Letters of other alphabets that look the same as Latin ones."""


def skeleton(key: str) -> str:
    """Return *key* as it looks: without marks, invisible characters and letters in disguise."""
    if key.isascii():
        return key
    plain = unicodedata.normalize("NFKD", key).translate(_LOOKALIKES)
    return "".join(each for each in plain if unicodedata.category(each) not in ("Mn", "Cf", "Cc"))


def looks_secret(key: str) -> bool:
    """Return whether a value under *key* is a secret, by the rule of this module."""
    if _is_plain(key):
        return False
    # Split by camel case and, separately, in lower case: catches both aPi_KeY and apiKey.
    lists = _splits(key)
    if not any(_names_secret(words) for words in lists):
        return False
    return not any(words and _describes(words) for words in lists)


def _is_plain(key: str) -> bool:
    """Return whether no word that any rule looks for can be in *key*, which is quickly seen."""
    return key.isascii() and _ANY_WORD.search(key.lower()) is None


def _splits(key: str) -> list[list[str]]:
    key = skeleton(key)
    return [[word.lower() for word in _WORD.findall(key)], _LOWER_WORD.findall(key.lower())]


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


def _is_ambiguous(words: list[str]) -> bool:
    return words[-1:] != [] and (words[-1] in _AMBIGUOUS or words[-2:] == ["session", "id"])


def _counts(words: list[str]) -> bool:
    """Return whether the key of *words* counts something, or names several."""
    if words[-1] == "keys" or (words[-1].endswith("s") and words[-1][:-1] in _SECRET_WORDS):
        return True
    return not _COUNTING.isdisjoint(words) or _PARTICIPLES.match(words[-1]) is not None


def is_secret_under(key: str, value: Any) -> bool:
    """Return whether *value* can be a secret, under a *key* that names one."""
    if value is None or type(value) is bool or value in ("", [], {}):
        return False
    words = [word.lower() for word in _WORD.findall(skeleton(key))] or [""]
    if type(value) in (int, float):
        return not (-_MAX_COUNT < value < _MAX_COUNT and _counts(words))
    if type(value) is str and value.lower() in _FLAG_WORDS:
        return _PARTICIPLES.match(words[-1]) is None
    return True


# -- what looks like a secret

_RANDOM = lazily(
    r"(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=\D*\d)[A-Za-z0-9+/_=.~-]{16,8192}\Z|[0-9A-Fa-f]{32,512}\Z"
)
_PIN = lazily(r"\d{3,12}\Z")
_CODED = lazily(r"[^\s]{6,8192}\Z")
_PLAIN = lazily(
    r"[^\W\d_]+(?:[ _.\-/:,][^\W\d_]+)*\Z"  # words
    r"|\d{4}-\d\d-\d\d(?:[T ][\d:.]+(?:Z|[+-][\d:]+)?)?\Z"  # a time
)


def is_random(text: str) -> bool:
    """Return whether *text* looks made by a machine, to be a secret: mixed, long, no words."""
    return _RANDOM.match(text) is not None


def may_be_secret(value: Any) -> bool:
    """
    Return whether *value*, beside a name and not under a key, may be a secret.

    The name may be chosen by the one who is audited, to have what is beside it hidden. So plain
    words, such as a role, are none, nor are small numbers, times, IP and email addresses.
    """
    if type(value) is int:
        return abs(value) >= _MAX_COUNT
    if type(value) is not str:
        return False
    text = value.strip()
    if " " in text:
        return any(len(word) >= 12 and may_be_secret(word) for word in text[:8192].split())
    if _CODED.match(text) is None:
        return False
    return not (_PLAIN.match(text) or is_ip(text) or is_email(text))


class SecretKeys(dict[str, bool]):
    """Which keys are secret, by :func:`looks_secret` or the operator's globs; a bounded cache."""

    def __init__(self, globs: Iterable[str] | None, special: frozenset[str]) -> None:
        super().__init__()
        self.harmless: set[str] = set()
        """Keys that are no secret, not ambiguous, and not in *special*: most keys."""
        self._ambiguous: dict[str, bool] = {}
        self._special = special
        self.are_given: Final = globs is not None
        """Whether the operator has listed them; then every value under one is a secret."""
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
                self._ambiguous.clear()
            self[key] = secret
            if secret or key in self._special:
                return secret
            if (self._globs is None and _is_plain(key)) or not self.is_ambiguous(key):
                self.harmless.add(key)
        return secret

    def is_ambiguous(self, key: str) -> bool:
        """Return whether *key* names a secret only if the value under it looks like one."""
        if self.are_given:
            return False
        known = self._ambiguous.get(key)
        if known is None:
            known = not _is_plain(key) and any(map(_is_ambiguous, _splits(key)))
            if key in self:  # what is kept is bounded with it
                self._ambiguous[key] = known
        return known

    def hides(self, key: str, value: Any) -> bool:
        """Return whether *value* under *key* is to be hidden."""
        if key in self.harmless:
            return False
        if self[key]:
            return value is not None if self.are_given else is_secret_under(key, value)
        if type(value) not in (str, int) or not self.is_ambiguous(key):
            return False
        text = str(value)
        is_pin = key.lower().endswith("pin") and _PIN.match(text) is not None
        is_pass = key.lower().endswith("pass") and may_be_secret(text)
        return is_pin or is_pass or is_random(text)


_MAX_CACHED_KEYS: Final = 8192
