"""The files of the status page."""

import pytest
from tests.status.idle import Idle, client


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("page.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
async def test_a_file_is_sent_once_and_then_only_confirmed(
    instance: Idle, name: str, kind: str
) -> None:
    async with client(instance) as asking:
        first = await asking.get(f"/static/{name}")
        assert first.headers["content-type"] == kind
        assert first.content
        known = {"If-None-Match": first.headers["etag"]}
        again = await asking.get(f"/static/{name}", headers=known)
        assert (again.status_code, again.content) == (304, b"")
        changed = await asking.get(f"/static/{name}", headers={"If-None-Match": '"x"'})
        assert changed.status_code == 200


@pytest.mark.parametrize("name", ["", "nothing.css", "..%2f__init__.py", "%2e%2e/page.py"])
async def test_there_are_no_other_files(instance: Idle, name: str) -> None:
    async with client(instance) as asking:
        assert (await asking.get(f"/static/{name}")).status_code == 404
