"""The demo, lived through as a pod: etcd, watchmark and the application start,
die and come back, and nothing is lost.

The pod is that of overlays/demo-pre-1.29: podman takes an init container with
restartPolicy Always for one that has to end. Both overlays are one container
(test_manifests.py); the probes are those of overlays/demo.
"""

import base64
import json
import os
import re
import unittest

from machine import DOMAIN, NETWORK, Dns, Machine, Pod, certificates, run, until
from manifests import ROOT, build, find, pod_of, watchmark_of

PREFIX = "app/"
# What a pod's resource requests are made of.
IDLE_BYTES_MAX = 16 << 20


class Etcd:
    """Writes, and remembers what it wrote."""

    def __init__(self, address):
        self.command = ["etcdctl", "--endpoints", f"http://{address}:2379", "--write-out", "json"]
        self.events = []

    def _ask(self, *arguments, **options):
        return json.loads(run(*self.command, *arguments, env={**os.environ, "ETCDCTL_API": "3"}, **options))

    def write(self, count, tag):
        """Puts and deletions, one of them in a transaction."""
        for i in range(count):
            key = f"{PREFIX}{tag}/{i % 5}"
            answer = self._ask("put", key, f"{tag} {i}")
            self._wrote(answer, ("PUT", key))
        answer = self._ask("del", f"{PREFIX}{tag}/1")
        self._wrote(answer, ("DELETE", f"{PREFIX}{tag}/1"))
        both = f"put {PREFIX}{tag}/a 1\nput {PREFIX}{tag}/b 2\n"
        answer = self._ask("txn", input=f"\n{both}\n\n")
        self._wrote(answer, ("PUT", f"{PREFIX}{tag}/a"), ("PUT", f"{PREFIX}{tag}/b"))

    def _wrote(self, answer, *events):
        self.events += [(answer["header"]["revision"], *it) for it in events]

    def pairs(self):
        def text(it):
            return base64.b64decode(it).decode()
        return {text(it["key"]): text(it["value"]) for it in self._ask("get", "--prefix", PREFIX).get("kvs", [])}


