"""Keeps a copy of a range of etcd's keys in a JSON file, whatever is restarted meanwhile.

    consumer.py ADDRESS CLIENT_ID PREFIX STATE_FILE     ADDRESS: HOST:PORT or unix:///path.sock

Exit codes: 0 stopped by SIGTERM, 1 refused for good, 3 another instance took over."""

import contextlib, json, os, queue, random, signal, sys, threading

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "gen"))
from watchmark.v1 import admin_pb2, admin_pb2_grpc, watch_pb2, watch_pb2_grpc

OPTIONS = [("grpc.keepalive_time_ms", 20_000), ("grpc.max_reconnect_backoff_ms", 5_000)]
OPTIONS += [("grpc.default_authority", "localhost")]  # Unix sockets: else their path, which HTTP/2 forbids


class Consumer:
    def __init__(self, address, client_id, prefix, state_file):
        self.channel = grpc.insecure_channel(address, options=OPTIONS)
        self.api = watch_pb2_grpc.WatchServiceStub(self.channel)
        self.client_id, self.prefix, self.state_file = client_id, prefix.encode(), state_file
        self.stopping, self.inbox = False, queue.SimpleQueue()
        self.revision, self.pairs = 0, {}  # the work: the range's pairs as of that revision
        if os.path.exists(state_file):
            with open(state_file) as file:
                self.revision, self.pairs = json.load(file).values()
        self.saved = self.revision

    def stop(self, *_):
        self.stopping = True
        self.inbox.put(None)

    def run(self):
        self.delay = 0.1
        while True:
            error = self.stream()
            if self.stopping:
                return 0
            reason, retry_after = explain(error)
            print("ended:", error.code().name, reason, error.details(), file=sys.stderr, flush=True)
            if reason and retry_after is None:  # asking again would not help
                return 3 if reason == "SESSION_SUPERSEDED" else 1
            with contextlib.suppress(queue.Empty):
                self.inbox.get(timeout=max(self.delay, retry_after or 0) * random.uniform(1, 1.5))
            self.delay = min(self.delay * 2, 5)

    def stream(self):
        """Follows one stream. What has piled up is processed, and acknowledged, together."""
        # The limit bounds the inbox: above it watchmark waits, and etcd's history is the buffer.
        wanted = {"client_id": self.client_id, "prefix": self.prefix, "max_unacked_events": 10_000}
        call = self.api.Subscribe(watch_pb2.SubscribeRequest(**wanted))
        self.parts, self.delivered, self.acked = [], 0, 0
        threading.Thread(target=read, args=(call, self.inbox), daemon=True).start()
        message = None
        while not self.stopping and not isinstance(message, grpc.RpcError):
            message = self.inbox.get()
            if isinstance(message, watch_pb2.SubscribeResponse):
                self.receive(message)
            if self.stopping or self.inbox.empty():
                self.commit()
        return message

    def receive(self, message):
        kind = message.WhichOneof("message")  # None: what a later version sends
        value = kind and getattr(message, kind)
        if kind == "opened":
            self.delay, self.session_id, self.acked = 0.1, value.session_id, value.checkpoint
            if value.resumed and self.revision == 0:  # our file is lost: this stream ends, the next has a snapshot
                seek = admin_pb2.SeekSubscriptionRequest(client_id=self.client_id, snapshot=True)
                admin_pb2_grpc.AdminServiceStub(self.channel).SeekSubscription(seek, timeout=30)
        elif kind == "snapshot_begin":
            self.snapshot = {}
        elif kind == "snapshot_chunk":
            self.snapshot.update((kv.key.decode(), kv.value.decode()) for kv in value.kvs)
        elif kind == "snapshot_end":  # what is not in it no longer exists
            self.pairs, self.revision, self.delivered = self.snapshot, value.revision, value.revision
            print("SNAPSHOT", value.count, flush=True)
        elif kind == "state":
            print(watch_pb2.StreamState.Name(value.state), flush=True)
        elif self.revision == 0:
            pass  # there is nothing yet that it could be applied to
        elif kind == "events":
            self.parts.extend(value.events)
            if not value.partial:  # a revision is processed whole
                for event in self.parts:
                    self.apply(event)
                self.parts = []
                self.revision, self.delivered = max(self.revision, value.revision), value.revision
        elif kind == "progress":  # up to here nothing else happened
            self.revision, self.delivered = max(self.revision, value.revision), value.revision

    def apply(self, event):
        if event.kv.mod_revision > self.revision:  # else it is here already: only its ack was lost
            key, kind = event.kv.key.decode(), watch_pb2.Event.EventType.Name(event.type)
            self.pairs.pop(key, None)
            if kind == "PUT":
                self.pairs[key] = event.kv.value.decode()
            print(kind, key, flush=True)

    def commit(self):
        """First durable here, then acknowledged: never the other way round."""
        if self.revision != self.saved:
            with open(self.state_file + ".new", "w") as file:
                json.dump({"revision": self.revision, "pairs": self.pairs}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, self.state_file)
            self.saved = self.revision
        if self.delivered > self.acked:
            ack = {"client_id": self.client_id, "revision": self.delivered, "session_id": self.session_id}
            try:
                self.acked = self.api.Ack(watch_pb2.AckRequest(**ack), timeout=30).checkpoint
                print("ACKED", self.acked, flush=True)
            except grpc.RpcError as error:  # a later ack makes up for it, or the next stream
                print("not acked:", error.details(), file=sys.stderr, flush=True)


def read(call, inbox):
    try:
        for message in call:
            inbox.put(message)
    except grpc.RpcError as error:
        inbox.put(error)


def explain(error):
    """watchmark's reason, and after how many seconds the same call may succeed, if ever."""
    details = {ErrorInfo: None, RetryInfo: None}
    for any in getattr(rpc_status.from_call(error), "details", []):
        for kind in details:
            if any.Is(kind.DESCRIPTOR):
                details[kind] = kind.FromString(any.value)
    info, retry = details.values()
    return info and info.reason, retry and retry.retry_delay.ToTimedelta().total_seconds()


consumer = Consumer(*sys.argv[1:])
signal.signal(signal.SIGTERM, consumer.stop)
sys.exit(consumer.run())
