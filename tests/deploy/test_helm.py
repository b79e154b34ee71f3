"""The Helm values against the chart's schema, and against the programs that read what the chart makes of them.

The chart is not in the repository and helm is not on the test machine, so templates are not rendered here. Held are:
the keys, against the table below; the run launcher's part, by dagster-k8s's own reader; the instance's part, by
Dagster's; the manifests beside the chart, by the Kubernetes client's models. With DAGSTER_CHART_SCHEMA naming a
chart's values.schema.json, the values are held against it too.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.instance_files import instance_errors

HELM = Path(__file__).parents[2] / "deploy" / "helm"

# The chart's models, helm/dagster/schema/schema/charts/dagster{,_user_deployments}/subschema/*.py and utils/kubernetes.py
# of dagster-io/dagster: the keys that we use, of sections that forbid others. `...` takes what Kubernetes takes.
CHART: dict[str, Any] = {
    "global": {"postgresqlSecretName"},
    "generatePostgresqlPasswordSecret": ...,
    "postgresql": {
        "enabled",
        "postgresqlHost",
        "postgresqlUsername",
        "postgresqlDatabase",
        "postgresqlScheme",
        "service",
    },
    "dagsterWebserver": {"image", "enableReadOnly", "service", "volumes", "volumeMounts", "resources", "envSecrets"},
    "dagsterDaemon": {
        "enabled",
        "image",
        "envSecrets",
        "volumes",
        "volumeMounts",
        "resources",
        "runMonitoring",
        "runRetries",
    },
    "concurrency": {"enabled", "pools", "runs"},
    "runLauncher": {"type", "config"},
    "dagster-user-deployments": {"enabled", "enableSubchart", "deployments"},
    "computeLogManager": {"type", "config"},
    "retention": {"enabled", "sensor"},
    "telemetry": {"enabled"},
}
DEPLOYMENT = {"name", "image", "dagsterApiGrpcArgs", "port", "includeConfigInLaunchedRuns", "env", "envSecrets", "volumes",
              "volumeMounts", "podSecurityContext", "securityContext"}  # fmt: skip
LAUNCHER = {"imagePullPolicy", "loadInclusterConfig", "envSecrets", "failPodOnRunFailure", "runK8sConfig"}


def snake(value: Any) -> Any:
    """Keys as dagster.yaml spells them; the chart's templates do this one by one."""
    if isinstance(value, dict):
        return {re.sub(r"(?<=[a-z])(?=[A-Z0-9])", "_", key).lower(): snake(each) for key, each in value.items()}
    return value


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HELM / "values.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def launcher(values: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = values["runLauncher"]["config"]["k8sRunLauncher"]
    return found


def test_every_key_is_one_of_the_charts(values: dict[str, Any], launcher: dict[str, Any]) -> None:
    assert set(values) <= set(CHART)
    for section, known in CHART.items():
        if known is not ...:
            assert set(values[section]) <= known, section
    assert all(set(each) <= DEPLOYMENT for each in values["dagster-user-deployments"]["deployments"])
    assert set(launcher) <= LAUNCHER


def test_the_values_fit_the_charts_own_schema(values: dict[str, Any]) -> None:
    path = os.environ.get("DAGSTER_CHART_SCHEMA")
    if not path:
        pytest.skip("DAGSTER_CHART_SCHEMA does not name a values.schema.json of Dagster's chart")
    import jsonschema

    schema = json.loads(Path(path).read_text())
    schema.pop("required", None)  # the chart's own values.yaml supplies what ours leave out
    jsonschema.Draft202012Validator(without_remote(schema)).validate(values)


def without_remote(value: Any) -> Any:
    """The schema without references to other hosts (Kubernetes' definitions), and without required defaults."""
    if isinstance(value, dict):
        kept = {k: without_remote(v) for k, v in value.items() if not (k == "$ref" and str(v).startswith("http"))}
        return {k: v for k, v in kept.items() if not (k == "required" and isinstance(v, list))}
    return [without_remote(each) for each in value] if isinstance(value, list) else value


