"""Every overlay: objects that Kubernetes takes, pods that the restricted
standard admits, and watchmark where the label asks for it."""

import json
import os
import pathlib
import re
import shutil
import tempfile
import unittest

import jsonschema
import kubernetes_validate
import yaml

from manifests import (
    BUILT, K8S, ROOT, SAMPLES, build, containers, find, kustomize, pod_of, variables, watchmark_of, workloads,
)

# The oldest with native sidecars, one between, the newest known.
VERSIONS = ["1.29", "1.33", "1.37"]
OLD_VERSIONS = ["1.25", "1.28", "1.37"]
OPERATORS = "monitoring.coreos.com/v1"


def strict(schema):
    """The same schema, with what it does not name forbidden."""
    if isinstance(schema, list):
        return [strict(it) for it in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    if str(schema.get("pattern", "")).startswith("^(?i)"):
        # As Go has it, and Python has not.
        schema["pattern"] = "(?i)^" + schema["pattern"].removeprefix("^(?i)")
    if "properties" in schema and schema.get("type") == "object":
        schema.setdefault("additionalProperties", False)
    return schema


def operators_schema(kind):
    file = f"monitoring.coreos.com_{kind.lower()}s.yaml"
    path = pathlib.Path(os.environ["OPERATOR_DIR"], "example/prometheus-operator-crd", file)
    (version,) = yaml.safe_load(path.read_text())["spec"]["versions"]
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def validate(thing, version):
    if thing["apiVersion"] == OPERATORS:
        jsonschema.validate(thing, operators_schema(thing["kind"]))
    else:
        kubernetes_validate.validate(thing, version, strict=True)


class Schemas(unittest.TestCase):
    def test_every_object_is_valid_in_three_versions_of_kubernetes(self):
        for directory in BUILT:
            for version in OLD_VERSIONS if directory.endswith("pre-1.29") else VERSIONS:
                for thing in build(directory):
                    with self.subTest(directory, version=version, kind=thing["kind"]):
                        validate(thing, version)

    def test_an_object_that_is_wrong_is_not(self):
        objects = build("overlays/demo")
        for kind, name, path in [
            ("StatefulSet", "follower", ["spec", "template", "spec"]),
            ("PodMonitor", "watchmark", ["spec"]),
            ("PrometheusRule", "watchmark", ["spec", "groups", 0, "rules", 0]),
        ]:
            thing = find(objects, kind, name)
            validate(thing, VERSIONS[0])
            part = thing
            for step in path:
                part = part[step]
            part["initContainer"] = "a slip"
            with self.subTest(kind), self.assertRaises(jsonschema.ValidationError):
                validate(thing, VERSIONS[0])

    def test_a_native_sidecar_is_none_before_its_time(self):
        pod = pod_of(find(build("overlays/demo-pre-1.29"), "StatefulSet", "follower"))
        self.assertNotIn("initContainers", pod)
        self.assertTrue(all("restartPolicy" not in it for it in containers(pod)))


def refuse(pod):
    """Why the restricted Pod Security Standard, and we, would not admit it."""
    reasons = []
    for field in ["hostNetwork", "hostPID", "hostIPC"]:
        if pod.get(field):
            reasons.append(field)
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim",
                         "projected", "secret"}:
            reasons.append(f"volume {volume}")
    for container in containers(pod):
        name = container["name"]
        context = {**pod.get("securityContext", {}), **container.get("securityContext", {})}
        expected = {
            "privileged": None, "procMount": None, "allowPrivilegeEscalation": False, "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            # What the standard does not ask for.
            "readOnlyRootFilesystem": True,
        }
        reasons += [f"{name}: {key}" for key, value in expected.items() if context.get(key) != value]
        if not context.get("runAsUser"):
            reasons.append(f"{name}: runAsUser")
        if any("hostPort" in port for port in container.get("ports", [])):
            reasons.append(f"{name}: hostPort")
        if not container.get("resources", {}).get("requests") or "memory" not in container["resources"]["limits"]:
            reasons.append(f"{name}: resources")
    return reasons


