"""Holes take a text, and nothing can be computed in them."""

import pytest

from auditrelay.descriptions import holes

VALUES = {"org": "a/b ?#%é", "domain": "eu.acme.example"}


def test_a_value_in_a_path_is_percent_encoded_whole() -> None:
    assert holes.fill("/orgs/{org}/log", VALUES, "path") == "/orgs/a%2Fb%20%3F%23%25%C3%A9/log"


def test_a_value_elsewhere_is_encoded_where_the_request_is_written() -> None:
    assert holes.fill("x {org}", VALUES) == f"x {VALUES['org']}"


def test_an_address_is_encoded_behind_its_host() -> None:
    filled = holes.fill_address("https://{domain}/orgs/{org}", VALUES)
    assert filled == "https://eu.acme.example/orgs/a%2Fb%20%3F%23%25%C3%A9"


def test_a_value_is_no_text_with_holes() -> None:
    assert holes.fill("{org}", {"org": "{domain}", "domain": "x"}) == "{domain}"


def test_braces_around_anything_but_a_name_are_no_hole() -> None:
    query = "query { logs(first: 5) { nodes { id } } {{}} {A} {a b} }"
    assert holes.names(query) == []
    assert holes.fill(query, {}) == query


def test_all_texts_of_a_body_are_filled() -> None:
    body = {"a": ["{domain}", 5, {"b": "x{domain}"}], "c": True}
    filled = {"a": ["eu.acme.example", 5, {"b": "xeu.acme.example"}], "c": True}
    assert holes.fill_all(body, VALUES) == filled
    assert list(holes.texts(body)) == [(("a", 0), "{domain}"), (("a", 2, "b"), "x{domain}")]


@pytest.mark.parametrize("host", ["acme.example", "a", "acme.example:8443", "10.0.0.1"])
def test_a_host_is_a_host(host: str) -> None:
    assert holes.host_problem(host) is None


@pytest.mark.parametrize(
    "host", ["", "a/b", "u@h", "a?b", "a#b", "a\\b", "a b", ".a", "a.", "a:b", "é.example", "[::1]"]
)
def test_what_could_name_another_host_is_none(host: str) -> None:
    assert holes.host_problem(host)


@pytest.mark.parametrize("part", ["", ".", ".."])
def test_a_part_of_a_path_that_leads_elsewhere_is_refused(part: str) -> None:
    assert holes.path_problem(part)
    assert holes.path_problem(f"{part}a") is None
