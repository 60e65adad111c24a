"""The bill of materials, CycloneDX in JSON: what the lock installs with auditrelay, and why."""

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from release import PROJECT, VERSION
from release.licences import licence
from release.locks import Package

_LICENCES: Final = LicenseFactory()


def bill(packages: Iterable[Package], at: datetime) -> str:
    """Return the bill of *packages*, of the time *at*: the same text for the same lock and time."""
    packages = list(packages)
    ours = _component(PROJECT["name"], VERSION, PROJECT["license"], ComponentType.APPLICATION)
    known = {each.name: _package(each) for each in packages}
    hashes = sorted(each for package in packages for each in package.hashes)
    bom = Bom(
        components=known.values(),
        metadata=BomMetaData(component=ours, timestamp=at),
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{ours.purl} {' '.join(hashes)}"),
    )
    known[PROJECT["name"]] = ours
    for name, component in known.items():
        needed = [known[each.name] for each in packages if name in each.needed_by]
        bom.register_dependency(component, needed)
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _package(package: Package) -> Component:
    component = _component(package.name, package.version, licence(package), ComponentType.LIBRARY)
    # Hashes of the component itself would be of one file; a package has one for each platform.
    component.external_references.add(
        ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(str(component.purl)),
            comment="any one of the files that the lock allows",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in package.hashes],
        )
    )
    return component


def _component(name: str, version: str, said: str, kind: ComponentType) -> Component:
    purl = PackageURL("pypi", name=name, version=version)
    return Component(
        name=name,
        version=version,
        type=kind,
        licenses=[_LICENCES.make_from_string(said)],
        purl=purl,
        bom_ref=str(purl),
    )
