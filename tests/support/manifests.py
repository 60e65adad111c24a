"""What is in ``kubernetes/`` as a cluster would get it: rendered, and the tools that check it."""

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "kubernetes"
BUILT = ROOT / "build" / "kubernetes"
"""Where packaging/kubernetes/build.sh leaves the tools."""

STORES = sorted(path.name for path in (KUBERNETES / "secrets").iterdir())
"""The components that bring secrets, each from another product."""

Manifest = dict[str, Any]


def tool(name: str) -> str:
    """Return the path of a tool, or skip the test."""
    found = shutil.which(name, path=f"{BUILT}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"there is no {name}: packaging/kubernetes/build.sh builds it, with Go")
    return found


@functools.cache
def rendered(*parts: str) -> str:
    """Return what kustomize makes of ``kubernetes/PARTS[0]`` with the other parts as components."""
    try:
        words = [tool("kustomize"), "build"]
    except pytest.skip.Exception:
        words = [tool("kubectl"), "kustomize"]
    if len(parts) == 1:
        return _output(*words, str(KUBERNETES / parts[0]))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        path = {part: os.path.relpath(KUBERNETES / part, folder) for part in parts}
        overlay = {"resources": [path[parts[0]]], "components": [path[part] for part in parts[1:]]}
        (folder / "kustomization.yaml").write_text(json.dumps(overlay))
        return _output(*words, made)


def manifests(*parts: str) -> dict[str, Manifest]:
    """Return the manifests of a rendering by their kinds, of which there is one each."""
    documents = list(yaml.safe_load_all(rendered(*parts)))
    found = {each["kind"]: each for each in documents}
    assert len(found) == len(documents)
    return found


def _output(*words: str) -> str:
    ended = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def versions() -> list[str]:
    """Return the versions of Kubernetes of which there are schemas, oldest first."""
    names = {path.name.removeprefix("v").partition("-")[0] for path in _SCHEMAS.iterdir()}
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])


_SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"


def validate(texts: Mapping[str, str], version: str, folder: Path) -> dict[str, list[Manifest]]:
    """
    Return what kubeconform says of each manifest in *texts*, in a cluster of *version*.

    The schemas of Kubernetes come with kubernetes-validate, those of the Prometheus operator from
    build.sh, and of the stores of secrets there are some of our own.
    """
    kubeconform = tool("kubeconform")
    if not (BUILT / "crds").is_dir():
        pytest.skip("there are no schemas of the Prometheus operator: see build.sh")
    schemas, read = folder / "schemas", folder / "read"
    if not schemas.exists():
        schemas.mkdir()
        read.mkdir()
        for path in (BUILT / "crds").glob("*.yaml"):
            _write_schema(yaml.safe_load(path.read_text("utf-8")), schemas)
    found = re.findall(r"^kind: (\w+)", "\n".join(texts.values()), re.MULTILINE)
    _write_schemas(version, frozenset(each.lower() for each in found), schemas / version)
    for name, text in texts.items():
        (read / f"{name.replace('/', '-')}.yaml").write_text(text)
    places = (
        f"{schemas}/{version}/{_KIND}{{{{.KindSuffix}}}}.json",
        f"{schemas}/{_KIND}.json",
        f"{Path(__file__).parent}/schemas/{_KIND}.json",
    )
    words = [word for place in places for word in ("-schema-location", place)]
    ended = subprocess.run(
        [kubeconform, "-strict", "-verbose", "-output", "json", *words, str(read)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    said: dict[str, list[Manifest]] = {name: [] for name in texts}
    names = {f"{read}/{name.replace('/', '-')}.yaml": name for name in texts}
    for each in json.loads(ended.stdout)["resources"]:
        said[names[each["filename"]]].append(each)
    return said


_KIND = "{{.ResourceKind}}"


def _write_schemas(version: str, kinds: frozenset[str], folder: Path) -> None:
    """
    Write the schemas of these kinds, as files that need no other place.

    They refer to definitions by the address of a site; what of these is needed is put into each.
    """
    folder.mkdir(exist_ok=True)
    source = _SCHEMAS / f"v{version}-local-strict"
    definitions = json.loads((source / "_definitions.json").read_text("utf-8"))["$defs"]
    for path in source.iterdir():
        if path.name.partition("-")[0] not in kinds:
            continue
        text = path.read_text("utf-8")
        needed: dict[str, Any] = {}
        new = set(_REFERENCE.findall(text))
        while new:
            needed |= {name: definitions[name] for name in new}
            new = set(_REFERENCE.findall(json.dumps(needed))) - needed.keys()
        schema = json.loads(text) | {"$defs": needed}
        del schema["$id"]
        whole = json.dumps(schema).replace("/api/_definitions.json#/", "#/")
        (folder / path.name).write_text(whole)


_REFERENCE = re.compile(r'"(?:/api/_definitions\.json)?#/\$defs/([^"]+)"')


def _write_schema(definition: Manifest, folder: Path) -> None:
    """Write the schema of a custom resource as kubeconform reads it: unknown keys are errors."""
    kind = definition["spec"]["names"]["kind"].lower()
    (version,) = [each for each in definition["spec"]["versions"] if each["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    for each in _objects(schema):
        if not each.get("x-kubernetes-preserve-unknown-fields"):
            each.setdefault("additionalProperties", False)
    (folder / f"{kind}.json").write_text(json.dumps(schema))


def _objects(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if "properties" in schema and isinstance(schema["properties"], dict):
            yield schema
        for each in schema.values():
            yield from _objects(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _objects(each)