def test_dagster_reads_what_becomes_of_the_instances_part(values: dict[str, Any]) -> None:
    daemon, kept = values["dagsterDaemon"], values["retention"]
    config = {
        "run_monitoring": snake(daemon["runMonitoring"]),
        "run_retries": snake(daemon["runRetries"]),
        "concurrency": snake({key: value for key, value in values["concurrency"].items() if key != "enabled"}),
        "retention": snake({"sensor": kept["sensor"]}),
        "telemetry": values["telemetry"],
        "compute_logs": values["computeLogManager"]["config"]["customComputeLogManager"],
    }
    assert instance_errors(config) == []
    assert instance_errors({**config, "concurrency": {"pool": {}}})


def test_dagster_k8s_reads_the_run_launchers_part(launcher: dict[str, Any]) -> None:
    k8s = pytest.importorskip("dagster_k8s.job", reason="pip install dagster-k8s")
    raw = snake({"runK8sConfig": {key: {} for key in launcher["runK8sConfig"]}})["run_k8s_config"]
    raw = dict(zip(raw, launcher["runK8sConfig"].values(), strict=True))
    config = k8s.UserDefinedDagsterK8sConfig.from_dict(raw)
    assert config.container_config["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert config.job_spec_config["backoff_limit"] == 0
    assert config.pod_spec_config["tolerations"][0]["effect"] == "NoSchedule"
    with pytest.raises(Exception, match="nodeSelectr"):
        k8s.UserDefinedDagsterK8sConfig.from_dict({"pod_spec_config": {"nodeSelectr": {}}})


def test_dagster_k8s_reads_the_documented_tag_for_lines_without_a_gpu() -> None:
    k8s = pytest.importorskip("dagster_k8s.job", reason="pip install dagster-k8s")
    page = (HELM.parents[1] / "docs" / "deployment.md").read_text(encoding="utf-8")
    block = page.split("```yaml\ndagster-k8s/config:")[1].split("```")[0]
    config = k8s.UserDefinedDagsterK8sConfig.from_dict(yaml.safe_load(block))
    assert "nvidia.com/gpu" not in str(config.container_config)
    assert config.merge_behavior.value == "SHALLOW"
    assert config.pod_spec_config["node_selector"]


def test_runs_get_the_gpu_nodes_and_what_the_code_location_has(
    values: dict[str, Any], launcher: dict[str, Any]
) -> None:
    pod = launcher["runK8sConfig"]["podSpecConfig"]
    assert pod["nodeSelector"]
    assert pod["tolerations"]
    [location] = values["dagster-user-deployments"]["deployments"]
    assert location["includeConfigInLaunchedRuns"] == {"enabled": True}
    assert location["securityContext"]["allowPrivilegeEscalation"] is False
    mounts = {mount["name"] for mount in location["volumeMounts"]}
    assert mounts == {volume["name"] for volume in location["volumes"]}


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield from strings(each, f"{path}.{key}")
    elif isinstance(value, list):
        for each in value:
            yield from strings(each, path)
    elif isinstance(value, str):
        yield path, value


def test_secrets_are_named_and_not_written(values: dict[str, Any]) -> None:
    for path, value in strings(values):
        assert not re.search(r"password|secret_?key|api_?keys?$", path, re.I), (path, value)
        assert not re.search(r"://[^/@]+:[^/@]+@", value), path


KINDS = {"PersistentVolumeClaim": "V1PersistentVolumeClaim", "Deployment": "V1Deployment", "Service": "V1Service"}


def test_the_manifests_beside_the_chart_are_kubernetes_own_objects() -> None:
    pytest.importorskip("dagster_k8s")
    import kubernetes.client
    from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict

    documents = list(yaml.safe_load_all((HELM / "forge.yaml").read_text()))
    assert [each["kind"] for each in documents] == list(KINDS)
    for document in documents:
        model = getattr(kubernetes.client, KINDS[document["kind"]])
        made = k8s_model_from_dict(model, k8s_snake_case_dict(model, document))
        assert made.metadata.name
    claim, rest, service = documents
    pod = rest["spec"]["template"]
    assert pod["metadata"]["labels"].items() >= service["spec"]["selector"].items()
    assert {"persistentVolumeClaim": {"claimName": claim["metadata"]["name"]}, "name": "forge-home"} in pod["spec"][
        "volumes"
    ]
    wrong = {**service, "spec": {**service["spec"], "selectr": {}}}
    with pytest.raises(Exception, match="selectr"):
        k8s_snake_case_dict(kubernetes.client.V1Service, wrong)
