"""
Facts: what a source, a sink or the instance did, each a small JSON object.

A fact is *open* from the transaction that does what it says until the seal takes it. :func:`merge`
makes the facts of an entry out of the open ones of a unit. Both have the same fields, except:

* an open ``accepted`` has one page, whose digests *h* are those of the page. A merged one, also of
  one page, has those of a chain: ``d = SHA-256(d + h)`` from 32 zero bytes. (``refilled`` and
  ``replayed`` are not merged: they have one page, and its digests.)
* an open ``covered`` has no ``events`` and ``uids``: the seal counts them (:func:`counted`);
* ``delivered`` is never open: the seal derives it (:func:`newly_done`).

Fields mean the same in every fact. Times are microseconds since 1970, *end* is exclusive, and
``by`` is the user id of the process that asked for it (null: the service itself). ``pages`` are
[[place of the first event, count], ...]. Digests are SHA-256 in hexadecimal: ``uids`` over the
keys (28 bytes: time and uid), in order of place for pages, sorted for everything else; ``raws``
over the hexadecimal digests of the records; ``stored`` over the blob of a page in the spool.
``each`` lists uids themselves. A text is cut off at MOST_TEXT characters, and what of it cannot be
printed is replaced.

A fact that is too long for an entry is cut into facts that are whole in themselves, see
:func:`halves`: the sum and the union of the parts are what the whole would have said.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from json import JSONEncoder
from typing import Any, Final

import orjson

Body = dict[str, Any]
"""A fact as a JSON object; ``fact`` says which one it is."""

Ranges = Sequence[tuple[int, int]]
"""Half-open ranges of places, sorted and disjoint."""

MOST_PAGES: Final = 256
"""How many pages a merged fact has: so many digests are the proof of one uid at most."""

MOST_TEXT: Final = 500
"""Characters of a reason or a name in a fact: what an operator writes may be as long as a book."""

NO_PAGE: Final = bytes(32)
"""What a chain of pages begins with."""

_NO_KEY: Final = sha256().hexdigest()

_ENCODER: Final = JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
)


def text(body: Body | str) -> str:
    """Return *body* as canonical JSON: ASCII, sorted keys, no blanks. It is what is hashed."""
    encoded = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    if encoded.isascii() and b"\x7f" not in encoded:
        return encoded.decode("ascii")
    return _ENCODER.encode(body)  # slower, and the one that escapes


def digest(parts: Iterable[bytes]) -> bytes:
    """Return the digest of a page or a span: SHA-256 over its keys, joined in their order."""
    return sha256(b"".join(parts)).digest()


# --- of a source --------------------------------------------------------------------------------


def accepted(
    *, via: str, first: int, count: int, late: int, uids: bytes, raws: bytes, stored: bytes
) -> Body:
    """
    Return: a page of *count* events was put into the spool at the place *first* and behind it.

    *via* is the kind of read (``poll``, ``resweep 1h``, ``backfill``, ``repair``, ``export FILE``)
    or ``notice`` for an event of our own. *late* of them belong to time that was covered before.
    """
    return {
        "fact": "accepted",
        "via": _cut(via),
        "pages": [[first, count]],
        "events": count,
        "late": late,
        "uids": uids.hex(),
        "raws": raws.hex(),
        "stored": stored.hex(),
    }


def covered(*, via: str, start: int, end: int, before: int) -> Body:
    """
    Return: a span was read to its last page, and all its events have places below *before*.

    The seal adds which ones these are, see :func:`counted`.
    """
    return {"fact": "covered", "via": _cut(via), "start": start, "end": end, "before": before}


def counted(body: Body, *, events: int, uids: bytes) -> Body:
    """
    Return the merged ``covered`` *body* with its known events: how many, and their digest.

    They are those in the span with a place below ``before``.
    """
    return {**body, "events": events, "uids": uids.hex()}


def gap(
    *, start: int, end: int, reason: str, uid: str | None = None, place: int | None = None
) -> Body:
    """
    Return: a span was declared as not read.

    *uid* and *place* are those of the event that reports it; None if the gap extends an earlier one
    of its day, which has such an event.
    """
    return _of_gap("gap", start, end, reason, uid=uid, place=place)


def filled(
    *, start: int, end: int, reason: str, uid: str | None = None, place: int | None = None
) -> Body:
    """Return: a gap, declared for *reason*, was read after all; the rest is as in :func:`gap`."""
    return _of_gap("filled", start, end, reason, uid=uid, place=place)


def reopened(*, start: int, end: int, reason: str, by: int | None) -> Body:
    """Return: an operator took a gap back, declared for *reason*; it is a gap until it is read."""
    return _of_gap("reopened", start, end, reason, by=by)


def retracted(*, start: int, end: int, reason: str, by: int | None) -> Body:
    """Return: an operator took a gap back that is not past yet: as if it had not been declared."""
    return _of_gap("retracted", start, end, reason, by=by)


def _of_gap(name: str, start: int, end: int, reason: str, **more: str | int | None) -> Body:
    return {"fact": name, "start": start, "end": end, "reason": _cut(reason), **more}


def looked_again(*, delay: int, until: int) -> Body:
    """Return: all time before *until* was reswept that was covered *delay* seconds before."""
    return {"fact": "looked_again", "delay": delay, "until": until}


def vanished(*, start: int, end: int, events: int, uids: bytes) -> Body:
    """Return: events of a span that were forwarded are not shown by the source any more."""
    return {"fact": "vanished", "start": start, "end": end, "events": events, "uids": uids.hex()}


def put_aside(*, reason: str, events: int, uids: bytes) -> Body:
    """Return: so many new records are no events; they are known, and dead letters of no sink."""
    return {"fact": "put_aside", "reason": _cut(reason), "events": events, "uids": uids.hex()}


def void(*, pages: Iterable[tuple[int, int]], why: str) -> Body:
    """Return: *pages* of the spool are damaged and not delivered; a gap has their span."""
    return {"fact": "void", "pages": _pairs(pages), "why": _cut(why)}


def file(*, key: bytes, name: str, owner: int | None) -> Body:
    """Return: a file was read whole, with this digest of its content, name and owner (user id)."""
    return {"fact": "parcel", "key": key.hex(), "name": _cut(name), "owner": owner}


def backfill(*, id: int, start: int, end: int, sinks: Iterable[str], by: int | None) -> Body:  # noqa: A002  # its name in the fact
    """Return: an operator began a backfill of a span, for *sinks* (none: all)."""
    names = [_cut(name) for name in sinks]
    return {"fact": "backfill", "id": id, "start": start, "end": end, "sinks": names, "by": by}


def forgot(*, before: int, events: int) -> Body:
    """Return: so many known keys were deleted, those of events from before the time *before*."""
    return {"fact": "forgot", "before": before, "events": events}


# --- of a sink ----------------------------------------------------------------------------------


def delivered(*, done: Iterable[tuple[int, int]]) -> Body:
    """Return: the sink has settled these places, [first, count] each: taken, or dead letters."""
    return {"fact": "delivered", "done": _pairs(done)}


def excluded(*, glob: str, places: Ranges) -> Body:
    """
    Return: what is at these *places* was not sent to the sink, as *glob* of its ``exclude`` fits.

    It has settled them all the same: ``delivered`` has them as well.
    """
    pairs = [(start, end - start) for start, end in places]
    return {"fact": "excluded", "glob": _cut(glob), "places": _pairs(pairs), "events": _sum(pairs)}


def newly_done(before: tuple[int, Ranges], now: tuple[int, Ranges]) -> list[tuple[int, int]]:
    """
    Return the places that a sink has settled *now* and had not *before*, as first and count.

    Both are its position, below which everything is settled, and the ranges ahead of that.
    """
    position, ahead = before
    old = [(0, position), *ahead]
    found: list[tuple[int, int]] = []
    for start, end in ((0, now[0]), *now[1]):
        at = start
        for first, last in old:
            if last <= at:
                continue
            if first >= end:
                break
            if first > at:
                found.append((at, first - at))
            at = last
        if at < end:
            found.append((at, end - at))
    return found


def dead(*, reason: str, uids: Iterable[str]) -> Body:
    """Return: the sink will never accept these events."""
    return {"fact": "dead", "reason": _cut(reason), **_named(uids)}


def replayed(*, first: int, count: int, uids: Iterable[str], stored: bytes, by: int | None) -> Body:
    """Return: dead letters were put into the spool again, as a page for this sink."""
    return {
        "fact": "replayed",
        "pages": [[first, count]],
        "stored": stored.hex(),
        "by": by,
        **_named(uids),
    }


def dropped(*, reason: str, uids: Iterable[str], by: int | None) -> Body:
    """
    Return: an operator discarded these dead letters, whose *reason* that was.

    In the unit of a source they are letters of no sink, see :func:`put_aside`.
    """
    return {"fact": "dropped", "reason": _cut(reason), "by": by, **_named(uids)}


def refilled(
    *,
    first: int,
    count: int,
    uids: bytes,
    stored: bytes,
    by: int | None,
    copies: Iterable[str] | None = None,
) -> Body:
    """
    Return: a page of events that may be known was put into the spool for this sink alone.

    An operator asked for it; or they are reduced *copies* of what the sink has refused. The uids of
    these are listed (``each``), since no accepted page has them.
    """
    each = None if copies is None else list(copies)
    return {
        "fact": "refilled",
        "pages": [[first, count]],
        "events": count,
        "uids": uids.hex(),
        "stored": stored.hex(),
        "by": by,
        **({} if each is None else {"each": each}),
    }


def began(*, since: Mapping[str, int]) -> Body:
    """Return: the sink, which is new or did not get these sources, does from these places on."""
    return {"fact": "began", "since": dict(since)}


def retired(*, place: int) -> Body:
    """Return: the sink is not configured any more, and gets nothing from *place* on."""
    return {"fact": "retired", "place": place}


def back(*, since: Mapping[str, int]) -> Body:
    """Return: the sink is configured again, and gets each source from these places on."""
    return {"fact": "back", "since": dict(since)}


# --- of the instance ----------------------------------------------------------------------------


def started(*, run: str, versions: Mapping[str, str], orderly: bool | None) -> Body:
    """
    Return: a process began to serve the state.

    *run* is random (32 hex digits), *versions* those of what decides how it behaves, by name.
    *orderly* says whether the last stop was; None if there was none.
    """
    return {"fact": "started", "run": run, "versions": dict(versions), "orderly": orderly}


def stopped(*, run: str) -> Body:
    """Return: the process *run* stopped in an orderly way."""
    return {"fact": "stopped", "run": run}


def head(
    *,
    size: int,
    root: bytes,
    taken_by: Iterable[str],
    stamp: str | None = None,
    cosigned: str | None = None,
) -> Body:
    """
    Return: the head before this seal was that of *size* and *root*.

    *taken_by* are the sinks that have settled its event by now (in the fact: ``"told"``). *stamp*
    is a time stamp over it (RFC 3161, base64), *cosigned* its note as witnesses signed it.
    """
    more = {"stamp": stamp, "cosigned": cosigned}
    return {
        "fact": "head",
        "size": size,
        "root": root.hex(),
        "told": sorted(taken_by),
        **{name: value for name, value in more.items() if value is not None},
    }


def configured(*, digest: bytes, settings: Mapping[str, str | int | bool | None]) -> Body:
    """
    Return: this configuration is in force.

    *digest* is that of all of it, without secrets. *settings* are those that decide what is read
    and forwarded, by their path in the file, written as an operator would: ``sources.okta.settle``
    is ``5m``. So what changed can be read off two of these facts. Too many settings for an entry
    are in several facts with one *digest*.
    """
    plain = {
        name: _cut(value) if isinstance(value, str) else value for name, value in settings.items()
    }
    return {"fact": "configured", "digest": digest.hex(), "settings": plain}


def key(*, public: bytes, before: str | None, signature: bytes | None) -> Body:
    """
    Return: *public* signs from now on, after the key whose id is *before* (None: there was none).

    *signature* is that of the key before (``heads.Keys.vouch``); None if that is lost.
    """
    signed = signature.hex() if signature is not None else None
    return {"fact": "key", "public": public.hex(), "before": before, "signature": signed}


def pruned(*, before: int, events: int, why: str) -> Body:
    """Return: *events* events below the place *before* were deleted from the spool."""
    return {"fact": "pruned", "before": before, "events": events, "why": _cut(why)}


def operator(*, did: str, by: int | None, name: str | None = None) -> Body:
    """Return: an operator *did* something, such as ``forget``, to the source or sink *name*."""
    return {"fact": "operator", "did": _cut(did), "by": by, "name": name and _cut(name)}


def clock(*, seconds: int) -> Body:
    """Return: the clock went back by so many seconds; until then the time of entries stands."""
    return {"fact": "clock", "seconds": seconds}


def continued(*, log: str, size: int, root: bytes, why: str) -> Body:
    """Return: here begins a new log, which goes on from the first *size* entries of *log*."""
    return {"fact": "continued", "log": log, "size": size, "root": root.hex(), "why": _cut(why)}


def restored(*, reason: str, by: int | None) -> Body:
    """Return: an operator says that the state was restored, copied or moved, and why."""
    return {"fact": "restored", "reason": _cut(reason), "by": by}


# --- of an older state --------------------------------------------------------------------------


def taken_over(*, schema: int, place: int) -> Body:
    """
    Return: a state without evidence, of this *schema*, was upgraded.

    Of the places below *place* nothing is claimed. It is a fact of the instance; each source has a
    :func:`found`.
    """
    return {"fact": "taken_over", "schema": schema, "place": place}


def found(
    *,
    started: int,
    events: int,
    uids: bytes,
    head: bytes | None,
    records: Iterable[Sequence[str | int | None]],
) -> Body:
    """
    Return: the upgrade found this of a source. It is called ``taken_over`` as well, in its unit.

    *started* is where its ledger begins, *events* and *uids* are its known keys. *records* are
    those of its journal and *head* the hash of the last one, as they were: number, time of
    recording, what, start, end, reason, kind of read, events and digest.
    """
    return {
        "fact": "taken_over",
        "started": started,
        "events": events,
        "uids": uids.hex(),
        "head": head.hex() if head is not None else None,
        "records": [list(each) for each in records],
    }


# --- at the seal --------------------------------------------------------------------------------

_OF_LEDGER: Final = frozenset({"gap", "filled", "reopened", "retracted", "void"})
"""Facts that change what a span is: spans covered before and after do not join."""

_JOIN: Final = {"covered": "via", "excluded": "glob"}
"""Facts that join others that are alike in this field."""


def merge(bodies: Iterable[Body]) -> list[Body]:
    """
    Return the facts of an entry, given the open ones of one unit in the order they were written in.

    Pages accepted by one kind of read become facts of up to MOST_PAGES pages; no more than these
    are kept at a time. Covered spans of one kind that touch become one, unless a fact between them
    says that a span has become something else. What was excluded by one glob becomes one. All
    others stay as they are. A fact stands where its first one stood.
    """
    groups: list[list[Body]] = []
    accepted: dict[str, list[Body]] = {}
    pages: dict[str, list[Body]] = {}
    joining: dict[tuple[str, str], list[Body]] = {}
    for body in bodies:
        kind = body["fact"]
        if kind == "accepted":
            via = body["via"]
            if via not in accepted:
                accepted[via], pages[via] = [], []
                groups.append(accepted[via])
            pages[via].append(body)
            if len(pages[via]) == MOST_PAGES:
                accepted[via].append(_chained(pages[via]))
                pages[via] = []
        elif kind in _JOIN:
            what = kind, body[_JOIN[kind]]
            if what not in joining:
                groups.append([])
                joining[what] = groups[-1]
            joining[what].append(body)
        else:
            groups.append([body])
            if kind in _OF_LEDGER:
                joining = {}
    for via, rest in pages.items():
        accepted[via] += [_chained(rest)] if rest else []
    return [fact for group in groups for fact in _joined(group)]


def _joined(group: list[Body]) -> Iterable[Body]:
    match group[0]["fact"]:
        case "covered":
            return _spanned(group)
        case "excluded":
            return [_all_excluded(group)]
    return group


def _all_excluded(group: Sequence[Body]) -> Body:
    """Return the one fact about all places of *group*; some may be in it twice, after a crash."""
    places: list[list[int]] = []
    for first, count in sorted(pair for body in group for pair in body["places"]):
        if places and first <= sum(places[-1]):
            places[-1][1] = max(places[-1][1], first + count - places[-1][0])
        else:
            places.append([first, count])
    return {**group[0], "places": places, "events": _sum(places)}


def _chained(pages: Sequence[Body]) -> Body:
    """Return the one fact about these *pages*."""
    whole = {
        **pages[0],
        "pages": [place for page in pages for place in page["pages"]],
        "events": sum(page["events"] for page in pages),
        "late": sum(page["late"] for page in pages),
    }
    for name in ("uids", "raws", "stored"):
        whole[name] = chain(bytes.fromhex(page[name]) for page in pages).hex()
    return whole


def chain(digests: Iterable[bytes], before: bytes = NO_PAGE) -> bytes:
    """Return the digest of pages with these *digests*, behind those whose digest is *before*."""
    for each in digests:
        before = sha256(before + each).digest()
    return before


def _spanned(spans: Iterable[Body]) -> Iterator[Body]:
    """Yield *spans* in order of time, those that touch as one."""
    whole: Body | None = None
    for span in sorted(spans, key=lambda span: (span["start"], span["end"])):
        if whole is not None and span["start"] <= whole["end"]:
            end, before = (max(whole[name], span[name]) for name in ("end", "before"))
            whole = {**whole, "end": end, "before": before}
            continue
        if whole is not None:
            yield whole
        whole = span
    if whole is not None:
        yield whole


_CUT: Final = {
    "back": "since",
    "began": "since",
    "configured": "settings",
    "dead": "each",
    "delivered": "done",
    "dropped": "each",
    "excluded": "places",
    "refilled": "each",
    "replayed": "each",
    "taken_over": "records",
    "void": "pages",
}
"""The field of a fact that may become too long for an entry."""


def halves(body: Body) -> tuple[Body, Body]:
    """
    Return two facts that say together what *body* says; raise ValueError if it has no long field.

    Pages and their digests, and counts of what is not in the field that is cut, stay with the
    first. What the second has instead says nothing: no pages, ``stored`` null, no events.
    """
    name = _CUT.get(body["fact"], "")
    field = body.get(name, ())
    middle = len(field) // 2
    if not middle:
        raise ValueError(f"a fact is too long and cannot be cut: {text(body)[:100]}")
    if isinstance(field, dict):
        items = sorted(field.items())
        left, right = {**body, name: dict(items[:middle])}, {**body, name: dict(items[middle:])}
    else:
        left, right = {**body, name: field[:middle]}, {**body, name: field[middle:]}
    if name == "each":
        left["events"], right["events"] = len(left[name]), len(right[name])
    if name == "places":
        left["events"], right["events"] = _sum(left[name]), _sum(right[name])
    if "stored" in body:
        right |= {"pages": [], "stored": None}
    if name == "records":
        right |= {"events": 0, "uids": _NO_KEY}
    return left, right


def _cut(text: str) -> str:
    """Return *text* as a fact may have it: an auditor will see it, in a terminal perhaps."""
    text = text[:MOST_TEXT]
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def _sum(pairs: Iterable[Sequence[int]]) -> int:
    return sum(count for _, count in pairs)


def _pairs(ranges: Iterable[tuple[int, int]]) -> list[list[int]]:
    return [[first, count] for first, count in ranges]


def _named(uids: Iterable[str]) -> Body:
    each = list(uids)
    return {"events": len(each), "each": each}
