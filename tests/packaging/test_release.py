"""What a release says about itself: version, bill of materials, licences."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import get_spdx_licensing  # type: ignore[import-untyped]  # it has no hints
from packaging.requirements import Requirement

from release import PROJECT, VERSION, licences, locks, sbom, version

AT = datetime(2026, 11, 27, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def lock() -> list[locks.Package]:
    return list(locks.packages(locks.RUNTIME))


# --- version -----------------------------------------------------------------------------------


def test_every_file_with_the_version_in_it_has_the_one_of_pyproject() -> None:
    files = dict(version.stamped())
    assert {path.name for path in files} >= {
        "Dockerfile",
        "app.conf",
        "deployment.yaml",
        "kustomization.yaml",
    }
    for path, text in files.items():
        assert VERSION in text, path
        assert path.read_text("utf-8") == text, f"{path}: run make generate"


# --- the lock ----------------------------------------------------------------------------------


def test_a_lock_is_read_with_all_its_hashes_and_with_who_needs_each_package(
    lock: list[locks.Package], tmp_path: Path
) -> None:
    text = locks.RUNTIME.read_text("utf-8")
    assert len(lock) == len(re.findall(r"^\S+==(?!.*win32)", text, re.MULTILINE))
    direct = {each.name for each in lock if PROJECT["name"] in each.needed_by}
    assert direct == {Requirement(each).name for each in PROJECT["dependencies"]} | {"psycopg"}
    names = {each.name for each in lock} | {PROJECT["name"]}
    for package in lock:
        assert package.needed_by
        assert set(package.needed_by) <= names
    path = tmp_path / "lock.txt"
    path.write_text(
        "# made\nhere==1 \\\n    --hash=sha256:"
        + "a" * 64
        + " \\\n    --hash=sha256:"
        + "b" * 64
        + "\n    # via\n    #   -c other.txt\n    #   auditrelay (pyproject.toml:build)\n"
        "elsewhere==2 ; sys_platform == 'win32' \\\n    --hash=sha256:"
        + "c" * 64
        + "\n    # via here\n"
    )
    (only,) = locks.packages(path)
    assert only == locks.Package("here", "1", ("a" * 64, "b" * 64), ("auditrelay",))


# --- bill of materials -------------------------------------------------------------------------


def test_the_bill_of_materials_is_valid_and_has_all_of_the_lock(lock: list[locks.Package]) -> None:
    text = sbom.bill(lock, AT)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert bill["metadata"]["component"]["purl"] == f"pkg:pypi/auditrelay@{VERSION}"
    found = {each["name"]: each for each in bill["components"]}
    assert {(each["name"], each["version"]) for each in bill["components"]} == {
        (each.name, each.version) for each in lock
    }
    for package in lock:
        component = found[package.name]
        (files,) = component["externalReferences"]
        assert {each["content"] for each in files["hashes"]} == set(package.hashes)
        assert component["licenses"]
    needs = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    ours = needs[f"pkg:pypi/auditrelay@{VERSION}"]
    assert found["httpx"]["bom-ref"] in ours
    assert found["h11"]["bom-ref"] not in ours
    assert found["h11"]["bom-ref"] in needs[found["httpcore"]["bom-ref"]]


def test_the_bill_is_the_same_for_the_same_lock_and_another_one_for_another(
    lock: list[locks.Package],
) -> None:
    text = sbom.bill(lock, AT)
    assert sbom.bill(lock[::-1], AT) == text
    first = replace(lock[0], hashes=("0" * 64,))
    other = json.loads(sbom.bill([first, *lock[1:]], AT))
    assert other["serialNumber"] != json.loads(text)["serialNumber"]


# --- licences ----------------------------------------------------------------------------------


def test_each_package_has_a_licence_that_spdx_knows_and_its_text(lock: list[locks.Package]) -> None:
    spdx = get_spdx_licensing()
    page = licences.listed(lock)
    for package in lock:
        said = licences.licence(package)
        assert spdx.validate(said).errors == [], package
        assert re.search(
            rf"^{re.escape(package.name)} +{package.version} +{re.escape(said)}$",
            page,
            re.MULTILINE,
        )
        assert list(licences.texts(package)), package
    assert page.startswith("auditrelay ")
    assert "\nhttpx: LICENSE" in page


def test_a_package_that_is_not_installed_as_locked_has_no_licence_yet(
    lock: list[locks.Package],
) -> None:
    with pytest.raises(licences.Unknown, match="run make install"):
        licences.licence(replace(lock[0], version="0.0.1"))


def test_a_licence_in_words_that_are_not_listed_is_refused(
    lock: list[locks.Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    isc = next(each for each in lock if licences.licence(each) == "ISC")
    monkeypatch.setattr(licences, "_IN_OTHER_WORDS", {})
    with pytest.raises(licences.Unknown, match=isc.name):
        licences.licence(isc)
