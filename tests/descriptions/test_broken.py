"""What is wrong in a description is one line with its file, its key and what to do."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.descriptions.acme import PARTS, described, text, write

from auditrelay.clock import Clock
from auditrelay.descriptions import load
from auditrelay.descriptions.load import named, read
from auditrelay.errors import ConfigError
from auditrelay.settings.toml import Unreadable


def changed(part: str, old: str, new: str) -> dict[str, str]:
    """Return the part of a description with *old* replaced."""
    assert old in PARTS[part], (part, old)
    return {part: PARTS[part].replace(old, new)}


def more(part: str, lines: str) -> dict[str, str]:
    return {part: f"{PARTS[part].rstrip()}\n{lines}\n"}


def pages(lines: str) -> dict[str, str]:
    return {"pages": f"[pages]\n{lines}\n"}


def oauth2(lines: str) -> dict[str, str]:
    known = (
        'kind = "oauth2"\ntoken_url = "https://login.acme.example/token"\nclient_id = "token"\n'
        'client_secret = "token"'
    )
    return {"auth": f"[auth]\n{known}\n{lines}\n"}


BROKEN: list[tuple[dict[str, str], str]] = [
    # --- the top
    (
        changed("top", '"acme"', '"Acme Corp"'),
        "vendor: 'Acme Corp' is not a name: write small letters, digits and _, such as \"acme\"",
    ),
    (
        changed("top", '"acme"', '"bland"'),
        (
            'vendor: "bland" is the name of a description that comes with auditrelay; two sources '
            'of one vendor must agree on ids: give yours another name, or use type = "bland"'
        ),
    ),
    (changed("top", '"Acme"', '""'), "product: is empty: set a value, or remove the key if it"),
    (changed("top", "https://docs", "http://docs"), "docs[0]: must begin with https://"),
    (
        changed("top", '["https://docs.acme.example/audit"]', "[]"),
        "docs: must have a length of at least 1",
    ),
    (changed("top", "2026-03-01", '"soon"'), "checked: must be a date, such as 2026-03-01"),
    (
        changed("top", '"documentation"', '"hearsay"'),
        'evidence: must be "documentation" or "recorded", not "hearsay"',
    ),
    (changed("top", "product", "produkt"), "produkt: unknown key; did you mean product?"),
    (changed("top", "product", "produkt"), "product: is missing"),
    (
        more("top", 'default_feed = "admin"'),
        'default_feed: there is no feed "admin"',
    ),
    (more("top", 'replaces = "nothing"'), 'replaces: no description "nothing" comes with'),
    # --- settings and secrets
    (
        changed("settings", "about =", "abut ="),
        "settings.domain.abut: unknown key; did you mean ab",
    ),
    (changed("settings", "about =", "abut ="), "settings.domain.about: is missing"),
    (
        changed("settings", "eu.acme.example", "EU"),
        "settings.domain.example: does not match the pattern",
    ),
    (
        changed("settings", "[a-z0-9.-]+", "[a-z"),
        "settings.domain.pattern: is not a regular expression: unterminated character set",
    ),
    (
        changed("settings", "[a-z0-9.-]+", "a(?=b)"),
        "settings.domain.pattern: must not look ahead or behind",
    ),
    (
        changed("settings", "[a-z0-9.-]+", "a" * 201),
        "settings.domain.pattern: is longer than 200 characters",
    ),
    (
        more("settings", 'choices = ["eu.acme.example"]'),
        "settings.domain.pattern: excludes choices: leave one of them out",
    ),
    (
        more("settings", 'default = "UPPER"'),
        'settings.domain.default: must look like "eu.acme.example" and match [a-z0-9.-]+',
    ),
    (
        more("settings", '[settings.timeout]\nabout = "x"\nexample = "x"\nscope = true'),
        "settings.timeout: is the name of a key that every source has; choose another",
    ),
    (
        more("settings", '[settings.feed]\nabout = "x"\nexample = "x"\nscope = true'),
        "settings.feed: is the name of a key that every source has; choose another",
    ),
    (
        more("secrets", '[secrets.model_dump]\nabout = "x"'),
        "secrets.model_dump: is a word that settings use themselves; choose another",
    ),
    (
        more("settings", '[settings.Region]\nabout = "x"\nexample = "x"\nscope = true'),
        "settings.Region: is not a name: write small letters, digits and single _",
    ),
    (
        more("settings", '[settings.token]\nabout = "x"\nexample = "x"\nscope = true'),
        "secrets.token: is the name of a setting, too; choose another",
    ),
    (
        more("settings", '[settings.region]\nabout = "x"\nexample = "x"'),
        "settings.region: is used nowhere: remove it, or write it as a hole, {name}",
    ),
    (
        more("secrets", '[secrets.other]\nabout = "x"'),
        "secrets.other: is used nowhere: remove it, or name it in [auth]",
    ),
    (
        more("secrets", 'default = "hunter2"'),
        'secrets.token.default: must be "", for a secret that some accounts do not have',
    ),
    (
        {
            **changed("settings", "scope = true", "scope = false"),
            **changed("request", "https://{domain}", "https://api.acme.example/{domain}"),
        },
        (
            "records: nothing tells two organisations apart: mark a setting with scope = true, or "
            "name records.organisation"
        ),
    ),
    # --- holes
    (
        changed("request", "{domain}", "{domian}.example"),
        "request.base_url: {domian} is not a setting; did you mean domain?",
    ),
    (
        changed("request", 'sort = "asc"', 'sort = "{token}"'),
        (
            "request.params.sort: {token} is a secret, and secrets go into [auth] only, where they "
            "are kept out of logs"
        ),
    ),
    (
        changed("settings", "pattern = '[a-z0-9.-]+'", ""),
        (
            "request.base_url: {domain} stands in the host, so settings.domain needs a pattern: "
            "otherwise any host could get the credentials"
        ),
    ),
    (
        changed("pages", "query:cursor", "query:{domain}"),
        (
            "pages.to: {domain} is not filled here: settings may stand in request, pages.path and "
            "some keys of [auth]"
        ),
    ),
    (
        changed("settings", "eu.acme.example", "-.-"),
        "settings.domain.example: stands in the host of an address: only letters, digits, dots and",
    ),
    (
        {
            **more("settings", '[settings.team]\nabout = "x"\nexample = "x"\ndefault = ".."'),
            **changed("request", "/v1/logs", "/v1/{team}/logs"),
        },
        "settings.team.default: stands in the path of an address, and would lead elsewhere",
    ),
    # --- the request
    (
        changed("request", "https://{domain}", "http://{domain}"),
        "request.base_url: must begin with https://, or the credentials would be sent in clear",
    ),
    (
        changed("request", "https://{domain}", "https://{domain}?a=b"),
        "request.base_url: must not contain a query or a fragment",
    ),
    (
        changed("request", "/v1/logs", "v1/logs"),
        'request.path: must begin with a slash: "/v1/logs"',
    ),
    (
        changed("request", "/v1/logs", "/v1/logs?all=1"),
        "request.path: holds a query: put it into request.params",
    ),
    (
        changed("request", "sort", "limit"),
        "request.params.limit: is set by pages.size; leave it out",
    ),
    (
        changed("request", '"asc"', "5"),
        "request.params.sort: must be a text in quotes, or a list of texts",
    ),
    (
        more("request", 'headers = { Authorization = "x" }'),
        "request.headers.Authorization: belongs into [auth]",
    ),
    (
        more("request", 'headers = { host = "x" }'),
        "request.headers.host: is set by auditrelay itself: leave it out",
    ),
    (
        more("request", 'headers = { "x y" = "x" }'),
        "request.headers.\"x y\": 'x y' is not the name of a header",
    ),
    (
        more("request", 'headers = { accept = "a\\nb" }'),
        "request.headers.accept: must have printable ASCII characters only",
    ),
    (
        more("request", "body = { a = 1 }"),
        'request.body: only a POST has one: set method = "POST", or remove it',
    ),
    (more("request", 'method = "PUT"'), 'request.method: must be "GET" or "POST", not "PUT"'),
    # --- times
    (
        changed("time", "query:since", "query.since"),
        "time.start: 'query.since' names no place: write query:since",
    ),
    (
        changed("time", "query:since", "param:since"),
        "time.start: 'param:since' names no place: write one of query:NAME, body:NAME, header:NAME",
    ),
    (
        changed("time", 'start = "query:since"', ""),
        "time.end: an upper bound alone finds no window; give time.start too",
    ),
    (
        changed("time", "query:since", "body:since"),
        'time.start: body:since needs a body: set request.method = "POST"',
    ),
    (
        changed("time", "query:until", "query:cursor"),
        "pages.to: query:cursor is filled by time.end already",
    ),
    ({"time": '[time]\ntext = "at:{start}..{end}"'}, "time.at: is missing; text needs it"),
    (
        {"time": '[time]\ntext = "at:{start}"\nat = "query:q"'},
        "time.text: must hold {start} and {end} once each, and no other hole",
    ),
    (
        more("time", 'text = "at:{start}..{end}"\nat = "query:q"'),
        "time.text: says both bounds: leave start and end out",
    ),
    (
        more("time", 'format = "%Y-%m-%d %I"'),
        "time.format: '%Y-%m-%d %I' has %I; only %Y %m %d %H %M %S %L are known",
    ),
    (more("time", 'format = "%Y-%m"'), "time.format: '%Y-%m' has no %d, so it does not tell one"),
    (more("time", 'format = "iso"'), "time.format: 'iso' is no format: write one of iso_s, iso_ms"),
    (
        {"time": "[time]"},
        (
            "time.order: without a time filter the list must be newest first, or every window "
            "would read all of it"
        ),
    ),
    (
        {**more("time", 'longest = "1d"'), "defaults": '[defaults]\nmax_window = "2d"'},
        "defaults.max_window: the vendor refuses windows longer than 1d (time.longest)",
    ),
    (
        more("time", 'longest = "5m"'),
        "time.longest: windows of 5m must be longer than their overlap, 10m",
    ),
    (more("time", 'longest = "1 day"'), "time.longest: '1 day' is not a duration: write a whole"),
    ({"time": ""}, "time: is missing"),
    # --- pages
    (
        changed("pages", 'from = "body:next"', ""),
        'pages.from: is missing: kind = "cursor" needs the spot of the next cursor or address',
    ),
    (
        changed("pages", 'to = "query:cursor"', ""),
        'pages.to: is missing: kind = "cursor" needs the slot that it fills',
    ),
    (
        changed("pages", "body:next", "body:a..b"),
        "pages.from: 'a..b' is not a path: write keys with dots between them",
    ),
    (
        changed("pages", "body:next", "link:next"),
        'pages.from: a link is an address, not a cursor: set kind = "url"',
    ),
    (
        pages('kind = "none"\nmore = "body:more"'),
        'pages.more: has no use with kind = "none", only with "cursor" or "url" or "number" or "of',
    ),
    (
        pages('kind = "number"\nto = "query:page"'),
        (
            "pages: nothing says when the pages end: give more, count, total or until_empty (a "
            "page that is shorter than asked for proves nothing)"
        ),
    ),
    (
        pages('kind = "offset"\nto = "query:skip"\nmore = "body:more"\nuntil_empty = true'),
        "pages: more and until_empty both say when the pages end: keep one of them",
    ),
    (
        more("pages", 'until_empty = true\nempty = "go_on"'),
        "pages.empty: until_empty ends at the first empty page: leave one of them out",
    ),
    (
        changed("pages", 'size = "query:limit"', ""),
        "pages.largest: has no use without size, the slot of the page size",
    ),
    (
        changed("pages", "largest = 100", "largest = true"),
        "pages.largest: must be a whole number, not true",
    ),
    (
        more("pages", 'more = "link:next"'),
        "pages.more: 'link:next' must be in the body or a header",
    ),
    (more("pages", 'path = "next"'), 'pages.path: must begin with a slash: "/next"'),
    (
        changed("pages", '"cursor"', '"cursors"'),
        'pages.kind: must be "none", "cursor", "url", "number" or "offset", not "cursors"',
    ),
    (
        {"defaults": "[defaults]\npage_size = 500"},
        "defaults.page_size: the vendor gives at most 100 (pages.largest)",
    ),
    # --- records
    (
        changed("records", 'id = "id"', ""),
        "records: say what a record is known by: id, id_parts, or no_id = true",
    ),
    (
        more("records", "no_id = true"),
        "records: say what a record is known by: id, id_parts, or no_id = true",
    ),
    (
        changed("records", 'id = "id"', 'id_parts = ["id"]'),
        "records.id_parts: must have at least two paths; a single one is id",
    ),
    (
        more("records", 'without = ["links"]'),
        "records.without: only a record that has no id is known by its content: set no_id = true",
    ),
    (
        more("records", 'time_format = "epoch"'),
        "records.time_format: 'epoch' is no format: write one of iso, epoch_s, epoch_ms",
    ),
    (
        changed("records", '"items"', '"[type=a]"'),
        "records.at: '[type=a]' must be plain keys with dots between them",
    ),
    (changed("records", '"id"', '""'), "records.id: is empty: write the path of a value inside"),
    (changed("records", '"id"', "5"), "records.id: must be a path in quotes, or a list of such"),
    (
        changed("records", '"id"', "'the \"id\"'"),
        "records.id: 'the \"id\"' is not a path: no key may have a quotation mark",
    ),
    (
        changed("records", '"items"', '"the\\nitems"'),
        "records.at: 'the\\nitems' is not a path: no key may have a quotation mark or a control",
    ),
    (
        changed("records", '"id"', '["id", 5]'),
        'records.id: must be one path in quotes, such as "actor.id"',
    ),
    (
        changed("records", 'at = "items"', 'at = ["items"]'),
        "records.at: must be a text, not a list",
    ),
    (
        changed("time", '"query:since"', '["query:since"]'),
        'time.start: must be one place in quotes, such as "query:NAME"',
    ),
    (
        changed("records", '"items"', '""'),
        'pages.from: "next" is not in the body, which is the list itself (records.at = "")',
    ),
    (
        {
            **changed("records", '"items"', '""'),
            **changed("pages", "body:next", "header:x-next"),
            "errors": '[errors]\nok = "ok"',
        },
        'errors.ok: "ok" is not in the body, which is the list itself (records.at = "")',
    ),
    # --- credentials
    (
        changed("auth", '"token"', '"tokn"'),
        'auth.secret: there is no secret "tokn"; did you mean token?',
    ),
    (
        changed("auth", '"header"', '"heder"'),
        'auth.kind: must be "header", "headers", "basic", "oauth2" or "duo", not "heder"',
    ),
    (changed("auth", 'kind = "header"', ""), "auth.kind: is missing"),
    (changed("auth", "prefix", "prefixx"), "auth.prefixx: unknown key; did you mean prefix?"),
    (
        {"auth": '[auth]\nkind = "basic"\nuser = "token"\npassword = "text:"'},
        'auth.user: must be "secret:NAME", "setting:NAME" or "text:..."',
    ),
    (
        {"auth": '[auth]\nkind = "basic"\nuser = "setting:domian"\npassword = "secret:token"'},
        'auth.user: there is no setting "domian"; did you mean domain?',
    ),
    (
        oauth2('grant = "refresh_token"'),
        'auth.refresh_token: is missing; grant = "refresh_token" needs it',
    ),
    (
        oauth2('grant = "client_credentials"\nsubject = "x"'),
        'auth.subject: has no use with grant = "client_credentials"',
    ),
    (
        oauth2('grant = "client_credentials"\nparams = { grant_type = "x" }'),
        "auth.params.grant_type: is set by the grant: leave it out",
    ),
    (
        {
            **more("settings", '[settings.where]\nabout = "x"\nexample = "eu.acme.example"'),
            "auth": '[auth]\nkind = "oauth2"\ngrant = "client_credentials"\nclient_id = "token"\n'
            'client_secret = "token"\ntoken_url = "https://{where}/token"',
        },
        (
            "auth.token_url: {where} stands in the host, so settings.where needs a pattern: "
            "otherwise any host could get the credentials"
        ),
    ),
    (
        {
            "auth": '[auth]\nkind = "header"\nheader = "x-key"\nsecret = "token"',
            **more("request", 'headers = { X-Key = "abc" }'),
        },
        "request.headers.X-Key: belongs into [auth]",
    ),
    # --- limits and errors
    (
        {"limits": "[limits]\nstatuses = [403, 429]"},
        "limits.statuses: 403 is a rate limit only where limits.remaining is 0 or errors.retry",
    ),
    ({"limits": "[limits]\nkeep = 0.1"}, "limits.keep: needs limits.remaining, limits.limit and"),
    ({"limits": "[limits]\nkeep = 2"}, "limits.keep: must be less than 1.0, not 2"),
    (
        {"limits": '[limits]\nreset_is = "iso"'},
        "limits.reset_is: has no use without limits.reset",
    ),
    (
        {"errors": '[errors]\nretry = ["*slow*"]'},
        "errors.retry: needs errors.words, the texts that it is compared with",
    ),
    (
        {"errors": '[errors]\nhints = { "4xx" = "x" }'},
        "errors.hints.4xx: is not a status: write three digits, such as 403",
    ),
    (
        {"errors": "[errors]\nnone = [403]"},
        "errors.none: 403 never means that there are no records",
    ),
    (
        {"errors": '[errors]\nretry_at = { "body.code" = ["x"] }'},
        "errors.retry_at.\"body.code\": 'body.code' names no place: write body:code",
    ),
    # --- defaults
    (
        {"defaults": '[defaults]\nmax_window = "31d"'},
        "defaults.max_window: must be at most 30 days",
    ),
    (
        {"defaults": '[defaults]\nretention = "5m"'},
        "defaults.retention: must not be shorter than overlap, 10m",
    ),
    (
        {"defaults": '[defaults]\noverlap = "2d"\nmax_window = "1d"'},
        "defaults.overlap: windows of 1d must be longer than their overlap, 2d",
    ),
    # --- events
    (
        changed("event", 'action = "action"', ""),
        "event: does not say what happened: give action, action_parts or action_prefix",
    ),
    (
        changed("event", 'outcome = "result"', ""),
        "event.outcomes: is looked up by event.outcome, which is missing",
    ),
    (
        changed("event", '"failure"', '"fail"'),
        'event.outcomes.*: must be "success", "failure" or "unknown", not "fail"'.replace(
            "*", '"*"'
        ),
    ),
    (
        changed("event", 'kind = "user"', ""),
        "event.actor[0]: does not say what acted: give kind, or type and kinds",
    ),
    (
        changed("event", 'kind = "user"', 'type = "who.type"'),
        "event.actor[0].kinds: is missing: the table from the texts at type to kinds of actors",
    ),
    (
        changed("event", 'id = "who.id"', ""),
        "event.actor[0]: finds nothing: give id, name or email",
    ),
    (changed("event", 'id = "who.id"', 'ids = "who.id"'), "event.actor[0].ids: unknown key; did"),
    (
        more("event", '[[event.target]]\nid = "a"\ntype = "b"\ntype_is = "c"'),
        "event.target[0]: type_is excludes type: leave one of them out",
    ),
    (
        more("event", '[event.changes]\nlist = "a"\nbefore = "b"'),
        "event.changes.field: is missing: it names each element of the list",
    ),
    # --- actions
    (
        changed("actions", "user/create", "user/creat"),
        'actions."user.create": there is no verb "creat"; did you mean create?',
    ),
    (
        changed("actions", "user/create", "usr/create"),
        'actions."user.create": there is no kind "usr"; did you mean user?',
    ),
    (
        changed("actions", "user/create", "user/create/fail"),
        'actions."user.create": there is no outcome "fail"; did you mean failure?',
    ),
    (
        changed("actions", '"user/create"', '"user"'),
        'actions."user.create": "user" is not kind/verb or kind/verb/outcome, such as "user/crea',
    ),
    (
        changed("actions", '"user/create"', "5"),
        'actions."user.create": must be a text such as "user/create", or a table of such texts',
    ),
    (
        more("actions", '"*" = "other/other"'),
        'actions."*": would hide that an action is unknown; leave it out (event.guess decides)',
    ),
    (
        more("actions", '[actions.sapi]\n"Create" = "user/create"'),
        "actions.sapi: is a table, and event.refine does not say what to look up in it",
    ),
    (
        more("actions", '"user.**" = "user/delete"'),
        'actions."user.**": can never be chosen: "user.*" stands before it and fits all that it',
    ),
    # --- feeds
    (
        {"event": "", "feeds": '[feeds.a.event]\naction = "b"\nactin = "c"'},
        "feeds.a.event.actin: unknown key; did you mean action?",
    ),
    (
        {"event": "", "feeds": '[feeds.a.event]\naction = "b"\n[feeds.b]\nabout = "x"'},
        "feeds.b.event: is missing",
    ),
    (
        {"feeds": '[feeds.a.pages]\nkind = "number"\nto = "query:page"'},
        "feeds.a.pages: nothing says when the pages end: give more, count, total or until_empty",
    ),
    ({"feeds": '[feeds.A]\nabout = "x"'}, "feeds.A: is not a name: write small letters, digits"),
]


@pytest.mark.parametrize(("parts", "problem"), BROKEN, ids=[each for _, each in BROKEN])
def test_a_broken_description_is_refused_with_the_key_and_what_to_do(
    parts: dict[str, str], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        described(tmp_path, **parts)
    found = [line.removeprefix(f"{tmp_path / 'acme.toml'}: ") for line in caught.value.problems]
    assert [line for line in found if line.startswith(problem)], found
    assert not any("\n" in line for line in found)
    # What only follows from it is not reported.
    assert len(found) == 1 or {problem, *found} <= FEW, found


FEW = {
    # A misspelt key is two problems: it is unknown, and the known one is missing.
    "produkt: unknown key; did you mean product?",
    "product: is missing",
    "settings.domain.abut: unknown key; did you mean ab",
    "settings.domain.abut: unknown key; did you mean about?",
    "settings.domain.about: is missing",
}


def test_a_key_with_a_line_end_stays_on_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        described(tmp_path, **more("actions", '"a\\nb\\u001b[2J" = "c\\nd"'))
    [problem] = caught.value.problems
    assert r""": actions."a\nb\x1b[2J": "c\nd" is not kind/verb or""" in problem


def test_the_whole_description_is_right(tmp_path: Path) -> None:
    found = described(tmp_path)
    assert (found.feeds, found.notes) == ((), ())
    assert found.feed().key == "acme"


def test_all_problems_of_all_tables_are_reported_at_once(tmp_path: Path) -> None:
    parts = {
        **changed("top", '"acme"', '"A"'),
        **changed("settings", "about", "abut"),
        **changed("request", "/v1/logs", "{where}"),
        **changed("pages", "body:next", "body.next"),
        **changed("records", '"id"', '"a..b"'),
        **changed("actions", "user/create", "user/creat"),
    }
    with pytest.raises(ConfigError) as caught:
        described(tmp_path, **parts)
    keys = [line.split(": ")[1] for line in caught.value.problems]
    assert keys == [
        "vendor",
        "settings.domain.about",
        "settings.domain.abut",
        "request.path",
        "request.path",
        "pages.from",
        "records.id",
        'actions."user.create"',
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"vendor = \n", "line 1, column 10: not valid TOML: Invalid value"),
        (b"vendor = \xff", "is not text in UTF-8 (byte 9)"),
        (b"a = " + b"[" * 5000, "is nested too deeply"),
        (b"a = " + b"9" * 5000, "not valid TOML: Exceeds the limit"),
        (b"#" * 2**24 + b"\n", "cannot be read: it is longer than 16,777,216 bytes"),
    ],
)
def test_a_file_that_is_no_toml_is_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "acme.toml"
    file.write_bytes(content)
    with pytest.raises(Unreadable) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: {problem}")


def test_a_file_that_is_not_there_or_that_all_can_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="cannot be read: No such file or directory"):
        read(tmp_path / "acme.toml")
    with pytest.raises(Unreadable, match="is not the name of a file"):
        read(Path("a\0b"))
    file = write(tmp_path, text())
    file.chmod(0o666)
    with pytest.raises(Unreadable, match="every user of this machine can write it"):
        read(file)


@pytest.mark.parametrize("content", ["", "vendor = 5\nfeeds = 3\nsettings = 1\nauth = []\n"])
def test_a_file_of_the_wrong_shape_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(write(tmp_path, content))
    assert len(caught.value.problems) >= 5


EVERYTHING = (
    "",
    """
