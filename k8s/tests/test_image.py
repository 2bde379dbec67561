"""The image: what is in it, that it can be made again, and that names and
authorities are found in it."""

import json
import os
import pathlib
import socket
import ssl
import subprocess
import tarfile
import threading
import unittest

from machine import NETWORK, Dns, Machine, certificates, until

SIZE_MAX = 15_000_000
BINARY_MAX = 12_000_000
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"


class Image(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.machine = Machine()
        cls.addClassCleanup(cls.machine.close)
        cls.archive = cls.machine.directory / "watchmark.tar"
        cls.name = cls.machine.watchmark_image(cls.archive)
        cls.root = pathlib.Path(os.environ["IMAGE_ROOT"])

    def inspect(self, machine=None):
        (image,) = json.loads((machine or self.machine).podman("image", "inspect", self.name))
        return image

    def files(self):
        found = {}
        with tarfile.open(self.archive) as archive:
            def blob(digest):
                return archive.extractfile("blobs/" + digest.replace(":", "/"))
            index = json.load(archive.extractfile("index.json"))
            manifest = json.load(blob(index["manifests"][0]["digest"]))
            for layer in manifest["layers"]:
                with tarfile.open(fileobj=blob(layer["digest"])) as files:
                    found.update({it.name: it for it in files if not it.isdir()})
        return found

    def test_it_holds_the_binary_the_authorities_and_nothing_else(self):
        modes = {name: (it.uid, oct(it.mode & 0o7777)) for name, it in self.files().items()}
        self.assertEqual(modes, {AUTHORITIES: (0, "0o644"), "usr/bin/watchmark": (0, "0o755")})

    def test_it_is_small(self):
        self.assertLess(self.inspect()["Size"], SIZE_MAX)
        self.assertLess(self.files()["usr/bin/watchmark"].size, BINARY_MAX)

    def test_it_is_run_by_nobody_special(self):
        config = self.inspect()["Config"]
        self.assertEqual(config["User"], "65532:65532")
        self.assertEqual(config["Entrypoint"] + config["Cmd"], ["/usr/bin/watchmark", "serve"])

    def test_the_same_files_make_the_same_image(self):
        again = Machine()
        self.addCleanup(again.close)
        again.watchmark_image()
        self.assertEqual(self.inspect(again)["Digest"], self.inspect()["Digest"])

    def test_the_binary_needs_no_library(self):
        done = subprocess.run(["ldd", str(self.root / "usr/bin/watchmark")], capture_output=True, text=True)
        self.assertRegex(done.stdout + done.stderr, "statically linked|not a dynamic executable")

    def test_the_authorities_are_those_of_the_web(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.root / AUTHORITIES)
        self.assertGreater(context.cert_store_stats()["x509_ca"], 100)


class TlsServer:
    """Knows whether who connected believed it."""

    def __init__(self, address, certificate, key):
        self.believed = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate, key)
        self.context.set_alpn_protocols(["h2"])
        self.socket = socket.create_server((address, 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(connection, server_side=True) as tls:
                    # The first bytes of HTTP/2: the certificate was accepted.
                    self.believed.append(tls.recv(3) == b"PRI")
            except OSError:
                self.believed.append(False)


class Network(unittest.TestCase):
    """A server whose name only DNS knows, and whose certificate only the system's authorities vouch for."""

    def test_names_are_asked_of_dns_and_the_systems_authorities_are_believed(self):
        machine = Machine()
        self.addCleanup(machine.close)
        image = machine.watchmark_image()
        gateway = machine.start_network()
        directory = machine.directory
        certificates(directory, "etcd.watchmark.test")
        # The first container makes the bridge, and so the gateway's address.
        machine.may_fail("run", "--network", NETWORK, "--name", "first", image, "health")
        until(lambda: can_bind(gateway), "the gateway's address")
        machine.dns = Dns(gateway)
        machine.dns.names["etcd.watchmark.test"] = gateway
        server = TlsServer(gateway, directory / "tls.crt", directory / "tls.key")
        self.addCleanup(server.socket.close)

        def ask(*options):
            machine.dns.asked.clear()
            server.believed.clear()
            machine.may_fail("run", "--rm", "--network", NETWORK, "--dns", gateway, *options, image, "health",
                             "--timeout", "5s", "--address", f"https://etcd.watchmark.test:{server.port}")
            self.assertIn("etcd.watchmark.test", machine.dns.asked)
            until(lambda: server.believed, "a handshake")
            return server.believed[0]

        self.assertFalse(ask(), "an authority that the image does not have")
        self.assertTrue(ask("--volume", f"{directory}/ca.crt:/{AUTHORITIES}:ro"))


def can_bind(address):
    with socket.socket() as it:
        try:
            it.bind((address, 0))
            return True
        except OSError:
            return False
