"""
Find secrets in texts by what they look like, whatever the key above them is.

Every pattern is written so that it costs time in proportion to the text: no two of its parts can
match the same characters in more than one way. In a text only the secret itself is replaced.

A page is searched once for all of its records (:class:`Search`). That must cost next to nothing
where there is no secret: fixed beginnings are looked for by :mod:`.secret_marks`, and of what has a
value behind it only the name, which is read backwards from the ``=`` or the colon.
"""

import base64
import binascii
import re
from collections.abc import Callable
from itertools import chain
from typing import Final, NamedTuple
from urllib.parse import unquote_plus

from auditrelay.events.patterns import lazily
from auditrelay.events.secret_keys import SecretKeys, may_be_secret
from auditrelay.events.secret_marks import Marks

MARK: Final = "[redacted]"

# -- tokens that are known by how they begin

_PEM = (
    r"-----BEGIN[A-Z ]{1,40}KEY(?: BLOCK)?-----"
    r"(?:\s*(?:Proc-Type|DEK-Info|Version|Comment): [^\n]{0,200})*+"
    r"(?:\s*[A-Za-z0-9+/=]{16,80})*+(?:\s*[A-Za-z0-9+/=]{1,80})?+"
    r"(?:\s*-----END[A-Z ]{1,40}-----)?"
)
_TOKEN = lazily(
    r"(?<![A-Za-z0-9])(?:"
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{6,}|sk-(?:proj|ant|svcacct)-[\w-]{6,}"  # Stripe, OpenAI...
    r"|gh[opsur]_[A-Za-z0-9]{6,}|github_pat_\w{6,}|glpat-[\w-]{6,}"  # GitHub, GitLab
    r"|xox[abeprs]-[\w-]{6,}|A[KS]IA[A-Z0-9]{12,}|AIza[\w-]{20,}|GOCSPX-[\w-]{6,}"  # Slack, clouds
    r"|npm_[A-Za-z0-9]{20,}|pypi-AgEI[\w-]{6,}|dckr_pat_[\w-]{6,}|whsec_[\w+/=]{6,}"
    r"|hf_[A-Za-z0-9]{20,}|SG\.[\w-]{10,}\.[\w-]{10,}|shpat_[A-Fa-f0-9]{16,}"
    r"|eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)*+"  # a JWT
    rf")|{_PEM}"
)
_BEGINNINGS: Final = Marks(
    *(b"sk_live_", b"rk_live_", b"sk_test_", b"rk_test_", b"sk-proj-", b"sk-ant-", b"sk-svcacct-"),
    *(b"ghp_", b"gho_", b"ghs_", b"ghu_", b"ghr_", b"github_pat_", b"glpat-", b"xox", b"AKIA"),
    *(b"ASIA", b"AIza", b"GOCSPX-", b"npm_", b"pypi-AgEI", b"dckr_pat_", b"whsec_", b"hf_"),
    *(b"SG.", b"shpat_", b"eyJ", b"-----BEGIN", b"hooks.slack.com/"),
)
"""How all of these begin, and a webhook of Slack."""
_ENCODED = lazily(r"(?<![\w+/-])eyJ[\w+/-]{13,}={0,2}(?![\w+/=.-])")
"""An object of JSON in base64."""
_WEBHOOK = lazily(r"(hooks\.slack\.com/(?:services|workflows|triggers)/)[\w/-]+")
_BEARER = lazily(r"\b((?:[Bb]earer|BEARER|[Bb]asic|BASIC) )([\w.~+/=-]{6,})")
_COMMAND = lazily(r"( (?:-u|--user) ?[\"']?[\w.@%+-]{1,128}:)([^\s\"'\\]+)")
_MYSQL = lazily(r"(\bmysql(?:dump|admin)?\b[^|;&\n\"]{0,200}? -p)([^\s\"'\\]{1,200})")

# -- names with a value beside them