default_feed = "a"
needs = ["x"]
leaves_out = ["x"]
unsure = ["x"]
replaces = "x"
[limits]
reset = "x-reset"
reset_is = "seconds"
remaining = "x-left"
limit = "x-limit"
keep = 0.1
statuses = [403, 429]
[errors]
words = ["a"]
found = "a"
ok = "a"
retry = ["*a*"]
retry_at = { "body:a" = ["b"] }
hints = { 403 = "x" }
none = [204]
[defaults]
settle = "1m"
overlap = "1m"
max_window = "1d"
retention = "1d"
resweep = ["1h"]
page_size = 5
requests_per_minute = 5
[feeds.a.auth]
about = "x"
[feeds.a.request]
base_url = "https://x.example"
path = "/x"
method = "POST"
headers = { a = "b" }
body = { a = { b = "c" } }
[feeds.a.time]
text = "{start} {end}"
at = "body:x"
format = "epoch_s"
longest = "1d"
order = "newest_first"
axis = "recorded"
[feeds.a.pages]
kind = "offset"
to = "body:y"
first = 1
skip_first = true
size = "body:z"
largest = 5
total = "body:total"
most = 10
gone = "x"
path = "/y"
expired = [400]
[feeds.a.records]
at = ""
no_id = true
without = ["x"]
time = ["a", "b"]
time_format = "%Y%m%d"
organisation = "o"
split = "s"
absent = "none"
fields = ["x"]
[feeds.a.event]
action_parts = ["a", "<b>.c"]
action_prefix = "x."
names = { "1" = "x" }
refine = "r"
outcome_default = "success"
guess = true
[[feeds.a.event.actor]]
type = "a"
kinds = { a = "user" }
email = "e"
[[feeds.a.event.target]]
type_is = "x"
name = ["a.[b=c].d", "e.0"]
[feeds.a.event.changes]
list = "l"
field = "f"
before = "b"
after = "a"
[feeds.a.actions.x]
"y" = "user/create/failure"
""",
    """
