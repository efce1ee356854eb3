"""What deploy/ holds for Kubernetes and ECS, as the test of each reads it."""

import functools

import yaml

from serving.app import create_app
from serving.routes.operations import operations
from serving.settings import ServingSettings, variable_of
from tests.deploy.tools import ROOT, run_tool

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu")
# Beside the settings, what the service's libraries read.
_MLFLOW = {"MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
VARIABLES = {variable_of(name) for name in ServingSettings.model_fields} | _MLFLOW


@functools.cache
def rendered(folder):
    """The text that `kubectl apply -k` sends."""
    done = run_tool("kubectl", "kustomize", KUBERNETES / folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def resources(folder):
    return list(yaml.safe_load_all(rendered(folder)))


def only(folder, kind):
    """The one resource of a kind."""
    [found] = [resource for resource in resources(folder) if resource["kind"] == kind]
    return found


def service_pod(overlay):
    """Of the deployment: the pod's template, its specification, and the service's container."""
    template = only(overlay, "Deployment")["spec"]["template"]
    [container] = template["spec"]["containers"]
    return template, template["spec"], container


def settings_of(variables):
    """The settings that a container's variables make; those of files are not read."""
    by_field = {variable_of(name): name for name in ServingSettings.model_fields}
    return ServingSettings(**{by_field[name]: value for name, value in variables.items() if name in by_field})


@functools.cache
def state_paths():
    """What of the service's state can be asked for over HTTP."""
    routes = operations(create_app(ServingSettings(model="bundles/none")).service).routes
    return {route.path for route in routes if hasattr(route, "path")}
