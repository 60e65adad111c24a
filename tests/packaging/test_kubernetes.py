"""``kubernetes/`` as a cluster would get it: rendered, valid, restricted, and configured."""

import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from tests.support.manifests import (
    KUBERNETES,
    ROOT,
    STORES,
    Manifest,
    manifests,
    rendered,
    tool,
    validate,
    versions,
)

from auditrelay import __version__, config
from auditrelay.config.model import Config
from auditrelay.status.access import PROBES
from auditrelay.telemetry.scrubber import Scrubber

pytestmark = pytest.mark.process

PLAIN = (("one",), ("replicas",), ("example",))
WITH_SECRETS = tuple((way, f"secrets/{store}") for way in ("one", "replicas") for store in STORES)
RENDERINGS = (*PLAIN, *WITH_SECRETS, ("replicas", "monitoring"))
SIDECAR = KUBERNETES / "sidecar.yaml"

each_way = pytest.mark.parametrize("way", ["one", "replicas"])
each_store = pytest.mark.parametrize("store", STORES)


def templates() -> Iterator[tuple[str, Manifest]]:
    """Yield each pod template, with where it is from."""
    for parts in RENDERINGS:
        yield "+".join(parts), manifests(*parts)["Deployment"]["spec"]["template"]
    yield SIDECAR.name, yaml.safe_load(SIDECAR.read_text("utf-8"))["spec"]["template"]


def ours(template: Manifest) -> Manifest:
    """Return the container that runs auditrelay."""
    pod = template["spec"]
    containers: list[Manifest] = [*pod["containers"], *pod.get("initContainers", ())]
    (found,) = [each for each in containers if each["name"] == "auditrelay"]
    return found


# --- what a cluster says of them ------------------------------------------------------------------


def test_kubernetes_accepts_all_of_it_in_the_oldest_version_and_in_the_newest(
    tmp_path: Path,
) -> None:
    texts = {"+".join(parts): rendered(*parts) for parts in RENDERINGS}
    texts["sidecar"] = SIDECAR.read_text("utf-8")
    # 1.29: the first one that has what the sidecar needs.
    for version in ("1.29.0", versions()[-1]):
        for name, said in validate(texts, version, tmp_path).items():
            assert len(said) == len(list(yaml.safe_load_all(texts[name])))
            for each in said:
                assert each["status"] == "statusValid", (version, name, each)


MISTAKES = {
    "a key in another spelling": (("one",), "readOnlyRootFilesystem:", "readonlyRootFilesystem:"),
    "a word for a number": (("one",), "periodSeconds: 30", "periodSeconds: often"),
    "a list for a number": (
        ("replicas",),
        "maxUnavailable: 1\n  selector",
        "maxUnavailable: []\n  selector",
    ),
    "a monitor of nothing": (("replicas", "monitoring"), "endpoints:", "endpoint:"),
    "an alert without a question": (
        ("replicas", "monitoring"),
        "expr: absent",
        "expression: absent",
    ),
    "a secret without a name": (("one", "secrets/external-secrets"), "secretKey:", "secret:"),
    "a class of no provider": (("one", "secrets/csi-gcp"), "provider: gcp", "providers: gcp"),
}


def test_a_mistake_would_be_found(tmp_path: Path) -> None:
    texts = {}
    for name, (parts, right, wrong) in MISTAKES.items():
        text = rendered(*parts)
        assert right in text, name
        texts[name] = text.replace(right, wrong, 1)
    for name, said in validate(texts, versions()[-1], tmp_path).items():
        found = [each["status"] for each in said if each["status"] != "statusValid"]
        assert found == ["statusInvalid"], (name, said)


def restricted(template: Manifest) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool("restricted")],
        input=json.dumps(template),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_every_pod_of_ours_is_restricted() -> None:
    for name, template in templates():
        if name != SIDECAR.name:  # its server is not ours
            ended = restricted(template)
            assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", ""), name


def test_a_pod_that_is_not_restricted_would_be_found() -> None:
    template = json.loads(json.dumps(manifests("one")["Deployment"]["spec"]["template"]))
    del template["spec"]["securityContext"]["seccompProfile"]
    ended = restricted(template)
    assert ended.returncode == 1
    assert "seccompProfile" in ended.stdout


# --- the pod --------------------------------------------------------------------------------------


def test_a_pod_runs_this_version_with_no_right_that_it_does_not_need() -> None:
    for name, template in templates():
        container, pod = ours(template), template["spec"]
        image = "registry.example.com/security/auditrelay" if name == "example" else "auditrelay"
        assert container["image"] == f"{image}:{__version__}", name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name
        assert pod["terminationGracePeriodSeconds"] >= 15, name
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert {**pod["securityContext"], **security}["runAsNonRoot"] is True, name
        assert "cpu" not in container["resources"]["limits"], "who is throttled is taken for dead"


def test_the_probes_of_a_pod_ask_for_paths_that_there_are() -> None:
    for name, template in templates():
        probes = {key: each for key, each in ours(template).items() if key.endswith("Probe")}
        paths = {key: probe["httpGet"]["path"] for key, probe in probes.items()}
        assert set(paths.values()) <= PROBES, name
        # A restart helps a stuck loop, and nothing else.
        assert paths["livenessProbe"] == paths["startupProbe"] == "/healthz", name


