"""What is wrong with what a description says of a receiver's answers."""

from collections.abc import Callable, Iterator

from auditrelay.descriptions.places import parse_path
from auditrelay.descriptions.receiver.model import Items, On, ReceiverFile, Wait
from auditrelay.descriptions.request_rules import header_problems, is_header
from auditrelay.descriptions.tables import Problem
from auditrelay.settings.wording import KeyPath


def answer_problems(file: ReceiverFile, has: Callable[..., bool]) -> Iterator[Problem]:
    """Yield what is wrong with successes, refusals, waits and examples; *has* as of a draft."""
    if has("success"):
        yield from _success(file)
        yield from _items(file) if has("items") else ()
        yield from _count(file) if has("count") else ()
    if has("on"):
        for number, on in enumerate(file.on):
            yield from _on(("on", number), on)
    if has("wait") and file.wait is not None:
        yield from _wait(file.wait)
    if has("key") and has("body"):
        yield from _key(file)
    if has("examples"):
        yield from _examples(file)
    yield from _paths(file, has)


def _success(file: ReceiverFile) -> Iterator[Problem]:
    success = file.success
    for status in success.statuses:
        if not 200 <= status < 300:
            yield ("success", "statuses"), f"{status} is no success: only 2xx are"
    if success.body != "json":
        for key in ("where", "warn"):
            if getattr(success, key):
                yield ("success", key), f'looks into JSON, and success.body is "{success.body}"'


def _items(file: ReceiverFile) -> Iterator[Problem]:
    items = file.items
    if items is None:
        return
    if file.success.body != "json":
        yield ("items",), 'looks into JSON: set success.body = "json"'
    seen: dict[str, str] = {}
    for key in ("ok", "duplicate", "retry"):
        for value in getattr(items, key):
            first = seen.setdefault(value, key)
            if first != key:
                yield ("items", key), f"{value} is in items.{first}, too"
    if items.by != "order":
        try:
            parse_path(items.by)
        except ValueError as error:
            yield ("items", "by"), f'{error}; or write "order"'
    yield from _duplicates(file, items)


def _duplicates(file: ReceiverFile, items: Items) -> Iterator[Problem]:
    if items.duplicate and file.key is None:
        yield (
            ("items", "duplicate"),
            "means that it knows an event again: say by what in [key]",
        )


def _count(file: ReceiverFile) -> Iterator[Problem]:
    if file.count is None:
        return
    if file.items is not None:
        yield ("count",), "excludes items, which says of each event what became of it"
    if file.success.body != "json":
        yield ("count",), 'looks into JSON: set success.body = "json"'


def _on(at: KeyPath, on: On) -> Iterator[Problem]:
    if not (on.statuses or on.where or on.words):
        yield at, "fits every answer: give statuses, where or words"
    if (on.stored == "before_index") != (on.index is not None):
        yield (*at, "index"), 'and stored = "before_index" need each other'
    if on.do == "split":
        if on.stored not in (None, "nothing"):
            yield (
                (*at, "do"),
                '"split" sends again what is stored, and does not count it: write "isolate"',
            )
        elif on.stored is None and any(status >= 500 for status in on.statuses):
            yield (
                (*at, "stored"),
                'is missing: of a 5xx it is "unknown", and "split" needs "nothing"',
            )
    for glob in on.words:
        if glob != glob.lower():
            yield (*at, "words"), f"{glob!r} has capital letters, and never fits small ones"
    for status in on.statuses:
        if status in (401, 403) and on.do in ("split", "reject"):
            yield (*at, "do"), f"{status} refuses us, not an event: write hold or retry"


def _wait(wait: Wait) -> Iterator[Problem]:
    if not is_header(wait.header):
        yield ("wait", "header"), f"{wait.header!r} is not the name of a header"
    elif wait.header.lower() == "retry-after":
        yield ("wait", "header"), "is always read: leave it out"


def _key(file: ReceiverFile) -> Iterator[Problem]:
    key = file.key
    if key is None:
        return
    if (key.header is None) == (key.path is None):
        yield ("key",), "needs one of header and path"
    if key.header is not None:
        yield from header_problems(("key", "header"), key.header)
        if file.body.shape != "single":
            yield (
                ("key", "header"),
                'needs body.shape = "single": a batch that is cut again has another key',
            )


def _examples(file: ReceiverFile) -> Iterator[Problem]:
    means = {example.means for example in file.examples}
    if means <= {"done"}:
        yield ("examples",), "nothing shows what a refusal looks like"
    if "done" not in means and file.examples:
        yield ("examples",), "nothing shows what a success looks like"


def _paths(file: ReceiverFile, has: Callable[..., bool]) -> Iterator[Problem]:
    """Yield each path in a table ``where`` that is none."""
    tables = [
        (("success",), file.success.where if has("success") else {}),
        (("check",), file.check.where if has("check") and file.check is not None else {}),
        *((("on", number), on.where) for number, on in enumerate(file.on if has("on") else ())),
    ]
    for at, where in tables:
        for path in where:
            try:
                parse_path(path)
            except ValueError as error:
                yield (*at, "where", path), str(error)