class Security(unittest.TestCase):
    def test_every_pod_is_restricted(self):
        count = 0
        for directory in BUILT:
            for workload in workloads(build(directory)):
                pod = pod_of(workload)
                if SAMPLES in directory:
                    # Applications of others: only watchmark is ours.
                    pod = {**pod, "containers": [it for it in [watchmark_of(pod)] if it], "initContainers": []}
                with self.subTest(directory, workload=workload["metadata"]["name"]):
                    self.assertEqual(refuse(pod), [])
                    count += len(pod["containers"])
        self.assertGreaterEqual(count, 9)

    def test_a_pod_that_is_not_is_refused(self):
        pod = pod_of(find(build("overlays/demo"), "StatefulSet", "follower"))
        watchmark_of(pod)["securityContext"]["privileged"] = True
        self.assertEqual(refuse(pod), ["watchmark: privileged"])

    def test_namespaces_enforce_it(self):
        spaces = [it for directory in BUILT for it in build(directory) if it["kind"] == "Namespace"]
        self.assertEqual(len(spaces), 3)
        for space in spaces:
            self.assertEqual(space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"], "restricted")


class Sidecar(unittest.TestCase):
    def applications(self, directory):
        return {it["metadata"]["name"]: it for it in workloads(build(directory))}

    def test_it_is_where_the_label_is_and_nowhere_else(self):
        before = self.applications("tests/applications")
        for directory in [SAMPLES, f"{SAMPLES}-pre-1.29"]:
            after = self.applications(directory)
            for name, workload in after.items():
                labelled = workload["metadata"].get("labels", {}).get("watchmark") == "sidecar"
                self.assertEqual(watchmark_of(pod_of(workload)) is not None, labelled, name)
            self.assertEqual(after["other"]["spec"], before["other"]["spec"])

    def test_it_starts_first_and_ends_last(self):
        cart = pod_of(self.applications(SAMPLES)["cart"])
        self.assertEqual([it["name"] for it in cart["initContainers"]], ["watchmark", "migrate"])
        watchmark = cart["initContainers"][0]
        self.assertEqual(watchmark["restartPolicy"], "Always")
        # Without it the application would start as soon as the process exists.
        self.assertIn("startupProbe", watchmark)

    def test_before_native_sidecars_it_is_the_last_container(self):
        cart = pod_of(self.applications(f"{SAMPLES}-pre-1.29")["cart"])
        self.assertEqual([it["name"] for it in cart["containers"]], ["cart", "proxy", "watchmark"])
        self.assertEqual([it["name"] for it in cart["initContainers"]], ["migrate"])

    def test_both_variants_are_one_container(self):
        native = watchmark_of(pod_of(self.applications(SAMPLES)["cart"]))
        plain = watchmark_of(pod_of(self.applications(f"{SAMPLES}-pre-1.29")["cart"]))
        del native["restartPolicy"], native["startupProbe"]
        self.assertEqual(native, plain)

    def test_what_the_application_had_stays(self):
        before = self.applications("tests/applications")
        for directory in [SAMPLES, f"{SAMPLES}-pre-1.29"]:
            after = self.applications(directory)
            for name in ["cart", "stock"]:
                pod, old = pod_of(after[name]), pod_of(before[name])
                for container in old["containers"]:
                    (mine,) = [it for it in pod["containers"] if it["name"] == container["name"]]
                    for key in ["env", "volumeMounts"]:
                        for item in container.get(key, []):
                            self.assertIn(item, mine[key])
                for volume in old.get("volumes", []):
                    self.assertIn(volume, pod["volumes"])
                template = after[name]["spec"]["template"]["metadata"]["labels"]
                self.assertEqual(template, {"app": name, "watchmark": "sidecar"})
            claims = [it["metadata"]["name"] for it in after["stock"]["spec"]["volumeClaimTemplates"]]
            self.assertEqual(claims, ["stock", "watchmark-data"])

    def test_the_first_container_finds_the_socket(self):
        for directory in BUILT:
            for workload in workloads(build(directory)):
                pod = pod_of(workload)
                if (workload["metadata"].get("labels") or {}).get("watchmark") != "sidecar":
                    continue
                watchmark = watchmark_of(pod)
                listen = {it["name"]: it["value"] for it in watchmark["env"]}["WATCHMARK_LISTEN"]
                (socket,) = [it for it in listen.split(",") if it.startswith("unix://")]
                application = pod["containers"][0]
                with self.subTest(directory, workload=workload["metadata"]["name"]):
                    self.assertIn({"name": "WATCHMARK_ADDRESS", "value": socket}, application["env"])
                    mount = {"name": "watchmark-run", "mountPath": os.path.dirname(socket.removeprefix("unix://"))}
                    self.assertIn(mount, application["volumeMounts"])
                    self.assertIn(mount, watchmark["volumeMounts"])
                    # Whatever user the application is, the socket has its group.
                    self.assertEqual(pod["securityContext"]["fsGroup"], 65532)

    def test_every_mount_has_its_volume(self):
        for directory in BUILT:
            for workload in workloads(build(directory)):
                pod = pod_of(workload)
                volumes = {it["name"] for it in pod.get("volumes", [])}
                volumes |= {it["metadata"]["name"] for it in workload["spec"].get("volumeClaimTemplates", [])}
                for container in containers(pod):
                    for mount in container.get("volumeMounts", []):
                        self.assertIn(mount["name"], volumes, (directory, container["name"]))

    def test_a_statefulset_that_can_take_no_claim_does_not_build(self):
        done = kustomize("tests/samples-no-claims")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("volumeClaimTemplates", done.stderr)

    def test_every_variable_is_one_that_watchmark_reads(self):
        known = variables()
        for directory in BUILT:
            objects = build(directory)
            used = {key for it in objects if it["kind"] == "ConfigMap" for key in it["data"] if key.isupper()}
            for workload in workloads(objects):
                for container in containers(pod_of(workload)):
                    used |= {it["name"] for it in container.get("env", []) if it["name"].startswith("WATCHMARK_")}
            self.assertTrue(used, directory)
            self.assertLessEqual(used, known, directory)

    def test_probes_and_scrapes_come_to_ports_that_others_reach(self):
        for directory in BUILT:
            for workload in workloads(build(directory)):
                watchmark = watchmark_of(pod_of(workload))
                if watchmark is None:
                    continue
                environment = {it["name"]: it["value"] for it in watchmark["env"]}
                self.assertEqual(environment["WATCHMARK_ADMIN_LISTEN"], "0.0.0.0:7380")
                ports = {it["name"]: it["containerPort"] for it in watchmark["ports"]}
                self.assertEqual(ports["watchmark-admin"], 7380)
                for kind in ["startupProbe", "livenessProbe", "readinessProbe"]:
                    probe = watchmark.get(kind, {})
                    self.assertIn(probe.get("httpGet", {}).get("port", "watchmark-admin"), ports)
                # The image has no shell.
                command = watchmark["readinessProbe"].get("exec", {}).get("command", ["/usr/bin/watchmark"])
                self.assertEqual(command[0], "/usr/bin/watchmark")

    def test_its_configuration_is_what_the_overlay_generates(self):
        for directory in BUILT:
            objects = build(directory)
            for workload in workloads(objects):
                watchmark = watchmark_of(pod_of(workload))
                if watchmark is not None:
                    name = watchmark["envFrom"][0]["configMapRef"]["name"]
                    # A hash at its end: what changes is rolled out.
                    self.assertRegex(name, r"^watchmark-\w{10}$")
                    self.assertIn("WATCHMARK_ETCD_ENDPOINTS", find(objects, "ConfigMap", name)["data"])

    def test_a_secret_that_is_generated_is_the_one_that_is_mounted(self):
        for directory in [SAMPLES, f"{SAMPLES}-pre-1.29"]:
            objects = build(directory)
            pod = pod_of(find(objects, "StatefulSet", "stock"))
            (volume,) = [it for it in pod["volumes"] if it["name"] == "watchmark-etcd"]
            self.assertRegex(volume["secret"]["secretName"], r"^watchmark-etcd-\w{10}$")
            data = find(objects, "Secret", volume["secret"]["secretName"])["data"]
            (mount,) = [it for it in watchmark_of(pod)["volumeMounts"] if it["name"] == volume["name"]]
            name = watchmark_of(pod)["envFrom"][0]["configMapRef"]["name"]
            for value in find(objects, "ConfigMap", name)["data"].values():
                if value.startswith("/"):
                    self.assertEqual(os.path.dirname(value), mount["mountPath"])
                    self.assertIn(os.path.basename(value), data)
            # The application has no business with it.
            self.assertNotIn(volume["name"], [it["name"] for it in pod["containers"][0]["volumeMounts"]])

    def test_the_image_is_of_this_version(self):
        (version,) = [
            line.split('"')[1] for line in (K8S.parent / "Cargo.toml").read_text().splitlines()
            if line.startswith("version = ")
        ]
        for directory in BUILT:
            for workload in workloads(build(directory)):
                watchmark = watchmark_of(pod_of(workload))
                if watchmark is not None:
                    self.assertEqual(watchmark["image"].rpartition(":")[2], version, directory)


class Policies(unittest.TestCase):
    def test_what_they_select_is_there(self):
        for directory in BUILT:
            objects = build(directory)
            pods = [it["spec"]["template"] for it in workloads(objects)]
            for policy in [it for it in objects if it["kind"] in ("NetworkPolicy", "PodMonitor")]:
                selector = policy["spec"].get("podSelector") or policy["spec"]["selector"]
                selected = [it for it in pods if matches(selector, it["metadata"]["labels"])]
                with self.subTest(directory, policy=policy["metadata"]["name"]):
                    self.assertTrue(selected)
                    if policy["metadata"]["name"] == "watchmark":
                        self.assertTrue(all(watchmark_of(it["spec"]) for it in selected))
                        self.assertEqual(len(selected), len([it for it in pods if watchmark_of(it["spec"])]))

    def test_prometheus_scrapes_a_port_that_is_there(self):
        for directory in BUILT:
            for monitor in [it for it in build(directory) if it["kind"] == "PodMonitor"]:
                (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
                for workload in workloads(build(directory)):
                    watchmark = watchmark_of(pod_of(workload))
                    if watchmark is not None:
                        self.assertIn(endpoint["port"], [it["name"] for it in watchmark["ports"]])


def matches(selector, labels):
    wanted = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        labels.get(it["key"]) in it["values"] for it in selector.get("matchExpressions", [])
    )


class Dashboard(unittest.TestCase):
    def test_it_is_whole(self):
        text = find(build("overlays/demo"), "ConfigMap", "watchmark-dashboard")["data"]["watchmark.json"]
        panels = json.loads(text)["panels"]
        self.assertEqual(len({it["id"] for it in panels}), len(panels))
        taken = set()
        for panel in panels:
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24)
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            self.assertFalse(cells & taken, panel["title"])
            taken |= cells