class Demo(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.machine = machine = Machine()
        cls.addClassCleanup(machine.close)
        objects = build("overlays/demo-pre-1.29")
        cls.image = machine.watchmark_image()
        machine.follower_image()
        etcd_image = pod_of(find(objects, "StatefulSet", "etcd"))["containers"][0]["image"]
        machine.image_of(etcd_image, ROOT / ".etcd/3.6/etcd", "/usr/local/bin/etcd")
        gateway = machine.start_network()

        etcd = Pod(machine, objects, "etcd", gateway)
        etcd.play()
        machine.dns = Dns(gateway)
        machine.dns.names[f"etcd.{DOMAIN}"] = etcd.address
        until(lambda: etcd.probe("etcd", "readinessProbe"), "etcd is ready")
        cls.etcd = Etcd(etcd.address)

        cls.pod = Pod(machine, objects, "follower", gateway)
        native = watchmark_of(pod_of(find(build("overlays/demo"), "StatefulSet", "follower")))
        cls.native_probes = {("watchmark", it): native[it] for it in native if it.endswith("Probe")}

    def play(self):
        self.pod.play()
        self.pod.probes.update(self.native_probes)
        for kind in ["startupProbe", "livenessProbe", "readinessProbe"]:
            until(lambda kind=kind: self.pod.probe("watchmark", kind), f"watchmark's {kind}")

    def on_file(self):
        try:
            return json.loads((self.pod.volume("follower-data") / "pairs.json").read_text())
        except FileNotFoundError:
            return None

    def converged(self, what):
        expected = self.etcd.pairs()
        try:
            until(lambda: self.on_file() == expected, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.on_file()}\n{expected}\n" + "\n".join(self.log())) from None

    def acked(self, revision):
        """Until the application's acknowledgement of that was answered."""
        until(lambda: f"acked {revision}" in self.log(), f"acked {revision}")

    def log(self):
        return self.pod.log("follower")

    def received(self, lines):
        events = [re.fullmatch(r"event (\d+) (\w+) (\S+)", it) for it in lines]
        return [(int(it[1]), it[2], it[3]) for it in events if it]

    def goes_on(self, lines, checkpoint, missed):
        """A stream that went on right after the checkpoint, and brought all that came since."""
        opened = [it for it in lines if it.startswith("opened ")]
        self.assertEqual(opened, [f"opened resumed=true checkpoint={checkpoint}"], lines)
        self.assertFalse([it for it in lines if it.startswith("snapshot ")], lines)
        self.assertEqual(self.received(lines), missed)

    def test_nothing_is_lost(self):
        etcd, pod = self.etcd, self.pod
        etcd.write(10, "before")
        self.play()
        self.converged("the first snapshot")
        self.assertIn("snapshot SNAPSHOT_REASON_FIRST", self.log())
        self.assertIn(f"etcd.{DOMAIN}", self.machine.dns.asked)
        self.assertLess(pod.metrics("process_resident_memory_bytes"), IDLE_BYTES_MAX)
        print(f"\nwatchmark: {pod.metrics('process_resident_memory_bytes') / (1 << 20):.1f} MiB resident")

        etcd.events.clear()
        etcd.write(10, "live")
        self.converged("live events")
        self.assertEqual(self.received(self.log()), etcd.events)
        # As the page says, with kubectl.
        rows = self.machine.podman("exec", pod.container("watchmark"), "/usr/bin/watchmark", "ls")
        self.assertRegex(rows, r"\ndemo +live")

        with self.subTest("the application is killed"):
            last = etcd.events[-1][0]
            self.acked(last)
            lines = len(self.log())
            pod.kill("follower")
            etcd.events.clear()
            etcd.write(20, "away")
            pod.start("follower")
            self.converged("what came while the application was away")
            self.acked(etcd.events[-1][0])
            self.goes_on(self.log()[lines:], last, etcd.events)

        with self.subTest("watchmark is killed"):
            last = etcd.events[-1][0]
            lines = len(self.log())
            pod.kill("watchmark")
            etcd.events.clear()
            etcd.write(20, "broken")
            self.assertFalse(pod.probe("watchmark", "livenessProbe"))
            pod.start("watchmark")
            self.converged("what came while watchmark was away")
            self.acked(etcd.events[-1][0])
            self.goes_on(self.log()[lines:], last, etcd.events)
            self.assertEqual(pod.metrics("watchmark_resyncs_total"), 0)

        with self.subTest("the pod is replaced, its volumes stay"):
            last = etcd.events[-1][0]
            self.assertEqual(pod.stop(), {"follower": 0, "watchmark": 0})
            etcd.events.clear()
            etcd.write(20, "replaced")
            self.play()
            self.converged("what came while there was no pod")
            self.acked(etcd.events[-1][0])
            self.goes_on(self.log(), last, etcd.events)
            self.assertEqual(pod.metrics("watchmark_resyncs_total"), 0)

        with self.subTest("the pod is replaced, and its checkpoints with it: a snapshot, as the page says"):
            pod.stop()
            for file in sorted(pod.volume("watchmark-data").rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            etcd.events.clear()
            etcd.write(20, "forgotten")
            self.play()
            self.converged("a snapshot")
            self.assertIn("snapshot SNAPSHOT_REASON_FIRST", self.log())
            self.assertEqual(self.received(self.log()), [])

    def test_the_base_serves_who_has_a_certificate_and_nobody_else(self):
        machine, name = self.machine, "watchmark.watchmark.svc"
        certificates(machine.directory, name)
        machine.dns.names["etcd.etcd.svc.cluster.local"] = machine.dns.names[f"etcd.{DOMAIN}"]
        pod = Pod(machine, build("overlays/standalone"), "watchmark", self.pod.nameserver)
        files = {it: machine.directory / it for it in ["ca.crt", "tls.crt", "tls.key"]}
        pod.secrets["watchmark-tls"] = files
        pod.play()
        for kind in ["startupProbe", "livenessProbe", "readinessProbe"]:
            until(lambda kind=kind: pod.probe("watchmark", kind), f"watchmark's {kind}")
        machine.dns.names[name] = pod.address

        def ask(*options):
            mounts = [f"--volume={path}:/{it}:ro" for it, path in files.items()]
            return machine.may_fail(
                "run", "--rm", "--user", "0", "--network", NETWORK, "--dns", pod.nameserver, *mounts, self.image,
                "health", "--timeout", "5s", "--address", f"https://{name}:7379", "--ca-file", "/ca.crt", *options)

        done = ask("--cert-file", "/tls.crt", "--key-file", "/tls.key")
        self.assertEqual((done.returncode, done.stdout), (0, "serving\n"), done.stderr)
        done = ask()
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr, "(?i)certificate")
        self.assertEqual(pod.stop(), {"watchmark": 0})


class Machines(unittest.TestCase):
    def test_podman_runs_containers_here(self):
        """Says what is wrong where the others could not even begin."""
        machine = Machine()
        self.addCleanup(machine.close)
        image = machine.watchmark_image()
        self.assertRegex(machine.podman("run", "--rm", "--network", "none", image, "--version"), r"^watchmark \d")
