"""Pods on this machine, with podman: what a kubelet does, as far as the demo needs it.

Images, containers and networks are in a place of the tests' own, and are gone afterwards.
"""

import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request

import yaml

from manifests import K8S, ROOT, containers

# Two runs at a time keep out of each other's way.
NETWORK = f"watchmark-test-{os.getpid()}"
NAMESPACE = "watchmark-demo"
DOMAIN = f"{NAMESPACE}.svc.cluster.local"
# crun wants one version of cgroups, and limits must be such that a container may raise them.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "{directory}/networks"
"""


def run(*command, **options):
    """What it printed."""
    done = subprocess.run([str(it) for it in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def until(condition, what, seconds=30):
    """The first true answer. No sleep is for luck: there is a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def certificates(directory, name):
    """An authority, and what it signed for a name: ca.crt, tls.crt, tls.key."""
    def new(subject, key, *options):
        run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", subject, "-keyout", directory / key, *options)
    new("/CN=authority", "ca.key", "-x509", "-days", "2", "-out", directory / "ca.crt")
    new(f"/CN={name}", "tls.key", "-out", directory / "tls.csr")
    (directory / "names").write_text(f"subjectAltName=DNS:{name}\n")
    run("openssl", "x509", "-req", "-in", directory / "tls.csr", "-CA", directory / "ca.crt", "-CAkey",
        directory / "ca.key", "-CAcreateserial", "-days", "2", "-extfile", directory / "names", "-out",
        directory / "tls.crt")


class Machine:
    def __init__(self):
        # Short: the path of a socket has at most 107 bytes.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="wm-pods-"))
        os.chmod(self.directory, 0o755)
        (self.directory / "networks").mkdir()
        conf = self.directory / "containers.conf"
        conf.write_text(CONTAINERS_CONF.format(directory=self.directory))
        self.environment = {**os.environ, "CONTAINERS_CONF": str(conf)}
        storage = ["--root", str(self.directory / "root"), "--runroot", str(self.directory / "run"),
                   "--storage-driver", "vfs"]
        self.tools = {"podman": ["podman", *storage, "--tmpdir", str(self.directory / "tmp")],
                      "buildah": ["buildah", *storage]}
        self.environment["BUILDAH_FLAGS"] = " ".join(storage)
        self.dns = None

    def podman(self, *arguments, **options):
        return run(*self.tools["podman"], *arguments, env=self.environment, **options)

    def may_fail(self, *arguments):
        return subprocess.run([*self.tools["podman"], *arguments], env=self.environment, capture_output=True, text=True)

    def buildah(self, *arguments):
        return run(*self.tools["buildah"], *arguments, env=self.environment)

    def watchmark_image(self, *arguments):
        return run(K8S / "image.sh", *arguments, env=self.environment, cwd=ROOT)

    def follower_image(self):
        return run(K8S / "demo/app/image.sh", env=self.environment, cwd=ROOT)

    def image_of(self, name, program, path):
        """An image of one static program."""
        container = self.buildah("from", "scratch")
        self.buildah("copy", container, program, path)
        self.buildah("config", "--entrypoint", json.dumps([path]), "--user", "65532:65532", container)
        self.buildah("commit", "--quiet", "--rm", container, name)

    def start_network(self):
        self.podman("network", "create", "--disable-dns", NETWORK)
        (network,) = json.loads(self.podman("network", "inspect", NETWORK))
        return network["subnets"][0]["gateway"]

    def close(self):
        if self.dns:
            self.dns.close()
        self.may_fail("pod", "rm", "--all", "--force", "--time", "0")
        self.may_fail("rm", "--all", "--force", "--time", "0")
        self.may_fail("network", "rm", "--force", NETWORK)
        self.may_fail("system", "reset", "--force")
        shutil.rmtree(self.directory, ignore_errors=True)
        # Which addresses were given out.
        shutil.rmtree(f"/var/lib/cni/networks/{NETWORK}", ignore_errors=True)


class Dns:
    """The cluster's: knows names, and answers that others do not exist."""

    def __init__(self, address):
        self.names = {}
        self.asked = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.socket.settimeout(0.1)
        self.is_closed = False
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self):
        while not self.is_closed:
            try:
                query, peer = self.socket.recvfrom(4096)
            except TimeoutError:
                continue
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode())
                at += 1 + query[at]
            name, end = ".".join(labels), at + 5
            (kind,) = struct.unpack(">H", query[at + 1:at + 3])
            self.asked.append(name)
            address = self.names.get(name)
            answer = b""
            if address and kind == 1:
                answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + socket.inet_aton(address)
            flags = 0x8580 if address else 0x8583
            counts = struct.pack(">HHHHH", flags, 1, 1 if answer else 0, 0, 0)
            self.socket.sendto(query[:2] + counts + query[12:end] + answer, peer)

    def close(self):
        self.is_closed = True
        self.thread.join()
        self.socket.close()


