"""Stands for the application's own work: a durable copy of the range, as of one revision."""

import json, os

from watchmark.v1 import watch_pb2


class LocalCopy:
    def __init__(self, file):
        self.file, self.revision, self.pairs = file, 0, {}  # 0: there is nothing yet
        if os.path.exists(file):
            with open(file) as saved:
                self.revision, self.pairs = json.load(saved).values()

    def replace(self, revision, kvs):
        """By a snapshot: what is not in it no longer exists."""
        self.revision, self.pairs = revision, {kv.key.decode(): kv.value.decode() for kv in kvs}
        print("SNAPSHOT", len(kvs), flush=True)

    def apply(self, revision, events):
        """Whole revisions. What is here already comes again when only its ack was lost."""
        for event in events:
            if event.kv.mod_revision > self.revision:
                key = event.kv.key.decode()
                if event.type == watch_pb2.Event.PUT:
                    self.pairs[key] = event.kv.value.decode()
                else:
                    self.pairs.pop(key, None)
                print(watch_pb2.Event.EventType.Name(event.type), key, flush=True)
        self.revision = max(self.revision, revision)

    def save(self):
        with open(self.file + ".new", "w") as file:
            json.dump({"revision": self.revision, "pairs": self.pairs}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, self.file)
