// Keeps a copy of a range of etcd's keys in a JSON file, whatever is restarted meanwhile.
//
//     consumer.js ADDRESS CLIENT_ID PREFIX STATE_FILE     ADDRESS: HOST:PORT or unix:///path.sock
//
// Exit codes: 0 stopped by SIGTERM, 1 refused for good, 3 another instance took over.

import { existsSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { createChannel, createClientFactory } from "nice-grpc";
import { ErrorInfo, RetryInfo, RichClientError, errorDetailsClientMiddleware } from "nice-grpc-error-details";
import writeFileAtomic from "write-file-atomic";
import { AdminServiceDefinition } from "./gen/watchmark/v1/admin.js";
import { Event, Event_EventType, SubscribeResponse, WatchServiceDefinition } from "./gen/watchmark/v1/watch.js";

const [address = "", clientId = "", prefix = "", stateFile = ""] = process.argv.slice(2);
const DELAY_MIN = 100;
const DELAY_MAX = 5_000;

const channel = createChannel(address, undefined, {
  "grpc.keepalive_time_ms": 20_000,
  "grpc.max_reconnect_backoff_ms": DELAY_MAX,
});
const clients = createClientFactory().use(errorDetailsClientMiddleware);
const api = clients.create(WatchServiceDefinition, channel);
const admin = clients.create(AdminServiceDefinition, channel);
const stopping = new AbortController();
process.on("SIGTERM", () => stopping.abort());

// The work: the range's pairs as of that revision.
let revision = 0n;
let pairs = new Map<string, string>();
if (existsSync(stateFile)) {
  const state = JSON.parse(readFileSync(stateFile, "utf8"));
  revision = BigInt(state.revision);
  pairs = new Map(Object.entries(state.pairs));
}
// Of the present stream.
let sessionId = 0n;
let delivered = 0n;
let acked = 0n;
let parts: Event[] = [];
let snapshot = new Map<string, string>();
let committing: Promise<void> | undefined;

let delay = DELAY_MIN;
while (!stopping.signal.aborted) {
  try {
    parts = [];
    // The limit bounds what waits for its ack: above it watchmark waits.
    const request = { clientId, prefix: Buffer.from(prefix), maxUnackedEvents: 10_000 };
    for await (const message of api.subscribe(request, { signal: stopping.signal })) {
      await receive(message.message);
      if (delivered > acked) committing ??= commit();
    }
  } catch (error) {
    if (stopping.signal.aborted) break;
    const details = error instanceof RichClientError ? error.extra : [];
    const info = details.find((it): it is ErrorInfo => it.$type === ErrorInfo.$type);
    const retry = details.find((it): it is RetryInfo => it.$type === RetryInfo.$type);
    console.error("ended:", info?.reason, String(error));
    // Without RetryInfo asking again would not help.
    if (info && !retry) process.exit(info.reason === "SESSION_SUPERSEDED" ? 3 : 1);
    const { seconds = 0, nanos = 0 } = retry?.retryDelay ?? {};
    delay = Math.max(delay, Number(seconds) * 1e3 + nanos / 1e6);
  }
  await sleep(delay * (1 + Math.random() / 2), undefined, { signal: stopping.signal }).catch(() => {});
  delay = Math.min(delay * 2, DELAY_MAX);
}
await committing;
await commit();
channel.close();

async function receive(message: SubscribeResponse["message"]) {
  switch (message?.$case) {
    case "opened":
      [delay, delivered] = [DELAY_MIN, 0n];
      [sessionId, acked] = [message.value.sessionId, message.value.checkpoint];
      // Our file is lost: this stream ends, and the next has a snapshot.
      if (message.value.resumed && revision === 0n)
        await admin.seekSubscription({ clientId, target: { $case: "snapshot", value: true } });
      break;
    case "snapshotBegin":
      snapshot = new Map();
      break;
    case "snapshotChunk":
      for (const kv of message.value.kvs) snapshot.set(kv.key.toString(), kv.value.toString());
      break;
    case "snapshotEnd": // what is not in it no longer exists
      [pairs, revision, delivered] = [snapshot, message.value.revision, message.value.revision];
      console.log("SNAPSHOT", message.value.count.toString());
      break;
    case "events":
      parts.push(...message.value.events);
      if (!message.value.partial) reached(message.value.revision); // a revision is processed whole
      break;
    case "progress": // up to here nothing else happened
      reached(message.value.revision);
      break;
    case "state":
      console.log(message.value.state);
  }
}

function reached(last: bigint) {
  if (revision === 0n) return; // there is nothing yet that it could be applied to
  for (const { type, kv } of parts) {
    if (!kv || kv.modRevision <= revision) continue; // it is here already: only its ack was lost
    const key = kv.key.toString();
    if (type === Event_EventType.PUT) pairs.set(key, kv.value.toString());
    else pairs.delete(key);
    console.log(type, key);
  }
  parts = [];
  delivered = last;
  if (last > revision) revision = last;
}

// First durable here, then acknowledged: never the other way round. What comes meanwhile shares the next.
async function commit() {
  while (delivered > acked) {
    const ack = { clientId, sessionId, revision: delivered };
    await writeFileAtomic(stateFile, JSON.stringify({ revision: Number(revision), pairs: Object.fromEntries(pairs) }));
    try {
      acked = (await api.ack(ack, { signal: AbortSignal.timeout(30_000) })).checkpoint;
      console.log("ACKED", acked.toString());
    } catch (error) {
      console.error("not acked:", String(error));
      break; // a later ack makes up for it, or the next stream
    }
  }
  committing = undefined;
}
