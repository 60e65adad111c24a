"""What is wrong in a receiver's description is one line with its file, its key and what to do."""

from pathlib import Path

import pytest
from tests.descriptions.receivers.files import PARTS, described, text, write

from auditrelay.descriptions.receiver.load import read
from auditrelay.errors import ConfigError


def changed(part: str, old: str, new: str) -> dict[str, str]:
    """Return the part of a description with *old* replaced."""
    assert old in PARTS[part], (part, old)
    return {part: PARTS[part].replace(old, new)}


def more(part: str, lines: str) -> dict[str, str]:
    return {part: f"{PARTS[part].rstrip()}\n{lines}\n"}


def oauth2(lines: str) -> dict[str, str]:
    known = (
        'kind = "oauth2"\ngrant = "client_credentials"\nclient_id = "token"\n'
        'client_secret = "token"'
    )
    return {"auth": f"[auth]\n{known}\n{lines}\n"}


def on(lines: str) -> dict[str, str]:
    return {"on": f"[[on]]\n{lines}\n"}


BROKEN: list[tuple[dict[str, str], str]] = [
    # --- the top
    (
        changed("top", '"globex"', '"Globex Inc"'),
        "receiver: 'Globex Inc' is not a name: write small",
    ),
    (
        changed("top", '"globex"', '"loki"'),
        (
            'receiver: "loki" is the name of a description that comes with auditrelay: give yours '
            'another name, use type = "loki", or say replaces = "loki"'
        ),
    ),
    (changed("top", "product", "produkt"), "produkt: unknown key; did you mean product?"),
    (changed("top", "https://docs", "http://docs"), "docs[0]: must begin with https://"),
    (
        more("top", 'proves = "nothing"'),
        "proves: a receiver whose success proves nothing is no receiver for audit logs",
    ),
    (more("top", 'replaces = "lokky"'), 'replaces: no receiver "lokky" comes with auditrelay; did'),
    (
        more("top", "find = 'uid = {uid} at {cite}'"),
        "find: {cite} is not a setting; did you mean site?",
    ),
    (more("top", "find = '{token} {uid}'"), "find: {token} is a secret, and secrets go into"),
    (more("top", "find = 'uid ='"), "find: does not find an event: the uid is not in it"),
    # --- settings and secrets
    (
        more("settings", '[settings.linger]\nabout = "x"\nexample = "x"'),
        "settings.linger: is the name of a key that every sink has; choose another",
    ),
    (
        more("settings", '[settings.url]\nabout = "x"\nexample = "x"'),
        "settings.url: is the name of a key that every sink has; choose another",
    ),
    (
        more("settings", '[settings.zone]\nabout = "x"\nexample = "x"'),
        "settings.zone: is used nowhere: remove it, or write it as a hole, {name}",
    ),
    (
        more("settings", 'means = { eu = "x" }'),
        "settings.site.means.eu: is none of the choices",
    ),
    (
        more("secrets", '[secrets.other]\nabout = "x"'),
        "secrets.other: is used nowhere: remove it, or name it in [auth]",
    ),
    (changed("auth", '"token"', '"tokn"'), 'auth.secret: there is no secret "tokn"; did you mean'),
    (
        oauth2('token_url = "https://login.globex.example/t"\nscope = "{scope}"'),
        "auth.scope: {scope} is not a setting: declare [settings.NAME]",
    ),
    (
        changed("auth", 'kind = "header"', 'kind = "duo"'),
        'auth.kind: must be "none", "header", "headers", "basic" or "oauth2", not "duo"',
    ),
    (
        {
            "auth": '[auth]\nkind = "oauth2"\ngrant = "refresh_token"\nclient_id = "token"\n'
            'refresh_token = "token"\ntoken_url = "https://login.globex.example/t"\n'
        },
        'auth.grant: must be "client_credentials": a sink has no other grant',
    ),
    # --- the request
    (
        changed("request", "https://", "http://"),
        "request.url: must begin with https://, or the credentials would be sent in clear text",
    ),
    (
        changed("request", "/v1/events", "/v1/events?x=1"),
        "request.url: must not contain a query or a fragment",
    ),
    (
        changed("request", "/v1/events", ""),
        "request.url: has no path: write where events are sent to",
    ),
    (
        changed("request", "/v1/events", "/{token}"),
        'request.url: {token} is a secret; if the address itself is secret, write "secret:NAME"',
    ),
    (
        changed("request", "https://{site}/v1/events", "secret:adress"),
        'request.url: there is no secret "adress": declare [secrets.NAME]',
    ),
    (
        changed("settings", "pattern = '[a-z0-9.-]+'", ""),
        "request.url: {site} stands in the host, so settings.site needs a pattern: otherwise any",
    ),
    (
        more("request", 'headers = { Authorization = "x" }'),
        "request.headers.Authorization: belongs into [auth]",
    ),
    (
        more("request", 'headers = { X-Key = "{token}" }'),
        "request.headers.X-Key: {token} is a secret, and secrets go into [auth] only",
    ),
    (
        more("request", 'headers = { Content-Type = "x" }'),
        "request.headers.Content-Type: is set by request.content_type: write it there",
    ),
    (more("request", 'method = "GET"'), 'request.method: must be "POST" or "PUT", not "GET"'),
    (
        more("request", 'content_type = "json"'),
        "request.content_type: 'json' is not a type, such as \"application/json\"",
    ),
    # --- the body and its items
    (
        changed("body", '"wrapped"', '"list"'),
        'body.shape: must be "array", "ndjson", "wrapped" or "s',
    ),
    (
        changed("body", "skeleton", "# skeleton"),
        'body.skeleton: is missing: shape = "wrapped" needs it',
    ),
    (
        changed("body", '"$items"', '["$items", "$items"]'),
        'body.skeleton: must hold "$items" exactly once',
    ),
    (
        changed("body", '"$items"', '"$itms"'),
        "body.skeleton: there is no $itms; did you mean $items?",
    ),
    (changed("body", '"$items"}', '"$items"'), "body.skeleton: is not JSON: "),
    (
        changed("body", '"wrapped"', '"array"'),
        'body.skeleton: has no use with shape = "array", only with "wrapped"',
    ),
    (changed("item", '"$uid"', '"$uuid"'), "item.skeleton: there is no $uuid; did you mean $uid?"),
    (
        changed("item", '"$event"', '"$message"'),
        "item.skeleton: the record itself is not in it: put $event, $text or $raw into it",
    ),
    (
        changed("item", '"id": "$uid", ', ""),
        "item: the uid is nowhere: name item.uid or put $uid into the skeleton",
    ),
    (
        more("item", 'uid = "at.id"'),
        "item.uid: 'at.id' leads to no object of the skeleton, nor into $event",
    ),
    (
        changed("item", '"epoch_ms"', '"iso_ms"\ntime_text = true'),
        'item.time_text: is for a number; time_as = "iso_ms" is a text',
    ),
    (
        changed("item", '"at": "$time", ', ""),
        "item.time_as: has no use: name item.time or put $time into the skeleton",
    ),
    (
        {"item": '[item]\nskeleton = \'{"id": "$uid", "line": "$text"}\'\nflat = true\n'},
        "item.flat: has no use without $event in the skeleton",
    ),
    (more("item", 'form = "osf"'), "item.form: must be "),
    (
        {
            "streams": '[streams]\nlabels = { source = "{source}" }\n'
            'skeleton = \'{"s": "$labels"}\'\n'
        },
        'streams.skeleton: must hold "$labels" and "$items" once each',
    ),
    (
        {
            "streams": '[streams]\nlabels = { late = "x" }\nspread = "1h"\n'
            'skeleton = \'{"s": "$labels", "v": "$items"}\'\n'
        },
        "streams.labels.late: is set by streams.spread: leave it out",
    ),
    (
        more("limits", 'event_bytes = "2MB"'),
        "limits.event_bytes: is more than a whole request may have (bytes, 1000000)",
    ),
    (
        more("limits", "cut = true"),
        "limits.cut: has no use without fields, field_bytes, depth or ev",
    ),
    (
        {"defaults": "[defaults]\nbatch_events = 500\n"},
        "defaults.batch_events: the receiver takes at most 100",
    ),
    (
        {
            "age": '[age]\noldest = "1d"\n',
            "item": '[item]\nskeleton = \'{"id": "$uid", "event": "$event"}\'\n',
        },
        'age.then: "restamp" needs a time in the item: item.time, or $time',
    ),
    # --- answers
    (
        changed("success", "[200]", "[200, 404]"),
        "success.statuses: 404 is no success: only 2xx are",
    ),
    (changed("success", "[200]", "[]"), "success.statuses: must have a length of at least 1"),
    (
        changed("success", 'body = "json"', ""),
        'success.body: is missing: write "empty" or "json" or "any"',
    ),
    (
        changed("success", '"json"', '"any"'),
        'success.where: looks into JSON, and success.body is "any"',
    ),
    (
        changed("success", '["true"]', '["yes"]'),
        "success.where.ok[0]: 'yes' is not JSON: a text is written with quotes in it, such as",
    ),
    (
        {"items": '[items]\nat = "r"\nby = "order"\nverdict = "s"\nok = ["1"]\nretry = ["1"]\n'},
        "items.retry: 1 is in items.ok, too",
    ),
    (
        {
            "items": '[items]\nat = "r"\nby = "order"\nverdict = "s"\nok = ["1"]\n'
            'duplicate = ["2"]\n'
        },
        "items.duplicate: means that it knows an event again: say by what in [key]",
    ),
    (
        {
            "items": '[items]\nat = "r"\nby = "order"\nverdict = "s"\nok = ["1"]\n',
            "count": '[count]\nrefused = "failed"\n',
        },
        "count: excludes items, which says of each event what became of it",
    ),
    (on('do = "retry"'), "on[0]: fits every answer: give statuses, where or words"),
    (on("statuses = [400]"), "on[0].do: is missing"),
    (
        on('statuses = [400]\ndo = "drop"'),
        'on[0].do: must be "retry", "hold", "split", "isolate" or "reject", not "drop"',
    ),
    (
        on('statuses = [400]\ndo = "split"\nstored = "the_valid"'),
        'on[0].do: "split" sends again what is stored, and does not count it: write "isolate"',
    ),
    (
        on('statuses = [500]\ndo = "split"'),
        'on[0].stored: is missing: of a 5xx it is "unknown", and "split" needs "nothing"',
    ),
    (
        on('statuses = [400]\ndo = "retry"\nstored = "before_index"'),
        'on[0].index: and stored = "before_index" need each other',
    ),
    (
        on('statuses = [401]\ndo = "reject"'),
        "on[0].do: 401 refuses us, not an event: write hold or retry",
    ),
    (
        on('words = ["*Busy*"]\ndo = "retry"'),
        "on[0].words: '*Busy*' has capital letters, and never fits small ones",
    ),
    ({"wait": '[wait]\nheader = "Retry-After"\n'}, "wait.header: is always read: leave it out"),
    ({"wait": '[wait]\nheader = "a b"\n'}, "wait.header: 'a b' is not the name of a header"),
    (
        {"key": '[key]\nheader = "Idempotency-Key"\n'},
        'key.header: needs body.shape = "single": a batch that is cut again has another key',
    ),
    ({"key": "[key]\n"}, "key: needs one of header and path"),
    (changed("check", "[200]", "[403]"), "check.statuses: 403 is never what a check must get"),
    (
        more("check", "body = '[]'"),
        'check.body: only a POST or PUT has one: set method = "POST", or remove it',
    ),
    ({"examples": ""}, "examples: nothing shows what a refusal looks like"),
    (
        {"examples": '[[examples]]\nstatus = 400\nmeans = "split"\n'},
        "examples: nothing shows what a success looks like",
    ),
    (
        {"examples": '[[examples]]\nstatus = 400\nmeans = "drop"\n'},
        'examples[0].means: must be "done", "retry", "hold", "split", "isolate" or "reject", not',
    ),
]


