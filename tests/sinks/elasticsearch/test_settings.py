"""Which settings are refused, and with which message."""

from typing import Any

import pytest
from pydantic import ValidationError

from auditrelay.sinks import elasticsearch

REQUIRED: dict[str, Any] = {"type": "elasticsearch", "urls": ["https://es.example.com:9200"]}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"urls": []}, "at least 1 item"),
        ({"urls": ["https://a.example.com", "http://b.example.com"]}, r"urls\[1\]: plain http"),
        ({"api_key": "k", "username": "u", "password": "p"}, "excludes username and password"),
        ({"username": "u"}, "username and password go together"),
        ({"username": "a:b", "password": "p"}, "must not contain a colon"),
        ({"index": "Audit"}, "no capital letters"),
        ({"index": "audit-{tenant}"}, "{tenant} is unknown: only {vendor} and {source} exist"),
        ({"index": "audit-%y"}, "%y is unknown: only %Y, %m"),
        ({"index": "audit-%"}, "% is unknown"),
        ({"index": "audit logs"}, "must not contain ' '"),
        ({"index": "audit-{vendor"}, "must not contain '{'"),
        ({"index": "-audit"}, "starts with a letter or a digit"),
        ({"index": ""}, "starts with a letter or a digit"),
        ({"index": "a" * 256}, "at most 255 bytes"),
        ({"batch_bytes": "101MiB"}, "less than or equal to 104857600"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        elasticsearch.Settings.model_validate({**REQUIRED, **keys})


def test_urls_may_be_a_comma_separated_text() -> None:
    urls = elasticsearch.Settings.model_validate(
        {**REQUIRED, "urls": "https://a.example.com, https://b.example.com/es/"}
    ).urls
    assert urls == ["https://a.example.com", "https://b.example.com/es"]
