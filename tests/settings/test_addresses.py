"""Wrong or unsafe addresses are refused, and never repeated."""

import re

import pytest
from tests.support.settings import error_of, vendor


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
def test_a_wrong_or_unsafe_address_is_refused_and_not_repeated(url: str, message: str) -> None:
    error = error_of(base_url=url, allow_insecure_http=True)
    assert re.search(message, error)
    assert "hunter2" not in error


@pytest.mark.parametrize(
    "url", ["http://api.example.com", "HTTP://api.example.com", "Http://10.0.0.1"]
)
def test_plain_http_to_another_machine_must_be_allowed(url: str) -> None:
    assert "use https, or set allow_insecure_http" in error_of(base_url=url)
    assert vendor(base_url=url, allow_insecure_http=True).base_url.startswith("http://")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:80", "127.9.9.9", "[::1]:8080"])
def test_plain_http_to_this_machine_is_allowed(host: str) -> None:
    assert vendor(base_url=f"http://{host}/").base_url == f"http://{host}"
