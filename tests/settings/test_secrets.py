"""References, and secrets that are never shown and can be read again."""

from pathlib import Path

import pytest
from tests.support.settings import error_of, vendor

from auditrelay.settings.secrets import Resolved, Secret, SecretAddress, Unresolved, resolve


def test_references_are_resolved_anywhere_in_a_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\r\n")
    environ = {"NAME": "from-env", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    template = f"a ${{env:NAME}} b ${{file:{tmp_path}/token}} c ${{credential:token}}"
    assert resolve(template, environ) == "a from-env b from-file c from-file"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("${env:NOPE}", "the environment variable NOPE is not set"),
        ("${file:/nonexistent/x}", "cannot read /nonexistent/x: No such file"),
        ("${file:/}", "cannot read /: Is a directory"),
        ("${file:a\0b}", "is not the name of a file"),
        ("${credential:x}", "systemd sets for LoadCredential="),
        ("${NOPE}", r"did you mean \$\{env:NOPE\}"),
        ("${env:}", "is not a reference"),
        ("${vault:x}", "is not a reference"),
        ("${ENV:x}", "is not a reference"),
        ("${env:x", "not set|not a reference"),
    ],
)
def test_an_unresolved_reference_says_why(template: str, message: str) -> None:
    with pytest.raises(Unresolved, match=message):
        resolve(template, {})


@pytest.mark.parametrize("name", ["../x", ".", "..", "a/b"])
def test_a_credential_is_only_read_from_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(Unresolved, match="plain file name"):
        resolve(f"${{credential:{name}}}", {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(Unresolved, match="is not text in UTF-8"):
        resolve(f"${{file:{tmp_path}/x}}", {})


def test_a_resolved_text_is_shown_as_written() -> None:
    text = Resolved("x-${env:A}", {"A": "hidden"})
    assert text == "x-hidden"
    assert f"{text!r}" == "'x-${env:A}'"


def test_a_secret_is_never_shown() -> None:
    settings = vendor(api_key="key-0123456789")
    shown = [repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()]
    shown += [repr(settings.api_key), f"{settings.api_key}", str([settings.api_key])]
    assert all("key-0123456789" not in text for text in shown)
    assert "***" in shown[0]
    assert settings.api_key.reveal() == "key-0123456789"


def test_a_rotated_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first-key\n")
    secret = vendor(api_key=Resolved(f"${{file:{file}}}", {})).api_key
    assert not secret.literal
    assert not secret.reload()
    file.write_text("second-key\n")
    assert secret.reveal() == "first-key"
    assert secret.reload()
    assert secret.reveal() == "second-key"


@pytest.mark.parametrize("text", ["\ufeffsecond", "\ufeffsecond\r\n", "second\n"])
def test_a_file_that_an_editor_has_marked_as_utf_8_is_read_again(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text("\ufefffirst", encoding="utf-8")
    secret = Secret(Resolved(f"${{file:{file}}}", {}))
    assert secret.reveal() == "first"
    file.write_text(text, encoding="utf-8")
    assert secret.reload()
    assert secret.reveal() == "second"


@pytest.mark.parametrize("content", [None, b"", b"two\nlines\n", b"\xff"])
def test_a_file_that_is_being_replaced_keeps_the_old_secret(
    content: bytes | None, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    file.write_text("first-key")
    secret = Secret(Resolved(f"${{file:{file}}}", {}))
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    assert not secret.reload()
    assert secret.reveal() == "first-key"


def test_a_credential_is_read_again_from_the_folder_it_came_from(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("first-key")
    secret = Secret(Resolved("${credential:key}", {"CREDENTIALS_DIRECTORY": str(tmp_path)}))
    (tmp_path / "key").write_text("second-key")
    assert secret.reload()
    assert secret.reveal() == "second-key"


def test_a_literal_secret_is_never_read_again() -> None:
    secret = Secret("literal-key")
    assert secret.literal
    assert not secret.reload()


def test_a_secret_shows_its_references_and_not_the_text_between(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hidden-1")
    written = f"literal-${{env:A}}-${{file:{tmp_path}/key}}"
    secret = Secret(Resolved(written, {"A": "hidden-2"}))
    assert secret.references == ("${env:A}", f"${{file:{tmp_path}/key}}")
    assert Secret("literal-key").references == ()


def test_settings_differ_when_their_secrets_do() -> None:
    assert vendor(api_key="key-a") == vendor(api_key="key-a")
    assert vendor(api_key="key-a") != vendor(api_key="key-b")


@pytest.mark.parametrize("key", ["", " padded", "two\nlines", "tab\t", "ключ", "del\x7f", 5, None])
def test_a_secret_that_no_header_can_have_is_refused_and_not_repeated(key: object) -> None:
    error = error_of(api_key=key)
    assert error.startswith("api_key: ")
    if isinstance(key, str) and key:
        assert key not in error


# --- addresses with a password ------------------------------------------------------------------


def test_in_an_address_a_reference_is_taken_as_it_is_and_its_password_is_hidden(
    tmp_path: Path,
) -> None:
    file = tmp_path / "password"
    file.write_text("a/b?c#d@e%41:f\n")
    environ = {"HOST": "db1:5433,[::1]"}
    written = Resolved(f"postgresql://relay:${{file:{file}}}@${{env:HOST}}/audit", environ)
    address = SecretAddress(written)
    encoded = "a%2Fb%3Fc%23d%40e%2541:f"
    assert address.reveal() == f"postgresql://relay:{encoded}@db1:5433,[::1]/audit"
    assert address.hidden == ("a/b?c#d@e%41:f", encoded)
    whole = SecretAddress(Resolved("${env:STORE}", {"STORE": "postgresql://relay:a%2Fb@db1/audit"}))
    assert whole.reveal() == "postgresql://relay:a%2Fb@db1/audit"
    assert whole.hidden == ("a/b", "a%2Fb")
    assert SecretAddress("postgresql://relay@db1/audit").hidden == ()
    assert SecretAddress("what is this").hidden == ("what is this",)


def test_an_address_that_is_written_alike_is_the_same_whatever_the_password_is_now(
    tmp_path: Path,
) -> None:
    file = tmp_path / "password"
    file.write_text("first")
    text = f"postgresql://relay:${{file:{file}}}@db1/audit"
    before = SecretAddress(Resolved(text, {}))
    file.write_text("second")
    after = SecretAddress(Resolved(text, {}))
    assert before == after
    assert before.reload()
    assert before.reveal() == after.reveal()
    assert not before.reload()
    assert before != SecretAddress(Resolved(text.replace("db1", "db2"), {}))
    assert before != SecretAddress(after.reveal())
    literal = "postgresql://relay@db1/audit"
    assert SecretAddress(literal) == SecretAddress(literal) != SecretAddress(literal + "2")


@pytest.mark.parametrize("value", ["", "postgresql://a b@c/d", "postgresql://a\n@c/d"])
def test_an_address_has_no_space(value: str) -> None:
    with pytest.raises(ValueError, match=r"is empty|percent-encode"):
        SecretAddress._read(value)
