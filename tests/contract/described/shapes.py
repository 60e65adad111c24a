"""
Descriptions of APIs that do not exist, one for each shape: credentials, window, and pages.

A shape is what the engine must cope with, whichever vendor has it. They are written as an author
would write them, and read by the same loader.
"""

from collections.abc import Iterator
from itertools import cycle
from typing import NamedTuple

AUTH = {
    "header": """
[auth]
kind = "header"
prefix = "Token token="
secret = "key"
""",
    "headers": """
[auth]
kind = "headers"
headers = { x-api-key = "key", x-account-key = "other_key" }
""",
    "basic": """
[auth]
kind = "basic"
user = "setting:account"
password = "secret:key"
""",
}

WINDOWS = {
    "milliseconds": """
[time]
start = "query:since"
end = "query:until"
order = "oldest_first"
""",
    "newest first": """
[time]
start = "query:filter[from]"
end = "query:filter[to]"
format = "iso_s"
order = "newest_first"
""",
    "seconds": """
[time]
start = "query:effective_at[gte]"
end = "query:effective_at[lt]"
format = "epoch_s"
""",
    "body": """
[time]
start = "body:range.start_time"
end = "body:range.end_time"
format = "epoch_ms"
order = "oldest_first"
""",
    "text": """
[time]
text = "created:>={start} created:<={end}"
at = "query:phrase"
format = "iso_s"
order = "newest_first"
""",
    "twice": """
[time]
start = "query:filter[created_at][]"
end = "query:filter[created_at][]"
format = "iso_us"
""",
    "days": """
[time]
start = "query:from"
end = "query:to"
format = "date"
order = "newest_first"
""",
    "pattern": """
[time]
start = "query:from"
end = "query:to"
format = "at-%Y%m%d%H%M%S%L-0"
order = "oldest_first"
""",
    "recorded": """
[time]
start = "query:from"
end = "query:to"
format = "epoch_ms"
axis = "recorded"
order = "oldest_first"
""",
    "short": """
[time]
start = "query:from"
end = "query:to"
longest = "24h"
""",
    "lower, oldest first": """
[time]
start = "query:since"
order = "oldest_first"
""",
    "lower, newest first": """
[time]
start = "query:since"
format = "epoch_s"
order = "newest_first"
""",
    "none": """
[time]
order = "newest_first"
""",
}

PAGES = {
    "one reply": """
[pages]
kind = "none"
""",
    "cursor": """
[pages]
kind = "cursor"
from = "body:meta.next"
to = "query:cursor"
size = "query:limit"
largest = 100
""",
    "cursor with a flag": """
[pages]
kind = "cursor"
from = "body:cursor"
to = "{place}:cursor"
more = "body:has_more"
size = "{place}:limit"
largest = 100
""",
    "cursor alone": """
[pages]
kind = "cursor"
from = "body:cursor"
to = "{place}:cursor"
alone = true
more = "body:has_more"
size = "{place}:limit"
largest = 100
""",
    "cursor on another path": """
[pages]
kind = "cursor"
from = "body:cursor"
to = "{place}:cursor"
alone = true
path = "/audit/continue"
more = "body:has_more"
size = "{place}:limit"
largest = 100
empty = "go_on"
""",
    "last id": """
[pages]
kind = "cursor"
from = "last:id"
to = "query:after"
more = "body:has_more"
size = "query:limit"
largest = 100
""",
    "cursor until empty": """
[pages]
kind = "cursor"
from = "body:next_page.offset"
to = "query:offset"
until_empty = true
size = "query:limit"
largest = 100
""",
    "cursor in a header": """
[pages]
kind = "cursor"
from = "header:x-search-after"
to = "query:after"
join = ","
size = "query:limit"
largest = 100
""",
    "link": """
[pages]
kind = "url"
from = "link:next"
size = "query:per_page"
largest = 100
""",
    "link that says whether": """
[pages]
kind = "url"
from = "link:next"
says = { results = "true" }
size = "query:per_page"
largest = 100
""",
    "address": """
[pages]
kind = "url"
from = "body:@odata\\\\.nextLink"
size = "query:$top"
largest = 100
""",
    "address until empty": """
[pages]
kind = "url"
from = "body:links.next"
until_empty = true
size = "query:take"
largest = 100
""",
    "numbers and a total": """
[pages]
kind = "number"
to = "query:page[number]"
total = "body:meta.total"
size = "query:page[size]"
largest = 100
""",
    "numbers and a count": """
[pages]
kind = "number"
to = "query:page"
first = 0
count = "body:pages"
size = "query:per_page"
largest = 100
""",
    "numbers until empty": """
[pages]
kind = "number"
to = "query:page"
skip_first = true
until_empty = true
size = "query:per_page"
largest = 100
""",
    "numbers until gone": """
[pages]
kind = "number"
to = "query:page"
more = "body:more"
gone = "Invalid page."
size = "query:per_page"
largest = 100
""",
    "offsets and a total": """
[pages]
kind = "offset"
to = "query:offset"
total = "body:total"
size = "query:limit"
largest = 100
""",
    "offsets under a ceiling": """
[pages]
kind = "offset"
to = "query:offset"
until_empty = true
size = "query:limit"
largest = 100
most = 1000
""",
}