_NAME = r"(?<![\w.-])(?P<name>[\w.-]{1,64}+)(?P<end>(?:\\*[\"'])?\]?) {0,8}+"
_NAMED = lazily(_NAME + r"(?:(?P<equal>=)>?|:(?= |\\*\")) {0,8}+(?P<quote>\\*[\"'])?")
"""A name, and where its value begins."""
_NAMED_IN_JSON = lazily(_NAME + r"(?:(?P<equal>=)>?|:) {0,8}+(?P<quote>\\*[\"'])?")
"""The same in a text that was to be JSON: there a colon needs no blank."""
_TAG = lazily(r"<([A-Za-z][\w.:-]{0,63}+)(?: [^<>]{0,200}+)?>([^<>]{1,8192}+)(?=</)")
_BARE = lazily(r"(?:(?i:bearer|basic|token|digest|apikey) )?[^\s,;&}\])\"'<>${(|`\\]+")
_WORD = lazily(r"\S+")
_COOKIES = lazily(r"[^\s;\"'=]+=[^\s;\"']*(?:; [^\s;\"'=]+=[^\s;\"']*)*")
_IN_DOUBLE, _IN_SINGLE = r'(?:[^"\\]|\\.)*+', r"(?:[^'\\]|\\.)*+"
_QUOTED: Final = {
    '"': lazily(_IN_DOUBLE, re.DOTALL),
    "'": lazily(_IN_SINGLE, re.DOTALL),
}
_SCALAR = lazily(rf'"({_IN_DOUBLE})"?|\'({_IN_SINGLE})\'?|([^\s,:;{{}}\[\]"\']+)|([{{}}\[\]])')

# -- addresses

_USERINFO = lazily(
    r"://(?P<user>[\w.~%!&*+,;=-]{0,256})(?P<colon>:?)(?P<rest>[^/?#\s\"'<>{}|`\\]*)@(?=[\w\[%])"
)
_PARAMETER = lazily(r"([?&;#])([\w.%~\[\]-]{1,128}+)=([^&;#\s\"'<>${}()|`\\]+)")
_ADDRESS_SECRETS: Final = frozenset(
    (
        *("auth", "code", "key", "otp", "pin", "samlresponse", "saml_response", "sid", "session"),
        *("session_id", "sig", "signature", "ticket", "x-amz-signature"),
    )
)
"""Parameters that are credentials in an address, though not as the key of a record."""


_AFTER_BLANK: Final = lazily(
    rb" (?:(?<=[:rRcC] )"  # few blanks are behind one of these
    rb"(?:(?<=[^\"]: )|(?<=earer )|(?<=asic )|(?<=EARER )|(?<=ASIC ))|--?[up])"
)
_BEFORE_BLANK: Final = Marks(
    *(b": ", b"earer ", b"asic ", b"EARER ", b"ASIC ", b" -u", b" --u", b" -p", b" --p"),
)
"""What every text has that the pattern above finds something in; most pages have none of it."""
_COMMAND_WORDS: Final = lazily(_AFTER_BLANK.pattern.replace(b'(?<=[^\\"]: )|', b""))

# -- names in the JSON text of a page, which is read backwards: then what they end with begins the
# pattern, and the engine goes from one to the next at once

_NAME_BACKWARDS = rb" {0,8}\]?(?:[\"']\\*)?([\w.\x80-\xff-]{1,256}+\\?)"
_BEFORE_EQUAL: Final = lazily(rb"=" + _NAME_BACKWARDS)
_BEFORE_COLON: Final = lazily(rb" :(?!\")" + _NAME_BACKWARDS)
_BEFORE_COLON_AND_QUOTE: Final = lazily(rb"\"\\+:(?!\")" + _NAME_BACKWARDS)
_NO_NAME: Final = lazily(r"[^\w.\\-]")
_PARAMETER_BACKWARDS: Final = lazily(rb"=([\w.%~\[\]\x80-\xff-]{1,512}+)[?&;#]")
_TAG_NAME: Final = lazily(rb"<([A-Za-z][\w.:\x80-\xff-]{0,256}+)")
_MAY_BE_USER: Final = lazily(rb"://[^/?#\s\"'<>{}|`]*@")


class Search(NamedTuple):
    """One way to look for secrets: *may_be_in* a JSON text, and what *finds* one for sure."""

    may_be_in: Callable[[bytes], object]
    finds: Callable[[str], bool]