def test_the_file_itself_is_right(tmp_path: Path) -> None:
    assert described(tmp_path).file.receiver == "globex"
    assert len(BROKEN) >= 30


@pytest.mark.parametrize(("parts", "words"), BROKEN, ids=[words[:50] for _, words in BROKEN])
def test_what_is_wrong_is_one_line_with_its_key(
    parts: dict[str, str], words: str, tmp_path: Path
) -> None:
    file = write(tmp_path, text(**parts))
    with pytest.raises(ConfigError) as caught:
        read(file)
    lines = [line for line in caught.value.problems if line.startswith(f"{file}: {words}")]
    assert len(lines) == 1, caught.value.problems
    assert lines[0].isprintable()
    assert len(caught.value.problems) <= 3


def test_all_that_is_wrong_is_said_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    parts = {
        **changed("top", "product", "produkt"),
        **changed("request", "https://", "http://"),
        **on('do = "retry"'),
    }
    file = write(tmp_path, text(**parts))
    with pytest.raises(ConfigError) as caught:
        read(file)
    keys = [line.removeprefix(f"{file}: ").partition(": ")[0] for line in caught.value.problems]
    assert keys == ["produkt", "request.url", "on[0]", "product"]  # what is missing is last


def test_the_file_of_an_api_is_not_a_receiver(tmp_path: Path) -> None:
    file = write(tmp_path, 'vendor = "acme"\n')
    with pytest.raises(ConfigError, match=r'vendor: describes an API .* of type = "rest"'):
        read(file)


def test_a_description_without_a_check_is_noted(tmp_path: Path) -> None:
    found = described(tmp_path, check="")
    assert [note.partition(": ")[2] for note in found.notes] == [
        "check: is not there: only an event shows whether address and credentials work"
    ]


def test_what_stands_in_for_a_shipped_one_may_have_its_name(tmp_path: Path) -> None:
    top = PARTS["top"].replace('"globex"', '"loki"') + 'replaces = "loki"\n'
    assert described(tmp_path, top=top).file.receiver == "loki"
