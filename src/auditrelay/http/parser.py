"""
The reply to one request, parsed from its bytes.

llhttp (Node's parser, by httptools) does the parsing. This adds what it leaves to its caller: which
replies have a body, what is tolerated, and bounds. RFC 9112 is HTTP/1.1, RFC 9110 what is common to
all versions of HTTP.
"""

import io
import re

import httptools

MAX_OVERHEAD_BYTES = 100 * 1024
"""
Most bytes in a row that add nothing to the body: the head and any interim replies before it, the
sizes and extensions of chunks, trailers.
"""

MAX_HEADERS = 1000


_LINE = re.compile(rb"(?:HTTP/\d\.\d \d{3}(?: .*)?|[!#$%&'*+.^_`|~0-9A-Za-z-]+ *:.*|[ \t].*)?\r?")
"""A line of a head, also a folded or an empty one."""


def _place(reply: bytes) -> str:
    """Return which line of *reply* is not one of a head, in words; nothing if none is found."""
    lines = enumerate(reply.split(b"\n"), 1)
    bad = next((number for number, line in lines if _LINE.fullmatch(line) is None), None)
    return "" if bad is None else f" (line {bad})"


class ReplyParser:
    """
    The reply to a request with this *method*.

    *status* and *headers* are set once *head_complete*. *complete* is whether the reply was read to
    its end, and *reusable* whether its connection can take another request then. *problem* says why
    the bytes are not HTTP. *untaken* counts the bytes of the body that :meth:`take` did not return
    yet.
    """

    def __init__(self, method: str) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_complete = False
        self.complete = False
        self.reusable = False
        self.problem = ""
        self.untaken = 0
        self._method = method
        self._until_close = False
        self._overhead = 0
        self._fed = False
        self._body = io.BytesIO()
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        # Control characters in a header's value, folded lines (RFC 9112, 5), lines that end in LF
        # alone (2.2), blanks after the size of a chunk (7.1): none of them can be read in two ways.
        # What can, such as two lengths (6.3), is an error.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )

    def feed(self, data: bytes | memoryview) -> None:
        """Parse the next bytes."""
        if self._parser is None:
            self.reusable = False  # the peer says more than it was asked
            return
        before = self.untaken
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.reusable = False
            if not self.complete:  # what stands behind a reply does not make it wrong
                where = "" if self._fed or self.head_complete else _place(bytes(data))
                self.problem = self.problem or f"{error}{where}"
        self._fed = True
        self._overhead = 0 if self.untaken > before else self._overhead + len(data)
        if self._overhead > MAX_OVERHEAD_BYTES and not self.complete:
            self.problem = "too many bytes that are not of the body"
        if self.complete or self.problem:
            self._parser = None  # it has references to our methods

    def end(self, *, closed: bool) -> None:
        """Parse no more. If the peer has *closed* its side, that ends a reply without a length."""
        self.complete = self.complete or (closed and self._until_close and not self.problem)
        self.reusable = False
        self._parser = None

    def take(self) -> bytes:
        """Return the bytes of the body that have come since the last call."""
        # Not joined from pieces: a second copy of a page takes ten times as long as all the rest,
        # because its memory comes from the system and goes back there each time.
        data = self._body.getvalue()  # without a copy
        self._body = io.BytesIO()
        self.untaken = 0
        return data

    # --- called by llhttp

    def on_message_begin(self) -> None:
        """Note that a reply begins, perhaps one that was not asked for."""
        self.reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header, but no trailer: those may be dropped (RFC 9112, 7.1.2)."""
        if self.head_complete:
            return
        if len(self.headers) == MAX_HEADERS:
            self.problem = "too many headers"
        else:
            self.headers.append((name.rstrip(), value.rstrip()))

    def on_headers_complete(self) -> None:
        """Drop interim replies (RFC 9110, 15.2); find how the body ends (RFC 9112, 6.3)."""
        if self.head_complete or self.problem or self._parser is None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()
            if status == 101:
                self.problem = "another protocol, which was not asked for"
            return
        names = [name.lower() for name, _ in self.headers]
        codings = [i for i, name in enumerate(names) if name == b"transfer-encoding"]
        if codings and [self.headers[i][1].lower() for i in codings] != [b"chunked"]:
            self.problem = "a transfer coding that was not asked for"
            return
        self.status, self.head_complete = status, True
        self._until_close = not codings and b"content-length" not in names
        if self._method == "HEAD":
            self.on_message_complete()

    def on_body(self, data: bytes) -> None:
        """Keep a piece of the body."""
        if self.complete:
            self.reusable = False
        else:
            self.untaken += self._body.write(data)

    def on_message_complete(self) -> None:
        """Note the end of the reply."""
        if self.head_complete and not self.complete and self._parser is not None:
            self.complete = True
            self.reusable = self._parser.should_keep_alive()
