"""Heads: one word, strictly read; the note that it stands for; keys and what they prove."""

import base64
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from auditrelay.evidence import heads
from auditrelay.evidence.heads import Head, Keys
from auditrelay.evidence.tree import MOST_HASHES

LOG = "7346c92ec83c0c19152a6840060797e1"
ROOT = bytes(range(32))
KEYS = Keys(b"k" * 32)
SIGNED = KEYS.head(LOG, 40007, ROOT)
PLAIN = Head(LOG, 40007, ROOT)


def test_the_words() -> None:
    assert PLAIN.word == f"arh1.{LOG}.40007.{ROOT.hex()}.-"
    assert SIGNED.word == f"arh1.{LOG}.40007.{ROOT.hex()}.{KEYS.key_id}.{SIGNED.signature.hex()}"
    assert KEYS.key_id == sha256(KEYS.public).hexdigest()[:8]


def test_the_event_of_a_head_is_known_from_its_word() -> None:
    text = f"head {LOG} 40007 {ROOT.hex()}"
    assert SIGNED.uid == PLAIN.uid == sha256(text.encode()).hexdigest()[:40]


@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, (1 << MOST_HASHES) - 1),
    st.binary(min_size=32, max_size=32),
    st.none() | st.binary(min_size=68, max_size=68),
)
def test_a_word_is_read_as_it_was_written(
    log: bytes, size: int, root: bytes, signed: bytes | None
) -> None:
    head = Head(log.hex(), size, root)
    if signed is not None:
        head = replace(head, key_id=signed[:4].hex(), signature=signed[4:])
    assert Head.parse(head.word) == head


WORD = SIGNED.word


@pytest.mark.parametrize(
    "word",
    [
        "",
        "arh1",
        WORD[:-1],
        WORD[:-2],
        WORD + "0",
        WORD + "\n",
        " " + WORD,
        "\ufeff" + WORD,
        WORD + " ",
        WORD + ".-",
        WORD.upper(),
        WORD.replace("arh1", "arh2"),
        WORD.replace("arh1", "ARH1"),
        WORD.replace(LOG, LOG[:-1]),
        WORD.replace(LOG, LOG + "0"),
        WORD.replace(LOG, LOG.upper()),
        WORD.replace(LOG, "g" + LOG[1:]),
        WORD.replace(".40007.", ".040007."),
        WORD.replace(".40007.", ".+40007."),
        WORD.replace(".40007.", ".-40007."),
        WORD.replace(".40007.", ".4e4."),
        WORD.replace(".40007.", ".4_0007."),
        WORD.replace(
            ".40007.",
            "..",
        ),
        WORD.replace(".40007.", ".\u0664\u0660\u0660\u0660\u0667."),
        WORD.replace(".40007.", f".{1 << MOST_HASHES}."),
        WORD.replace(".40007.", f".{'9' * 5000}."),
        WORD.replace(ROOT.hex(), ROOT.hex()[2:]),
        WORD.replace(f".{KEYS.key_id}.", "."),
        WORD.replace(f".{KEYS.key_id}.", ".-."),
        WORD.replace(f".{KEYS.key_id}.", ".."),
        PLAIN.word + "-",
        PLAIN.word[:-1],
        PLAIN.word[:-2],
        PLAIN.word[:-1] + "\u2013",
    ],
)
def test_what_is_not_exactly_a_head_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="not a head") as error:
        Head.parse(word)
    assert len(str(error.value)) < 500
    assert "\n" not in str(error.value)


@given(st.integers(0, len(WORD) - 1), st.characters(codec="utf-8"))
def test_a_word_with_another_character_is_another_head_or_none(at: int, character: str) -> None:
    word = WORD[:at] + character + WORD[at + 1 :]
    try:
        head = Head.parse(word)
    except ValueError:
        return
    assert head.word == word
    assert word == WORD or not head.is_signed_by(KEYS.public)


def test_the_signature_is_ed25519_over_the_body() -> None:
    text = f"auditrelay/{LOG}\n40007\n{base64.b64encode(ROOT).decode()}\n"
    assert heads.body(LOG, 40007, ROOT) == text.encode()
    public = Ed25519PublicKey.from_public_bytes(KEYS.public)
    public.verify(SIGNED.signature, text.encode())
    with pytest.raises(InvalidSignature):
        public.verify(SIGNED.signature, text.rstrip().encode())