class Pages(unittest.TestCase):
    def test_what_the_pages_print_builds(self):
        for page in [ROOT / "README.md", K8S / "README.md"]:
            (printed,) = re.findall(r"^```yaml\n(# kustomization.yaml\n.*?)^```", page.read_text(), re.M | re.S)
            with self.subTest(page.name), tempfile.TemporaryDirectory() as directory:
                # As printed: beside a copy of the project.
                shutil.copytree(K8S / "components", pathlib.Path(directory, "watchmark/k8s/components"))
                mine = pathlib.Path(directory, "mine")
                mine.mkdir()
                (mine / "kustomization.yaml").write_text(printed)
                shutil.copy(K8S / "tests/applications/applications.yaml", mine / "deployment.yaml")
                done = kustomize(mine)
                self.assertEqual(done.returncode, 0, done.stderr)
                objects = list(yaml.safe_load_all(done.stdout))
                watchmark = watchmark_of(pod_of(find(objects, "Deployment", "cart")))
                self.assertRegex(watchmark["image"], "/watchmark:0.1.0$")
                config = find(objects, "ConfigMap", watchmark["envFrom"][0]["configMapRef"]["name"])
                self.assertIn("WATCHMARK_ETCD_ENDPOINTS", config["data"])
                self.assertLessEqual(set(config["data"]), variables())
