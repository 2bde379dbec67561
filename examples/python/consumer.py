"""Keeps a copy of a range of etcd's keys in a JSON file, whatever is restarted meanwhile.

    consumer.py ADDRESS CLIENT_ID PREFIX STATE_FILE     ADDRESS: HOST:PORT or unix:///path.sock

Exit codes: 0 stopped by SIGTERM, 1 refused for good, 3 another instance took over."""

import contextlib, os, queue, random, signal, sys, threading

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from grpc_status import rpc_status

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "gen"))
from local_copy import LocalCopy
from watchmark.v1 import admin_pb2, admin_pb2_grpc, watch_pb2, watch_pb2_grpc

DELAY_MIN, DELAY_MAX = 0.1, 5
OPTIONS = [("grpc.keepalive_time_ms", 20_000), ("grpc.max_reconnect_backoff_ms", DELAY_MAX * 1000)]
OPTIONS += [("grpc.default_authority", "localhost")]  # Unix sockets: else their path, which HTTP/2 forbids


class Consumer:
    def __init__(self, address, client_id, prefix, state_file):
        channel = grpc.insecure_channel(address, options=OPTIONS)
        self.api = watch_pb2_grpc.WatchServiceStub(channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(channel)
        self.client_id, self.prefix, self.copy = client_id, prefix.encode(), LocalCopy(state_file)
        self.delay, self.stopping, self.inbox = DELAY_MIN, False, queue.SimpleQueue()

    def stop(self, *_):
        self.stopping = True
        self.inbox.put(None)

    def run(self):
        while True:
            ended = self.stream()
            if self.stopping:
                return 0
            reason, retry_after = explain(ended)
            print("ended:", ended.code().name, reason, ended.details(), file=sys.stderr, flush=True)
            if reason and retry_after is None:  # asking again would not help
                return 3 if reason == "SESSION_SUPERSEDED" else 1
            with contextlib.suppress(queue.Empty):
                self.inbox.get(timeout=max(self.delay, retry_after or 0) * random.uniform(1, 1.5))
            self.delay = min(self.delay * 2, DELAY_MAX)

    def stream(self):
        """Follows one stream. What has piled up is processed, and acknowledged, together."""
        # The limit bounds the inbox: above it watchmark waits, and etcd's history is the buffer.
        wanted = {"client_id": self.client_id, "prefix": self.prefix, "max_unacked_events": 10_000}
        self.call = self.api.Subscribe(watch_pb2.SubscribeRequest(**wanted))
        self.delivered, self.acked, self.snapshot, self.events = 0, 0, [], []
        threading.Thread(target=read, args=(self.call, self.inbox), daemon=True).start()
        message = None
        while not self.stopping and message is not self.call:
            message = self.inbox.get()
            if isinstance(message, watch_pb2.SubscribeResponse):
                self.receive(message)
            if self.stopping or self.inbox.empty():
                self.commit()
        return self.call

    def receive(self, message):
        kind = message.WhichOneof("message")  # None: what a later version sends
        value = kind and getattr(message, kind)
        if kind == "opened":
            self.delay, self.session_id, self.acked = DELAY_MIN, value.session_id, value.checkpoint
            if value.resumed and self.copy.revision == 0:
                self.seek_to_snapshot()
        elif kind == "snapshot_begin":  # whatever came before it is void
            self.acked, self.snapshot, self.events = 0, [], []
        elif kind == "snapshot_chunk":
            self.snapshot.extend(value.kvs)
        elif kind == "snapshot_end":
            self.copy.replace(value.revision, self.snapshot)
            self.delivered, self.snapshot = value.revision, []
        elif kind == "events":
            self.events.extend(value.events)
            if not value.partial:  # a revision is processed whole
                self.reached(value.revision)
        elif kind == "progress":  # up to here nothing else happened
            self.reached(value.revision)
        elif kind == "state":
            print(watch_pb2.StreamState.Name(value.state), flush=True)

    def seek_to_snapshot(self):
        """Our copy is lost: this stream ends, and the next has a snapshot."""
        try:
            seek = admin_pb2.SeekSubscriptionRequest(client_id=self.client_id, snapshot=True)
            self.admin.SeekSubscription(seek, timeout=30)
        except grpc.RpcError:
            self.call.cancel()

    def reached(self, revision):
        if self.copy.revision != 0:  # else there is nothing yet that it could be applied to
            self.copy.apply(revision, self.events)
            self.delivered, self.events = revision, []

    def commit(self):
        """First durable here, then acknowledged: never the other way round."""
        if self.delivered > self.acked:
            self.copy.save()
            ack = {"client_id": self.client_id, "revision": self.delivered, "session_id": self.session_id}
            try:
                self.acked = self.api.Ack(watch_pb2.AckRequest(**ack), timeout=30).checkpoint
                print("ACKED", self.acked, flush=True)
            except grpc.RpcError as error:  # a later ack makes up for it, or the next stream
                print("not acked:", error.details(), file=sys.stderr, flush=True)


def read(call, inbox):
    with contextlib.suppress(grpc.RpcError):
        for message in call:
            inbox.put(message)
    inbox.put(call)  # which says how it ended


def explain(ended):
    """watchmark's reason, and after how many seconds the same call may succeed, if ever."""
    details = {ErrorInfo: None, RetryInfo: None}
    for any in getattr(rpc_status.from_call(ended), "details", []):
        for kind in details:
            if any.Is(kind.DESCRIPTOR):
                details[kind] = kind.FromString(any.value)
    info, retry = details.values()
    return info and info.reason, retry and retry.retry_delay.ToTimedelta().total_seconds()


consumer = Consumer(*sys.argv[1:])
signal.signal(signal.SIGTERM, consumer.stop)
sys.exit(consumer.run())