class SecretTexts:
    """
    Finds and replaces the secrets in texts; *keys* says which names are those of a secret.

    With the operator's own keys, not *by_value*, only parameters of addresses are looked at.
    """

    def __init__(self, keys: SecretKeys, *, by_value: bool) -> None:
        self._keys = keys
        self._by_value = by_value
        self.searches: Final[tuple[Search, ...]] = (
            (Search(self._may_have_parameter, lambda text: self._parameters(text) != text),)
            if not by_value
            else (
                Search(_may_have_user, lambda text: _user(text) != text),
                Search(self._may_have_parameter, lambda text: self._parameters(text) != text),
                Search(self._may_have_name, lambda text: self._named(text) != text),
                Search(self._may_have_header, self._finds_header),
                Search(self._may_have_tag, lambda text: self._tags(text) != text),
                Search(_BEGINNINGS.are_in, self._finds_token),
            )
        )
        """They look at a whole record, and err on the side of finding."""

    def _may_have_parameter(self, text: bytes) -> bool:
        if b"=" not in text:
            return False
        names = map(unquote_plus, _read(_PARAMETER_BACKWARDS, text))
        return any(self._names(name) or name.lower() in _ADDRESS_SECRETS for name in names)

    def _may_have_name(self, text: bytes) -> bool:
        return (b"=" in text and self._any_name(_BEFORE_EQUAL, text)) or (
            b"\\" in text and b":\\" in text and self._any_name(_BEFORE_COLON_AND_QUOTE, text)
        )

    def _may_have_header(self, text: bytes) -> bool:
        return (
            _BEFORE_BLANK.are_in(text)
            and _AFTER_BLANK.search(text) is not None
            and (_COMMAND_WORDS.search(text) is not None or self._any_name(_BEFORE_COLON, text))
        )

    def _any_name(self, backwards: re.Pattern[bytes], text: bytes) -> bool:
        names = _read(backwards, text)
        if self._keys.harmless.issuperset(names):
            return False
        return any(map(self._names, chain.from_iterable(map(_ends, names))))

    def _may_have_tag(self, text: bytes) -> bool:
        if b"<" not in text or b"</" not in text:
            return False
        names = {each.decode(errors="replace") for each in _TAG_NAME.findall(text)}
        return any(self._names(name.rpartition(":")[2]) for name in names)

    def _finds_header(self, text: str) -> bool:
        return _commands(text) != text or self._named(text) != text

    def _finds_token(self, text: str) -> bool:
        return any(pattern.search(text) for pattern in (_TOKEN, _ENCODED, _WEBHOOK))

    def without_secrets(self, text: str, encoded: Callable[[str], bool]) -> str:
        """
        Return *text* with a mark in the place of each secret.

        *encoded* tells whether a text of JSON, which was in base64, has a secret in it.
        """
        if not self._by_value:
            return self._parameters(text) if "://" in text else text
        if "://" in text:
            text = _user(text)
        text = _TOKEN.sub(MARK, text)
        text = _WEBHOOK.sub(rf"\1{MARK}", text)
        text = _ENCODED.sub(lambda found: MARK if _decodes(found[0], encoded) else found[0], text)
        if " " in text:
            text = _commands(text)
        text = self._parameters(text)
        if "=" in text or ":" in text:
            text = self._named(text)
        return self._tags(text) if "</" in text else text

    def without_token(self, key: str) -> str:
        """Return *key* without a token in it: a secret may be the key itself."""
        return _TOKEN.sub(MARK, key) if self._by_value else key

    def without_named(self, text: str) -> str:
        """Return *text*, which was to be JSON, without what is beside the name of a secret."""
        return self._named(text, _NAMED_IN_JSON)

    def _parameters(self, text: str) -> str:
        if "=" not in text:
            return text
        return _PARAMETER.sub(self._parameter, text)

    def _parameter(self, found: re.Match[str]) -> str:
        name = unquote_plus(found[2])
        hidden = self._hides(name, found[3]) or (
            self._by_value and name.lower() in _ADDRESS_SECRETS
        )
        return f"{found[1]}{found[2]}={MARK}" if hidden else found[0]

    def _hides(self, name: str, value: str) -> bool:
        if MARK[:-1] in value:  # it is replaced already; a pattern may stop before its end
            return False
        return self._keys.hides(name, int(value) if _NUMBER.match(value) else value)

    def _tags(self, text: str) -> str:
        def replaced(found: re.Match[str]) -> str:
            if not self._hides(found[1].rpartition(":")[2], found[2]):
                return found[0]
            return found[0][: found.start(2) - found.start()] + MARK

        return _TAG.sub(replaced, text)

    def _named(self, text: str, pattern: re.Pattern[str] = _NAMED) -> str:
        """Replace values behind names, such as ``TOKEN=abc`` or a header's line."""
        kept: list[str] = []
        done = 0
        for found in pattern.finditer(text):
            name, start = found["name"], found.end()
            if found.start() < done or name in self._keys.harmless or not self._names(name):
                continue
            opening = text[start : start + 1]
            if opening and opening in "{[" and not found["quote"]:
                kept.append(text[done:start])
                inner, done = _scalars(text, start)
                kept.append(inner)
                continue
            end = self._end_of_value(text, found)
            value = text[start:end]
            if end > start and self._hides_beside(found, value):
                kept += text[done:start], MARK
                done = end
        return "".join((*kept, text[done:])) if kept else text

    def _names(self, name: str) -> bool:
        return self._keys[name] or self._keys.is_ambiguous(name)

    def _end_of_value(self, text: str, found: re.Match[str]) -> int:
        if quote := found["quote"]:
            if len(quote) > 1:  # it is escaped, and so is the one at the end
                end = text.find(quote, found.end())
            else:
                value = _QUOTED[quote].match(text, found.end())
                end = value.end() if value else -1
            if end >= 0 and text.startswith(quote, end):
                return end
            pattern = _WORD  # it does not end: of the text no more than that is the value
        elif found["name"].lower().endswith("cookie"):
            pattern = _COOKIES
        else:
            pattern = _BARE
        value = pattern.match(text, found.end())
        return value.end() if value else found.end()

    def _hides_beside(self, found: re.Match[str], value: str) -> bool:
        if found["equal"] or found["quote"] or found["end"]:
            return self._hides(found["name"], value)
        # In prose a word after a colon is seldom what the word before it names.
        return may_be_secret(value.rpartition(" ")[2]) and self._hides(found["name"], value)


