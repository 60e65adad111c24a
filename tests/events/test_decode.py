"""What msgspec raises for bytes that it cannot decode is known in one place."""

import contextlib
import re
from pathlib import Path

import msgspec
import pytest

import auditrelay
from auditrelay.events.decode import NOT_DECODED, Undecodable, decode

ROOT = Path(auditrelay.__file__).parent


class _Named(msgspec.Struct):
    name: str


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff",
        b'{"name":"\xff"}',
        b'{"name":"\xed\xa0\x80"}',
        b'{"name":"a\xc3"}',
        b'{"name":"\\ud800"}',
        b'{"name":5}',
        b'{"name":NaN}',
        b"[" * 100_000,
    ],
)
def test_every_error_of_a_decoder_is_expected(text: bytes) -> None:
    with pytest.raises(NOT_DECODED):
        msgspec.json.decode(text, type=_Named)
    with contextlib.suppress(Undecodable):
        decode(text)


def test_no_other_module_has_a_list_of_its_own() -> None:
    own = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if re.search(r"msgspec\.(DecodeError|MsgspecError)", path.read_text())
    }
    # The pages of the spool are ours, and no JSON.
    assert own == {"events/decode.py", "store/packing.py"}