def test_a_head_is_signed_by_its_key_alone() -> None:
    other = Keys(b"o" * 32)
    assert SIGNED.is_signed_by(KEYS.public)
    assert not SIGNED.is_signed_by(other.public)
    assert not PLAIN.is_signed_by(KEYS.public)
    for changed in (
        replace(SIGNED, size=40008),
        replace(SIGNED, root=bytes(32)),
        replace(SIGNED, log="0" * 32),
        replace(SIGNED, signature=bytes(64)),
        replace(SIGNED, signature=other.sign(LOG, 40007, ROOT)),
        replace(SIGNED, key_id=other.key_id),
    ):
        assert not changed.is_signed_by(KEYS.public)
        assert not changed.is_signed_by(other.public)


@pytest.mark.parametrize("public", [b"", b"x" * 31, b"\xff" * 32])
def test_what_is_no_public_key_has_signed_nothing(public: bytes) -> None:
    assert not heads.is_signed(public, SIGNED.signature, heads.body(LOG, 40007, ROOT))


def read_note(note: str, name: str, public: bytes) -> str:
    """Return the text of *note*, read and verified as C2SP's signed-note.md says."""
    text, signatures = note.rsplit("\n\n", 1)
    text += "\n"
    assert signatures.endswith("\n")
    (line,) = signatures[:-1].split("\n")
    dash, key_name, encoded = line.split(" ")
    assert (dash, key_name) == ("\u2014", name)
    signature = base64.b64decode(encoded, validate=True)
    number = sha256(name.encode() + b"\n\x01" + public).digest()[:4]
    assert signature[:4] == number
    Ed25519PublicKey.from_public_bytes(public).verify(signature[4:], text.encode())
    return text


def test_the_note_is_what_other_programs_read() -> None:
    # The reader of this test against a note of Go's: https://pkg.go.dev/golang.org/x/mod/sumdb/note
    known = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n\n"
        "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfq"
        "dngotpRZb6KE6RyyBwJnAM=\n"
    )
    public = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    assert public[0] == 1
    read_note(known, "PeterNeumann", public[1:])
    # And against ours.
    note = Head.parse(SIGNED.word).note(KEYS.public)
    origin, size, root = read_note(note, f"auditrelay/{LOG}", KEYS.public).splitlines()
    assert (origin, size) == (f"auditrelay/{LOG}", "40007")
    assert base64.b64decode(root, validate=True) == ROOT


def test_there_is_no_note_without_the_key_that_signed() -> None:
    for head, public in ((PLAIN, KEYS.public), (SIGNED, Keys(b"o" * 32).public)):
        with pytest.raises(ValueError, match="not signed by this key"):
            head.note(public)


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_secret_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"32 bytes, not {length}"):
        Keys(bytes(length))


def test_a_secret_is_not_shown() -> None:
    assert repr(KEYS) == "Keys()"


def test_the_two_keys_of_a_secret_differ_from_it_and_from_each_other() -> None:
    again = Keys(b"k" * 32)
    assert again.public == KEYS.public
    assert again.tag(b"row") == KEYS.tag(b"row")
    assert Ed25519PublicKey.from_public_bytes(KEYS.public)
    derived = {KEYS._signing.private_bytes_raw(), KEYS._tagging, KEYS.secret}
    assert len(derived) == 3
    assert {len(each) for each in derived} == {32}


def test_a_tag_is_of_all_parts_and_their_bounds() -> None:
    tag = KEYS.tag(b"ab", b"c")
    assert len(tag) == 32
    assert KEYS.fits(tag, b"ab", b"c")
    for parts in ([b"a", b"bc"], [b"abc"], [b"ab", b"c", b""], [b"ab"], [b"ab", b"d"]):
        assert not KEYS.fits(tag, *parts)
    assert not Keys(b"o" * 32).fits(tag, b"ab", b"c")
    assert not KEYS.fits(b"", b"ab", b"c")


def test_a_key_vouches_for_the_one_that_replaces_it() -> None:
    new = Keys(b"n" * 32)
    signature = KEYS.vouch(new.public)
    assert heads.is_signed(KEYS.public, signature, heads.succession(new.public))
    assert not heads.is_signed(KEYS.public, signature, heads.succession(KEYS.public))
    assert not heads.is_signed(new.public, signature, heads.succession(new.public))
    # It is no head, and a head is no successor: the first words differ.
    assert not heads.succession(new.public).startswith(heads.origin("").encode())


@pytest.mark.process
def test_only_signing_imports_cryptography() -> None:
    code = (
        "import sys; from auditrelay.evidence import entries, facts, heads, tree; "
        "heads.Keys(bytes(32)).tag(b'row'); heads.Head.parse(sys.argv[1]); "
        "assert not [name for name in sys.modules if name.startswith('cryptography')]; "
        "heads.Keys(bytes(32)).key_id; assert 'cryptography' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, WORD], check=True, timeout=60)
