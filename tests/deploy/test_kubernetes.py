"""Every manifest fits its schema, and what the cluster is promised holds."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator import v1 as operator

from service.settings import CONFIG_VARIABLE, Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
OLDEST, NEWEST = "1.30", "1.37"
CUSTOM = {"ServiceMonitor": operator.ServiceMonitor, "PrometheusRule": operator.PrometheusRule}
OVERLAYS = ("base", "overlays/production", "overlays/gpu", "overlays/pacs")
NOT_MANIFESTS = ("kustomization.yaml", ".patch.yaml", ".values.yaml")


def manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every manifest that is no patch."""
    for path in sorted(FOLDER.rglob("*.yaml")):
        if not path.name.endswith(NOT_MANIFESTS):
            for document in yaml.safe_load_all(path.read_text()):
                yield str(path.relative_to(FOLDER)), document


def rendered(overlay: str) -> list[dict[str, Any]]:
    """What ``kubectl apply -k`` would send."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        # where all must run, a check that did not is a failure
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "kubectl is not installed, so nothing renders overlays here"
        )
    found = subprocess.run(
        [kubectl, "kustomize", str(FOLDER / overlay)], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    return list(yaml.safe_load_all(found.stdout))


def check(manifest: dict[str, Any]) -> None:
    """Hold it against its schema; an unknown field is a mistake."""
    kind = manifest["kind"]
    if kind == "InferenceService":
        check_predictor(manifest)
    elif kind in CUSTOM:
        model = CUSTOM[kind].model_validate(manifest)
        kept = model.model_dump(by_alias=True, exclude_none=True, mode="json")
        assert kept == manifest, f"{kind} has fields that the operator does not know"
    else:
        for version in (OLDEST, NEWEST):
            kubernetes_validate.validate(manifest, version, strict=True)


def check_predictor(manifest: dict[str, Any]) -> None:
    """KServe's predictor is a PodSpec with its scaling beside it."""
    spec = dict(manifest["spec"]["predictor"])
    for field in ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout"):
        spec.pop(field)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": spec}
    kubernetes_validate.validate(pod, NEWEST, strict=True)


@pytest.mark.parametrize(("path", "manifest"), list(manifests()), ids=lambda value: str(value)[:60])
def test_it_fits_its_schema(path: str, manifest: dict[str, Any]) -> None:
    check(manifest)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_renders_fits(overlay: str) -> None:
    for manifest in rendered(overlay):
        check(manifest)


def test_a_misspelt_field_is_found() -> None:
    deployment = next(m for _, m in manifests() if m["kind"] == "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 60
    with pytest.raises(kubernetes_validate.ValidationError):
        check(deployment)
    monitor = next(m for _, m in manifests() if m["kind"] == "ServiceMonitor")
    monitor["spec"]["endpoints"][0]["intervall"] = "15s"
    with pytest.raises(AssertionError):
        check(monitor)


def pods() -> list[tuple[str, dict[str, Any]]]:
    """Every pod specification that is written out whole."""
    found = []
    for path, manifest in manifests():
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            found.append((path, manifest["spec"]["template"]["spec"]))
        elif manifest["kind"] == "InferenceService":
            found.append((path, manifest["spec"]["predictor"]))
    return found


@pytest.mark.parametrize(("path", "pod"), pods(), ids=lambda value: str(value)[:40])
def test_a_pod_is_restricted_and_outlives_its_drain(path: str, pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    pause = 5 if "lifecycle" in container else 0
    drain = float(environment["LAZARET_DRAIN_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > pause + drain + 5
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"  # a cold engine is alive
    assert "memory" in container["resources"]["limits"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    kept = {"data"} if path.endswith("statefulset.yaml") else set()  # by its claim template
    assert mounted == {volume["name"] for volume in pod["volumes"]} | kept


def test_secrets_come_from_a_secret_that_is_not_here() -> None:
    assert not any(manifest["kind"] == "Secret" for _, manifest in manifests())


def test_gpu_pods_land_on_gpus() -> None:
    (deployment,) = [m for m in rendered("overlays/gpu") if m["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"].endswith("-gpu")
    assert {"name": "LAZARET_PROVIDER", "value": "cuda"} in container["env"]
    assert "replicas" not in deployment["spec"]  # the autoscaler's


def test_the_network_policy_names_its_neighbours() -> None:
    (policy,) = [m for m in rendered("overlays/production") if m["kind"] == "NetworkPolicy"]
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    peers = [peer for rule in policy["spec"]["egress"] for peer in rule["to"]]
    assert all("podSelector" in peer for peer in peers)


def test_one_name_selects_the_pods_everywhere() -> None:
    name = {"app.kubernetes.io/name": "lazaret"}
    found = {m["kind"]: m for m in rendered("overlays/production")}
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == name
    assert found["Deployment"]["spec"]["template"]["metadata"]["labels"] == name
    assert found["Service"]["spec"]["selector"] == name
    assert name.items() <= found["Service"]["metadata"]["labels"].items()
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == name
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == name
    monitor = found["ServiceMonitor"]["spec"]
    (part,) = monitor["selector"]["matchLabels"].items()
    assert part in found["Service"]["metadata"]["labels"].items()
    assert found["Service"]["metadata"]["labels"][monitor["jobLabel"]] == "lazaret"  # as rules say
    scaled = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", "lazaret")


def test_received_instances_outlive_their_pod() -> None:
    found = rendered("overlays/pacs")
    (node,) = [m for m in found if m["kind"] == "StatefulSet"]
    assert node["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    (container,) = node["spec"]["template"]["spec"]["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    (claim,) = node["spec"]["volumeClaimTemplates"]
    places = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert environment["LAZARET_SPOOL"].startswith(places[claim["metadata"]["name"]])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["dicom"] == int(environment["LAZARET_DICOM_PORT"])
    (service,) = [
        m for m in found if m["kind"] == "Service" and m["metadata"]["name"] == "lazaret-dicom"
    ]
    assert service["metadata"]["labels"]["app.kubernetes.io/part-of"] == "lazaret"
    assert set(environment) <= {f"LAZARET_{name.upper()}" for name in Settings.model_fields} | {
        CONFIG_VARIABLE
    }
