"""The Kubernetes chart: rendered by Helm, valid for Kubernetes, hardened to the last container."""

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
import yaml

import binet
from tests.containers.files import CHART

helm: Any = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
kubernetes: Any = pytest.importorskip("kubernetes_validate", reason="it is not installed")

#: The oldest that the chart names, and the newest that the schemas know.
VERSIONS = ("1.28", "1.34")
SCALED: dict[str, Any] = yaml.safe_load((CHART / "values-scaled.yaml").read_text())
VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "scaled": SCALED,
    "gpu": {"gpu": {"enabled": True, "count": 2}, "image": {"tag": "cuda"}},
    "everything": {
        "tools": {"enabled": True},
        "archive": {"claim": "archive"},
        "weights": {"claim": "weights", "path": "final"},
        "volume": {"storageClass": "fast", "size": "1Ti"},
        "service": {"requireReason": True, "fast": True, "type": "LoadBalancer", "port": 80},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "podAnnotations": {"prometheus.io/scrape": "true"},
        "image": {"pullSecrets": [{"name": "registry"}], "repository": "example.org/binet"},
    },
    "no network policy": {"networkPolicy": {"enabled": False}},
}


@pytest.fixture(scope="module")
def chart() -> Iterator[Any]:
    with helm.Chart.load(str(CHART)) as loaded:
        yield loaded


