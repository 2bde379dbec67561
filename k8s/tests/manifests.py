"""What kustomize builds, and what is to be known of watchmark's own sources."""

import functools
import os
import pathlib
import re
import subprocess

import yaml

ROOT = pathlib.Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
SAMPLES = "tests/samples"
# How they are called where they are built.
BUILT = [f"overlays/{name}" for name in OVERLAYS] + [SAMPLES, f"{SAMPLES}-pre-1.29"]


def kustomize(directory):
    command = [*os.environ["KUSTOMIZE"].split(), str(K8S / directory)]
    return subprocess.run(command, capture_output=True, text=True)


@functools.cache
def _text(directory):
    done = kustomize(directory)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(directory):
    """The objects of a directory below k8s/; a copy of one's own."""
    return [it for it in yaml.safe_load_all(_text(directory)) if it]


def find(objects, kind, name):
    found = [it for it in objects if it["kind"] == kind and it["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def workloads(objects):
    return [it for it in objects if "template" in it.get("spec", {})]


def pod_of(workload):
    return workload["spec"]["template"]["spec"]


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]


def watchmark_of(pod):
    found = [it for it in containers(pod) if it["name"] == "watchmark"]
    assert len(found) <= 1
    return found[0] if found else None


def metrics():
    """Labels by name, of the table in docs/operate.md, which a test compares with the catalog."""
    rows = re.findall(r"^\| `((?:watchmark|process)_\w+)` \| (.*?) \|", (ROOT / "docs/operate.md").read_text(), re.M)
    assert len(rows) > 30, rows
    return {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}


def variables():
    """Every environment variable that watchmark reads."""
    found = set()
    for path in (ROOT / "src").rglob("*.rs"):
        found.update(re.findall(r'env = "(WATCHMARK_\w+)"', path.read_text()))
    assert len(found) > 20, found
    return found