class Pod:
    """One pod of a StatefulSet."""

    def __init__(self, machine, objects, name, nameserver):
        (self.workload,) = [it for it in objects if it["kind"] == "StatefulSet" and it["metadata"]["name"] == name]
        self.machine = machine
        self.configs = [it for it in objects if it["kind"] == "ConfigMap"]
        self.name = f"{name}-0"
        self.nameserver = nameserver
        self.spec = self.workload["spec"]["template"]["spec"]
        self.probes = {}
        # Sources of files, by volume and name.
        self.secrets = {}

    def claims(self):
        return {it["metadata"]["name"] for it in self.workload["spec"].get("volumeClaimTemplates", [])}

    def play(self):
        """A new pod: its claims are as they were left, everything else is new."""
        spec = json.loads(json.dumps(self.spec))
        group = spec["securityContext"]["fsGroup"]
        for container in containers(spec):
            # podman asks in a shell of the container: the tests ask instead, as a kubelet would.
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"]:
                if probe in container:
                    self.probes[container["name"], probe] = container.pop(probe)
            # podman would take these ports of the machine, too.
            container.pop("ports", None)
        # A claim takes precedence over a volume of the same name.
        names = self.claims() | {it["name"] for it in spec.get("volumes", [])}
        spec["volumes"] = [
            {"name": it, "hostPath": {"path": str(self._directory(it, group)), "type": "Directory"}} for it in sorted(names)
        ]
        # podman knows no fsGroup: the volumes have it, and so have the processes.
        spec["securityContext"] = {"supplementalGroups": [group]}
        # The tests start again what they killed.
        spec["restartPolicy"] = "Never"
        spec["dnsConfig"] = {"nameservers": [self.nameserver], "options": [{"name": "ndots", "value": "5"}],
                             "searches": [DOMAIN, "svc.cluster.local", "cluster.local"]}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": self.name}, "spec": spec}
        text = yaml.safe_dump_all([*self.configs, pod])
        file = self.machine.directory / f"{self.name}.yaml"
        file.write_text(text)
        self.machine.podman("kube", "play", "--quiet", "--network", NETWORK, file)
        infra = self.machine.podman("pod", "inspect", self.name, "--format", "{{.InfraContainerID}}")
        (infra,) = json.loads(self.machine.podman("inspect", infra))
        self.address = infra["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]

    def _directory(self, name, group):
        """As a kubelet makes it; what is no claim dies with the pod."""
        path = self.volume(name)
        if name not in self.claims():
            shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True, exist_ok=True)
        for file, source in self.secrets.get(name, {}).items():
            shutil.copy(source, path / file)
            os.chown(path / file, 0, group)
            os.chmod(path / file, 0o440)
        os.chown(path, 0, group)
        os.chmod(path, 0o2775)
        return path

    def volume(self, name):
        return self.machine.directory / "volumes" / self.name / name

    def container(self, name):
        return f"{self.name}-{name}"

    def probe(self, container, kind):
        """Whether it succeeds, asked from outside of the pod."""
        probe = self.probes[container, kind]
        if "exec" in probe:
            done = self.machine.may_fail("exec", self.container(container), *probe["exec"]["command"])
            return done.returncode == 0
        port = probe["httpGet"]["port"]
        (spec,) = [it for it in containers(self.spec) if it["name"] == container]
        ports = {it["name"]: it["containerPort"] for it in spec["ports"]}
        try:
            return self.get(ports.get(port, port), probe["httpGet"]["path"]) is not None
        except OSError:
            return False

    def get(self, port, path):
        """None: any status but 200."""
        try:
            with urllib.request.urlopen(f"http://{self.address}:{port}{path}", timeout=2) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError:
            return None

    def metrics(self, name):
        """The sum over all labels."""
        lines = self.get(7380, "/metrics").splitlines()
        values = [float(it.split()[1]) for it in lines if it.split("{")[0].split(" ")[0] == name]
        assert values, name
        return sum(values)

    def log(self, container):
        return self.machine.podman("logs", self.container(container)).splitlines()

    def kill(self, container):
        self.machine.podman("kill", "--signal", "KILL", self.container(container))
        self.machine.podman("wait", self.container(container))

    def start(self, container):
        self.machine.podman("start", self.container(container))

    def stop(self):
        """SIGTERM to all, and away; the exit codes."""
        self.machine.podman("pod", "stop", "--time", "30", self.name)
        names = [it["name"] for it in containers(self.spec)]
        codes = {it: int(self.machine.podman("inspect", self.container(it), "--format", "{{.State.ExitCode}}"))
                 for it in names}
        self.machine.podman("pod", "rm", "--force", self.name)
        return codes