def manifests(chart: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    rendered = chart.render(values, name="demo", namespace="prod")
    return [
        manifest
        for path, text in rendered.items()
        if path.endswith(".yaml")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]


def pods(chart: Any, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Specs of the pods, by the name of their deployment."""
    return {
        manifest["metadata"]["name"]: manifest["spec"]["template"]["spec"]
        for manifest in manifests(chart, values)
        if manifest["kind"] == "Deployment"
    }


def test_helm_lints_it() -> None:
    report = helm.lint(str(CHART), strict=True)
    assert not report["errors"]
    assert all(message["severity"] <= 1 for message in report["messages"]), report


@pytest.mark.parametrize("name", VALUES)
def test_manifests_are_valid(chart: Any, name: str) -> None:
    chart.validate_schema(VALUES[name])
    made = manifests(chart, VALUES[name])
    assert len({(one["kind"], one["metadata"]["name"]) for one in made}) == len(made)
    for manifest in made:
        for version in VERSIONS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                kubernetes.validate(manifest, version, strict=True)


@pytest.mark.parametrize("name", VALUES)
def test_containers_can_do_little(chart: Any, name: str) -> None:
    for deployment, pod in pods(chart, VALUES[name]).items():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(pod)
        assert not any("hostPath" in volume for volume in pod["volumes"])
        for container in pod["containers"]:
            allowed = container["securityContext"]
            assert allowed["readOnlyRootFilesystem"] is True
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in allowed
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), deployment
            assert {"livenessProbe", "readinessProbe"} <= set(container), deployment
            assert not container["image"].endswith(":latest")
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts == {volume["name"] for volume in pod["volumes"]}
            assert all("valueFrom" not in one for one in container["env"])


def test_selectors_choose_their_own_pods(chart: Any) -> None:
    made = manifests(chart, SCALED)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in made if
              one["kind"] == "Deployment"]  # fmt: skip

    def chosen(selector: dict[str, str]) -> int:
        return sum(selector.items() <= one.items() for one in labels)

    for one in made:
        spec = one.get("spec", {})
        if one["kind"] == "Service":
            assert chosen(spec["selector"]) == 1
        if one["kind"] == "Deployment":
            assert chosen(spec["selector"]["matchLabels"]) == 1
        if one["kind"] == "NetworkPolicy":
            assert chosen(spec["podSelector"]["matchLabels"]) == len(labels)
    budgets = [one for one in made if one["kind"] == "PodDisruptionBudget"]
    assert [chosen(one["spec"]["selector"]["matchLabels"]) for one in budgets] == [2, 1]


def test_the_network_policy_closes_what_nobody_needs(chart: Any) -> None:
    def policy(values: dict[str, Any]) -> dict[str, Any]:
        (one,) = [m for m in manifests(chart, values) if m["kind"] == "NetworkPolicy"]
        spec: dict[str, Any] = one["spec"]
        return spec

    alone = policy({"networkPolicy": {"toPorts": []}})
    assert alone["policyTypes"] == ["Ingress", "Egress"]
    (names,) = alone["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    (asking,) = alone["ingress"]
    assert [port["port"] for port in asking["ports"]] == [8000]
    scaled = policy(SCALED)
    labels = scaled["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"]
    assert labels == {"kubernetes.io/metadata.name": "ingress"}
    assert [port["port"] for port in scaled["egress"][-1]["ports"]] == [5432, 19530]


def test_gpus_are_asked_for_where_the_network_runs(chart: Any) -> None:
    made = pods(chart, SCALED)
    gpus = {
        name: pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for name, pod in made.items()
    }
    assert gpus == {
        "demo-binet": 1,
        "demo-binet-tools": None,
        "demo-binet-ray-head": None,
        "demo-binet-ray-worker": 1,
    }
    assert "cuda" in made["demo-binet"]["containers"][0]["args"]
    two = pods(chart, VALUES["gpu"])["demo-binet"]["containers"][0]
    assert two["resources"]["limits"]["nvidia.com/gpu"] == 2


def test_the_password_is_a_file(chart: Any) -> None:
    for pod in pods(chart, SCALED).values():
        (secret,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
        assert secret == {"secretName": "binet-postgres", "defaultMode": 0o440}
        (container,) = pod["containers"]
        values = {one["name"]: one["value"] for one in container["env"]}
        assert values["BINET_DATABASE_PASSWORD_FILE"] == "/run/secrets/binet/password"
        (mount,) = [one for one in container["volumeMounts"] if one["name"] == "password"]
        assert mount["mountPath"] == "/run/secrets/binet"


@pytest.mark.parametrize("name", VALUES)
def test_the_service_understands_its_arguments(chart: Any, name: str) -> None:
    (container,) = pods(chart, VALUES[name])["demo-binet"]["containers"]
    app: Any = typer.main.get_command(binet.app)
    assert container["args"][0] == "serve"
    context = app.commands["serve"].make_context("serve", list(container["args"][1:]))
    assert context.params["host"] == "0.0.0.0"
    assert str(context.params["port"]) == str(container["ports"][0]["containerPort"])


POSTGRES = "postgresql+psycopg://binet@postgres/binet"


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": 0},
        {"replicas": 2},
        {"replicas": "many"},
        {"unknown": 1},
        {"image": {"tag": ""}},
        {"image": {"repository": "binet", "tag": "cpu", "digest": "sha256:0"}},
        {"gallery": {"url": "sqlite:////elsewhere/gallery.db"}},
        {"gallery": {"url": "postgresql+psycopg://binet:password@postgres/binet"}},
        {"gallery": {"url": POSTGRES}},
        {"gallery": {"index": "http://milvus:19530"}},
        {"gallery": {"passwordSecret": {"name": "unused"}}},
        {"ray": {"enabled": True}},
        {"ray": {"workers": -1}},
        {"gpu": {"count": 0}},
        {"service": {"rate": "fast"}},
        {"service": {"port": 70000}},
        {"volume": {"size": "much"}},
        {"volume": {"accessMode": "ReadOnlyMany"}},
        {"resources": {"requests": {"memory": "lots"}}},
        {"networkPolicy": {"toPorts": ["postgres"]}},
        {"weights": {"path": "../elsewhere"}},
        {"replicas": 2, "gallery": {"url": POSTGRES, "passwordSecret": {"name": "s"}}},
    ],
    ids=str,
)
def test_wrong_values_are_refused(chart: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmError):
        chart.validate_schema(chart.merge_values(wrong))