def _read(backwards: re.Pattern[bytes], text: bytes) -> set[str]:
    """Return what the pattern, which is written *backwards*, finds in *text*."""
    return {each[::-1].decode(errors="replace") for each in set(backwards.findall(text[::-1]))}


def _ends(name: str) -> list[str]:
    """Return *name*, read from bytes of JSON, as it may be in the text itself."""
    name = _NO_NAME.split(name)[-1]
    if name[:1] != "\\":
        return [name]
    return [name[1:], name[2:], name[6:]]  # of a name behind a backslash, \n or \u000a


def _may_have_user(text: bytes) -> bool:
    # One character is found much faster than three.
    return b"/" in text and b"://" in text and _MAY_BE_USER.search(text) is not None


_NUMBER: Final = lazily(r"-?\d{1,9}\Z")


def _user(text: str) -> str:
    """Replace the credentials in the addresses of *text*: a password, or a token for a name."""

    def replaced(found: re.Match[str]) -> str:
        if found["colon"] and found["rest"]:
            return f"://{found['user']}:{MARK}@"
        name = found["user"] + found["rest"]
        return f"://{MARK}@" if may_be_secret(name) else found[0]

    return _USERINFO.sub(replaced, text)


def _commands(text: str) -> str:
    def bearer(found: re.Match[str]) -> str:
        return f"{found[1]}{MARK}" if may_be_secret(found[2]) else found[0]

    text = _BEARER.sub(bearer, text)
    if " -" not in text:
        return text
    text = _COMMAND.sub(rf"\1{MARK}", text)
    return _MYSQL.sub(rf"\1{MARK}", text) if "mysql" in text else text


def _scalars(text: str, start: int) -> tuple[str, int]:
    """Return the object or list at *start* without what may be a secret, and where it ends."""
    kept: list[str] = []
    done, depth = start, 0
    for found in _SCALAR.finditer(text, start):
        if found[4]:
            depth += 1 if found[4] in "[{" else -1
            if depth <= 0:
                done_at = found.end()
                return "".join((*kept, text[done:done_at])), done_at
            continue
        group = 1 if found[1] is not None else 2 if found[2] is not None else 3
        if may_be_secret(found[group]):
            kept += text[done : found.start(group)], MARK
            done = found.end(group)
    return "".join((*kept, text[done:])), len(text)


def _decodes(text: str, encoded: Callable[[str], bool]) -> bool:
    """Return whether *text* is base64 of a JSON text that *encoded* says has a secret in it."""
    try:
        json = base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_") + "==").decode()
    except (binascii.Error, ValueError):
        return False
    return encoded(json)