_HEAD = """\
vendor = "{vendor}"
product = "A shape"
docs = ["https://shapes.example/docs"]
checked = 2026-11-26
evidence = "documentation"

[settings.account]
about = "The account."
example = "acme"
pattern = '[a-z0-9-]+'
scope = true

[secrets.key]
about = "The key."
"""

_OTHER_KEY = """
[secrets.other_key]
about = "The second key."
"""

_REQUEST = """
[request]
base_url = "https://api.shapes.example/v1"
path = "/accounts/{account}/audit"
params = { kinds = ["all", "git"] }
headers = { x-version = "2026-01-01" }
"""

_REST = """
[records]
at = "{at}"
id = "id"
time = "{time}"
time_format = "{form}"

[limits]
reset = "x-ratelimit-reset"
reset_is = "{reset}"
remaining = "x-ratelimit-remaining"
statuses = [403, 429]

[errors]
words = ["error.message"]

[event]
action = "event.type"
outcome_default = "success"
guess = true

[[event.actor]]
kind = "user"
id = "who.id"
email = "who.email"

[actions]
"user.login" = "session/login"
"user.created" = "user/create"
"""


class Shape(NamedTuple):
    """One description: its *text*, and which of the tables above it has."""

    auth: str
    window: str
    pages: str
    text: str

    @property
    def name(self) -> str:
        """For the id of a test."""
        return f"{self.auth}/{self.window}/{self.pages}"


def shape(auth: str, window: str, pages: str) -> Shape:
    """Return the description with these tables; what is left alternates with them."""
    number = list(AUTH).index(auth) + list(WINDOWS).index(window) + list(PAGES).index(pages)
    is_post = window == "body" or pages in ("cursor alone", "cursor on another path")
    body_list = pages.startswith(("link", "cursor in a header"))  # all else is in the body
    time, form = (("time", "iso"), ("meta.at", "epoch_ms"), ("when", "iso"))[number % 3]
    rest = _REST.format(
        at="" if body_list else ("data", "result.items")[number % 2],
        time=time,
        form=form,
        reset=("epoch_s", "epoch_ms", "seconds", "iso")[number % 4],
    )
    request = _REQUEST + ('method = "POST"\nbody = { service = ["all"] }\n' if is_post else "")
    text = "".join(
        (
            _HEAD.format(vendor=f"shape_{number}"),
            _OTHER_KEY if auth == "headers" else "",
            AUTH[auth],
            request,
            WINDOWS[window],
            PAGES[pages].replace("{place}", "body" if is_post else "query"),
            rest,
        )
    )
    return Shape(auth, window, pages, text)


def all_shapes() -> Iterator[Shape]:
    """Yield the whole product."""
    for window in WINDOWS:
        for pages in PAGES:
            for auth in AUTH:
                if _fit(window, pages):
                    yield shape(auth, window, pages)


def some_shapes() -> Iterator[Shape]:
    """Yield a shape for each kind of pages, in which every table occurs."""
    auth, windows = cycle(AUTH), cycle(WINDOWS)
    for pages in PAGES:
        window = next(each for each in windows if _fit(each, pages))
        yield shape(next(auth), window, pages)


def _fit(window: str, pages: str) -> bool:
    """Return whether there is such an API: an address says all, so that nothing is in a body."""
    return window != "body" or not pages.startswith(("link", "address"))