[auth]
kind = "oauth2"
grant = "jwt"
token_url = "https://{domain}/x"
key = "token"
subject = "{domain}"
params = { a = "b" }
send = "json"
[pages]
kind = "url"
from = "link:next"
says = { a = "b" }
more = "body:more"
""",
)
"""What is added to the description, so that every kind of key is there."""

ODD = (
    "5",
    "-1",
    '""',
    "[]",
    "{}",
    "true",
    '"x"',
    '["a", 5]',
    "[[]]",
    "{ a = 1 }",
    "{ a = { b = [] } }",
    "1979-05-27",
    '"a..b"',
    '"[a=b"',
    '"<a"',
    '"{x}"',
    '"{domain}"',
    '"https://[::1"',
    '"body:a"',
    '"link:next"',
    '"\\u0000"',
    '"a\\nb\\u001b[2J"',
    "nan",
    "99999999999999999999",
)


@pytest.mark.parametrize("added", EVERYTHING)
def test_any_value_of_any_key_is_taken_or_refused_with_a_sentence(
    added: str, tmp_path: Path
) -> None:
    top, _, tables = added.partition("\n[")
    parts = {part: lines for part, lines in PARTS.items() if f"[{part}]" not in added}
    lines = f"{parts.pop('top')}{top}\n{''.join(parts.values())}\n[{tables}".splitlines()
    lines = lines if tables else lines[:-1]
    refused = 0
    for number, line in enumerate(lines):
        key, equals, _ = line.partition(" = ")
        for value in ODD[number % 4 :: 4] if equals else ():
            content = "\n".join([*lines[:number], f"{key} = {value}", *lines[number + 1 :]])
            problems: tuple[str, ...] = ()
            try:
                read(write(tmp_path, content))
            except ConfigError as error:
                problems = error.problems
            assert all(len(problem.splitlines()) == 1 for problem in problems), problems
            refused += bool(problems)
    assert refused > 80


# --- notes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "note"),
    [
        (changed("top", "2026-03-01", "2999-01-01"), "checked: 2999-01-01 is in the future"),
        (
            more("time", 'order = "newest_first"'),
            "time.order: saves no request here: both bounds of a window are asked for",
        ),
        (
            changed("time", 'end = "query:until"', ""),
            "time.order: without an upper bound each window reads all from its start to now",
        ),
        (
            more("actions", '"User.Create" = "user/create"'),
            'actions."User.Create": differs from "user.create" only in case',
        ),
        (
            changed("event", 'outcome = "result"', 'outcome = "result"\nrefine = "x"'),
            "event.refine: has no use: no table in actions is looked up by it",
        ),
    ],
)
def test_what_works_and_was_hardly_meant_is_a_note(
    parts: dict[str, str], note: str, tmp_path: Path
) -> None:
    [found] = described(tmp_path, **parts).notes
    assert found.startswith(f"{tmp_path / 'acme.toml'}: {note}")


def test_a_clock_that_is_years_behind_makes_no_description_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "now", lambda _: datetime(1970, 1, 1, tzinfo=UTC))
    write(tmp_path, text())
    assert read(tmp_path / "acme.toml").notes
    monkeypatch.setattr(load, "_known", {})  # as if the process had just begun
    assert named("okta").notes == ()


def test_a_table_that_no_feed_uses_is_a_note(tmp_path: Path) -> None:
    feeds = '[feeds.a.actions]\n"x" = "user/create"\n[feeds.b]\nabout = "x"\n'
    assert described(tmp_path, feeds=feeds).notes == ()
    own = feeds + '[feeds.b.actions]\n"y" = "user/create"\n'
    assert described(tmp_path, feeds=own).notes == (
        f"{tmp_path / 'acme.toml'}: actions: has no use: every feed has a table of its own",
    )


def test_an_order_that_saves_requests_is_no_note(tmp_path: Path) -> None:
    whole_days = more("time", 'order = "newest_first"\nformat = "date"')
    assert described(tmp_path, **whole_days).notes == ()
    one_bound = changed("time", 'end = "query:until"', 'order = "oldest_first"')
    assert described(tmp_path, **one_bound).notes == ()
