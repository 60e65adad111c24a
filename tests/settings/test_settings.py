"""Durations, sizes, references, secrets and addresses: what a value may look like."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from auditrelay.settings import SinkSettings, SourceSettings
from auditrelay.settings.addresses import Address
from auditrelay.settings.secrets import Resolved, Secret, Unresolved, resolve
from auditrelay.settings.values import format_duration, parse_duration, parse_size


class Vendor(SourceSettings):
    type: Literal["vendor"] = "vendor"
    base_url: Address = "https://api.vendor.example"
    api_key: Secret


class Product(SinkSettings):
    type: Literal["product"] = "product"
    format: str = "raw"
    url: Address = "https://product.example"


def vendor(**changes: Any) -> Vendor:
    return Vendor(**{"api_key": "key-0123456789", **changes})


def complaint(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        vendor(**changes)
    return "\n".join(
        f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in caught.value.errors()
    )


@given(st.integers(0, 36500 * 24 * 3600 * 1000))
def test_every_duration_is_read_back_as_it_was_written(milliseconds: int) -> None:
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(value)) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("250ms", 0.25), ("90s", 90), ("5m", 300), ("36h", 129600), ("7d", 604800)],
)
def test_a_duration_is_a_whole_number_and_one_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


def test_a_duration_is_shown_in_its_largest_whole_unit() -> None:
    shown = [format_duration(timedelta(seconds=s)) for s in (0, 0.25, 90, 120, 7200, 172800)]
    assert shown == ["0s", "250ms", "90s", "2m", "2h", "2d"]


@pytest.mark.parametrize(
    "text", ["", "5", "m", "1.5h", "-1s", "5 m", "5M", "1h30m", "٣s", "9" * 5000 + "s", 30, True]
)
def test_what_is_no_duration_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match=r'is not a duration.*such as "5m"'):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36501d", "999999999999999d", "999999999999999h"])
def test_a_duration_of_more_than_a_century_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="longer than a century"):
        parse_duration(text)


@given(st.integers(0, 10**12), st.sampled_from(["", "B", "KB", "MB", "GB", "KiB", "MiB", "GiB"]))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str) -> None:
    powers = {"K": 1, "M": 2, "G": 3}
    factor = (1024 if "i" in unit else 1000) ** powers.get(unit[:1], 0)
    assert (
        parse_size(f"{number}{unit}")
        == parse_size(f"{number} {unit}".rstrip())
        == (number * factor)
    )


@pytest.mark.parametrize("text", ["", "2gib", "1.5GB", "-1", "GB", "2 G B", None, True, "9" * 5000])
def test_what_is_no_size_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(ValueError, match=r'is not a size.*such as "2GiB"'):
        parse_size(text)


def test_references_are_followed_anywhere_in_a_text(tmp_path: Path) -> None:
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
def test_a_reference_that_leads_nowhere_says_why(template: str, message: str) -> None:
    with pytest.raises(Unresolved, match=message):
        resolve(template, {})


@pytest.mark.parametrize("name", ["../x", ".", "..", "a/b"])
def test_a_credential_cannot_lead_out_of_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(Unresolved, match="plain file name"):
        resolve(f"${{credential:{name}}}", {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(Unresolved, match="is not text in UTF-8"):
        resolve(f"${{file:{tmp_path}/x}}", {})


def test_a_resolved_text_shows_itself_as_it_was_written() -> None:
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


@pytest.mark.parametrize("content", [None, b"", b"two\nlines\n", b"\xff"])
def test_a_file_that_is_being_replaced_leaves_the_old_secret(
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


def test_a_secret_tells_where_it_comes_from_and_nothing_of_what_is_between(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hidden-1")
    written = f"literal-${{env:A}}-${{file:{tmp_path}/key}}"
    secret = Secret(Resolved(written, {"A": "hidden-2"}))
    assert secret.references == ("${env:A}", f"${{file:{tmp_path}/key}}")
    assert Secret("literal-key").references == ()


def test_settings_differ_when_their_secrets_do() -> None:
    assert vendor(api_key="key-a") == vendor(api_key="key-a")
    assert vendor(api_key="key-a") != vendor(api_key="key-b")


@pytest.mark.parametrize("key", ["", " padded", "two\nlines", "tab\t", "ключ", "del\x7f", 5, None])
def test_a_secret_that_no_header_can_carry_is_refused_unseen(key: object) -> None:
    said = complaint(api_key=key)
    assert said.startswith("api_key: ")
    if isinstance(key, str) and key:
        assert key not in said


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("api.example.com", "write https://host"),
        ("ftp://api.example.com", "write https://host"),
        ("https://", "write https://host"),
        ("https://[::1", "malformed"),
        ("https://h:70000", "malformed"),
        ("https://h:port", "malformed"),
        ("https://user:hunter2@h", "user name or password"),
        ("https://h/?token=hunter2", "query"),
        ("https://h/#hunter2", "fragment"),
        ("https://h\n.evil", "control character"),
        ("https://h/a b", "space"),
        ("http://169.254.169.254/latest", "metadata"),
        ("http://[fd00:0ec2:0::254]/", "metadata"),
    ],
)
def test_an_address_that_is_wrong_or_unsafe_is_refused_unseen(url: str, message: str) -> None:
    said = complaint(base_url=url, allow_insecure_http=True)
    assert re.search(message, said)
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "url", ["http://api.example.com", "HTTP://api.example.com", "Http://10.0.0.1"]
)
def test_plain_http_to_another_machine_needs_a_word(url: str) -> None:
    assert "use https, or set allow_insecure_http" in complaint(base_url=url)
    assert vendor(base_url=url, allow_insecure_http=True).base_url.startswith("http://")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "127.9.9.9", "[::1]:8080"])
def test_plain_http_to_this_machine_is_fine(host: str) -> None:
    assert vendor(base_url=f"http://{host}/").base_url == f"http://{host}"


def test_an_overlap_as_long_as_the_window_is_refused() -> None:
    assert "the checkpoint never moves" in complaint(overlap="1h", max_window="1h")


def test_a_client_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "c.pem").touch()
    assert "client_cert and client_key go together" in complaint(client_cert=tmp_path / "c.pem")


def test_a_certificate_that_cannot_be_read_is_named() -> None:
    assert "ca_file: cannot read /nonexistent.pem" in complaint(ca_file="/nonexistent.pem")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("poll_interval", "0s"),
        ("overlap", "0s"),
        ("initial_lookback", "31d"),
        ("max_window", "31d"),
        ("resweep", ["1h", "0s"]),
        ("catch_up_limit", "0s"),
        ("page_size", 0),
        ("requests_per_minute", 0),
        ("timeout", "0s"),
        ("redact", "of"),
        ("redact", 3),
        ("tags", {"a": 1}),
        ("tags", "not json"),
    ],
)
def test_a_value_out_of_its_bounds_is_refused(key: str, value: object) -> None:
    assert complaint(**{key: value}).startswith(key)


def test_lists_and_tables_can_be_given_as_text() -> None:
    settings = vendor(resweep="1h, 24h,", redact='["*pin*"]', tags='{"env": "prod"}')
    assert settings.resweep == [timedelta(hours=1), timedelta(hours=24)]
    assert settings.redact == ["*pin*"]
    assert settings.tags == {"env": "prod"}
    for text in ('["a", "b-*"]', "a, b-*"):
        assert Product.model_validate({"sources": text}).sources == ["a", "b-*"]
    assert vendor(resweep="").resweep == []