def test_one_instance_is_replaced_before_the_next_one_starts() -> None:
    found = manifests("one")
    deployment = found["Deployment"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")
    assert ours(deployment["template"])["readinessProbe"]["httpGet"]["path"] == "/readyz"
    volumes = {each["name"]: each for each in deployment["template"]["spec"]["volumes"]}
    claim = volumes["state"]["persistentVolumeClaim"]["claimName"]
    assert found["PersistentVolumeClaim"]["metadata"]["name"] == claim
    # It would hold up every drain for ever.
    assert "PodDisruptionBudget" not in found


def test_several_replicas_are_rolled_out_one_by_one_and_never_by_what_a_vendor_says() -> None:
    found = manifests("replicas")
    deployment = found["Deployment"]["spec"]
    assert deployment["replicas"] == 3
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 1}
    assert found["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    pod = deployment["template"]["spec"]
    container = ours(deployment["template"])
    assert container["readinessProbe"]["httpGet"]["path"] == "/joined"
    names = {each["name"]: each for each in container["env"]}
    assert names["AUDITRELAY_REPLICA"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    volumes = {each["name"]: each for each in pod["volumes"]}
    (seat,) = [each for each in container["volumeMounts"] if not each.get("readOnly")]
    assert "emptyDir" in volumes[seat["name"]]
    assert "PersistentVolumeClaim" not in found
    topologies = {each["topologyKey"] for each in pod["topologySpreadConstraints"]}
    assert topologies == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    labels = deployment["selector"]["matchLabels"]
    for spread in pod["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


# --- the configuration and its secrets ------------------------------------------------------------


def configured(way: str) -> str:
    """Return the configuration that the pod mounts; a changed one is rolled out by its name."""
    found = manifests(way)
    name = found["ConfigMap"]["metadata"]["name"]
    assert re.fullmatch(r"auditrelay-[a-z0-9]{10}", name)
    pod = found["Deployment"]["spec"]["template"]["spec"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["config"]["configMap"]["name"] == name
    text: str = found["ConfigMap"]["data"]["config.toml"]
    return text


def load(way: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(config, "scrubber", Scrubber())
    (folder / "store").write_text("postgresql://relay:a-pretend-secret@db1/auditrelay")
    (folder / "key").write_text("a-pretend-secret-for-a-peer")
    text = configured(way).replace("/run/secrets/auditrelay/store", f"{folder}/store")
    text = re.sub(r"/run/secrets/auditrelay/\w+", f"{folder}/key", text)
    path = folder / "config.toml"
    path.write_text(text)
    for file in folder.iterdir():
        file.chmod(0o600)
    return config.load(path, {"HOME": str(folder), "AUDITRELAY_REPLICA": "auditrelay-7d9f-x2x"})


@pytest.mark.parametrize("way", ["one", "replicas", "example"])
def test_the_configuration_is_read_without_a_problem(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = load(way, tmp_path, monkeypatch)
    assert read.warnings == ()
    assert (read.store is not None) == (way == "replicas")


def secret_files(way: str) -> set[str]:
    """Return the files that the configuration refers to."""
    return set(re.findall(r'= "\$\{file:/run/secrets/auditrelay/(\w+)\}"', configured(way))) - {
        "status_token"  # in a comment
    }


def brought(store: str, found: dict[str, Manifest]) -> set[str]:
    """Return the files that a component brings, by the words of its product."""
    if store == "external-secrets":
        return {each["secretKey"] for each in found["ExternalSecret"]["spec"]["data"]}
    if store == "vault-agent":
        prefix = "vault.hashicorp.com/agent-inject-secret-"
        annotations = found["Deployment"]["spec"]["template"]["metadata"]["annotations"]
        return {key.removeprefix(prefix) for key in annotations if key.startswith(prefix)}
    parameters = found["SecretProviderClass"]["spec"]["parameters"]
    if store == "csi-aws":
        (secret,) = yaml.safe_load(parameters["objects"])
        return {each["objectAlias"] for each in secret["jmesPath"]}
    if store == "csi-azure":
        each_text = yaml.safe_load(parameters["objects"])["array"]
        return {yaml.safe_load(text)["objectAlias"] for text in each_text}
    assert store == "csi-gcp"
    return {each["path"] for each in yaml.safe_load(parameters["secrets"])}


@each_store
def test_a_store_brings_each_file_that_the_configuration_names_to_where_it_looks(
    store: str,
) -> None:
    found = manifests("one", f"secrets/{store}")
    assert brought(store, found) == secret_files("one")
    template = found["Deployment"]["spec"]["template"]
    volumes = {each["name"]: each for each in template["spec"]["volumes"]}
    mounted = {each["mountPath"]: volumes[each["name"]] for each in ours(template)["volumeMounts"]}
    if store == "vault-agent":
        annotations = template["metadata"]["annotations"]
        assert annotations["vault.hashicorp.com/secret-volume-path"] == "/run/secrets/auditrelay"
        token = annotations["vault.hashicorp.com/agent-service-account-token-volume-name"]
        assert "serviceAccountToken" in volumes[token]["projected"]["sources"][0]
        assert token not in {each["name"] for each in ours(template)["volumeMounts"]}
        user = annotations["vault.hashicorp.com/agent-run-as-user"]
        assert template["spec"]["securityContext"]["runAsUser"] == int(user)
        for name in brought(store, found):
            # With a line end in front of it, or two behind, it would be refused.
            text = annotations[f"vault.hashicorp.com/agent-inject-template-{name}"]
            assert re.fullmatch(
                rf'\{{\{{- with secret "secret/data/auditrelay" -\}}\}}\n'
                rf"\{{\{{ \.Data\.data\.{name} \}}\}}\n\{{\{{- end -\}}\}}\n",
                text,
            )
        assert "/run/secrets/auditrelay" not in mounted
        return
    volume = mounted["/run/secrets/auditrelay"]
    if store == "external-secrets":
        assert volume["secret"]["secretName"] == found["ExternalSecret"]["spec"]["target"]["name"]
    else:
        assert "secret" not in volume
        name = volume["csi"]["volumeAttributes"]["secretProviderClass"]
        assert name == found["SecretProviderClass"]["metadata"]["name"]


# --- the network ----------------------------------------------------------------------------------


@each_way
def test_the_policy_lets_it_connect_to_what_the_configuration_names_and_prometheus_to_it(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = manifests(way)
    policy = found["NetworkPolicy"]["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    allowed = {port["port"] for rule in policy["egress"] for port in rule["ports"]}
    read = load(way, tmp_path, monkeypatch)
    urls = [
        getattr(each, "url", None) or getattr(each, "base_url", "") for each in read.sinks.values()
    ]
    needed = {urlsplit(str(url)).port or 443 for url in urls} | {53, 443}
    assert needed | ({5432} if way == "replicas" else set()) <= allowed
    status = found["Service"]["spec"]["ports"][0]
    (rule,) = policy["ingress"]
    assert [each["port"] for each in rule["ports"]] == [status["targetPort"]] == ["status"]
    assert {"name": "status", "containerPort": 9464} in ours(
        found["Deployment"]["spec"]["template"]
    )["ports"]


def test_no_address_at_which_a_cloud_gives_credentials_away_is_allowed() -> None:
    for rule in manifests("one")["NetworkPolicy"]["spec"]["egress"]:
        if {each["port"] for each in rule["ports"]} == {53}:
            continue
        blocks = {each["ipBlock"]["cidr"]: each["ipBlock"]["except"] for each in rule["to"]}
        assert "169.254.0.0/16" in blocks["0.0.0.0/0"]
        assert "fd00:ec2::/32" in blocks["::/0"]


# --- monitoring -----------------------------------------------------------------------------------


def test_the_rules_for_the_operator_are_the_alerts() -> None:
    text = (KUBERNETES / "monitoring" / "prometheusrule.yaml").read_text("utf-8")
    alerts = yaml.safe_load((ROOT / "monitoring" / "alerts.yaml").read_text("utf-8"))
    assert yaml.safe_load(text)["spec"] == alerts
    generated = runpy.run_path(str(KUBERNETES / "rules.py"))["resource"]
    assert text == generated(), "make generate"


def test_the_operator_scrapes_the_service_and_nothing_else_does() -> None:
    found = manifests("replicas", "monitoring")
    monitor, service = found["ServiceMonitor"]["spec"], found["Service"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {each["name"] for each in service["spec"]["ports"]}
    # The metrics must be there above all while a source or sink is held.
    assert service["spec"]["publishNotReadyAddresses"] is True
    template = found["Deployment"]["spec"]["template"]["metadata"]
    assert not [key for key in template.get("annotations", {}) if key.startswith("prometheus.io/")]
    assert template["labels"].items() >= service["spec"]["selector"].items()


# --- the overlay of a team ------------------------------------------------------------------------


def test_the_overlay_has_a_restricted_namespace_an_image_and_a_configuration_of_its_own(
    tmp_path: Path,
) -> None:
    found = manifests("example")
    labels = found.pop("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {each["metadata"]["namespace"] for each in found.values()} == {"auditrelay"}
    assert configured("example") == (KUBERNETES / "example" / "config.toml").read_text("utf-8")
    assert {"ServiceMonitor", "PrometheusRule"} <= found.keys()


# --- the tools ------------------------------------------------------------------------------------


def test_the_tools_cannot_be_had_without_go(tmp_path: Path) -> None:
    for name in ("bash", "dirname", "realpath", "mkdir"):
        (tmp_path / name).symlink_to(tool(name))
    script = ROOT / "packaging" / "kubernetes" / "build.sh"
    words = [shutil.which("bash") or "bash", str(script), str(tmp_path / "tools")]
    ended = subprocess.run(
        words, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stdout) == (69, "")
    assert ended.stderr == (
        "The manifests are checked by programs in Go, and there is no go on the PATH.\n"
    )
