// Keeps a copy of a range of etcd's keys in a JSON file, whatever is restarted meanwhile.
//
//     consumer.js ADDRESS CLIENT_ID PREFIX STATE_FILE     ADDRESS: HOST:PORT or unix:///path.sock
//
// Exit codes: 0 stopped by SIGTERM, 1 refused for good, 3 another instance took over.

import { setTimeout as sleep } from "node:timers/promises";
import { createChannel, createClientFactory } from "nice-grpc";
import { ErrorInfo, RetryInfo, RichClientError, errorDetailsClientMiddleware } from "nice-grpc-error-details";
import { AdminServiceDefinition } from "./gen/watchmark/v1/admin.js";
import { Event, KeyValue, SubscribeResponse, WatchServiceDefinition } from "./gen/watchmark/v1/watch.js";
import { LocalCopy } from "./local-copy.js";

const DELAY_MIN = 100;
const DELAY_MAX = 5_000;
const OPTIONS = { "grpc.keepalive_time_ms": 20_000, "grpc.max_reconnect_backoff_ms": DELAY_MAX };

class Consumer {
  private readonly api;
  private readonly admin;
  private readonly stopping = new AbortController();
  private delay = DELAY_MIN;
  // Of the present stream.
  private sessionId = 0n;
  private delivered = 0n;
  private acked = 0n;
  private snapshot: KeyValue[] = [];
  private events: Event[] = [];
  private committing: Promise<void> | undefined;

  constructor(address: string, private clientId: string, private prefix: string, private copy: LocalCopy) {
    const channel = createChannel(address, undefined, OPTIONS);
    const clients = createClientFactory().use(errorDetailsClientMiddleware);
    this.api = clients.create(WatchServiceDefinition, channel);
    this.admin = clients.create(AdminServiceDefinition, channel);
  }

  stop() {
    this.stopping.abort();
  }

  async run(): Promise<number> {
    const { signal } = this.stopping;
    for (; ; this.delay = Math.min(this.delay * 2, DELAY_MAX)) {
      const ended = await this.stream(signal).catch((error: unknown) => error);
      if (signal.aborted) return 0;
      const [reason, retryAfter] = explain(ended);
      console.error("ended:", reason, String(ended));
      // Else asking again would not help.
      if (reason && retryAfter === undefined) return reason === "SESSION_SUPERSEDED" ? 3 : 1;
      const pause = Math.max(this.delay, retryAfter ?? 0) * (1 + Math.random() / 2);
      await sleep(pause, undefined, { signal }).catch(() => {});
    }
  }

  // Follows one stream. What has piled up is processed, and acknowledged, together.
  private async stream(signal: AbortSignal) {
    // The limit bounds what waits for its ack: above it watchmark waits.
    const request = { clientId: this.clientId, prefix: Buffer.from(this.prefix), maxUnackedEvents: 10_000 };
    [this.delivered, this.acked, this.snapshot, this.events] = [0n, 0n, [], []];
    try {
      for await (const { message } of this.api.subscribe(request, { signal })) {
        await this.receive(message);
        if (this.delivered > this.acked) this.committing ??= this.commit();
      }
    } finally {
      await this.committing;
      await this.commit();
    }
  }

  private async receive(message: SubscribeResponse["message"]) {
    switch (message?.$case) {
      case "opened":
        [this.delay, this.sessionId, this.acked] = [DELAY_MIN, message.value.sessionId, message.value.checkpoint];
        // Our copy is lost: this stream ends, and the next has a snapshot.
        if (message.value.resumed && this.copy.revision === 0n)
          await this.admin.seekSubscription({ clientId: this.clientId, target: { $case: "snapshot", value: true } });
        break;
      case "snapshotBegin": // whatever came before it is void
        [this.acked, this.snapshot, this.events] = [0n, [], []];
        break;
      case "snapshotChunk":
        this.snapshot.push(...message.value.kvs);
        break;
      case "snapshotEnd":
        this.copy.replace(message.value.revision, this.snapshot);
        [this.delivered, this.snapshot] = [message.value.revision, []];
        break;
      case "events":
        this.events.push(...message.value.events);
        if (!message.value.partial) this.reached(message.value.revision); // a revision is processed whole
        break;
      case "progress": // up to here nothing else happened
        this.reached(message.value.revision);
        break;
      case "state":
        console.log(message.value.state);
    }
  }

  private reached(revision: bigint) {
    if (this.copy.revision === 0n) return; // there is nothing yet that it could be applied to
    this.copy.apply(revision, this.events);
    [this.delivered, this.events] = [revision, []];
  }

  // First durable here, then acknowledged: never the other way round. What comes meanwhile shares the next.
  private async commit() {
    while (this.delivered > this.acked) {
      const ack = { clientId: this.clientId, sessionId: this.sessionId, revision: this.delivered };
      await this.copy.save();
      try {
        this.acked = (await this.api.ack(ack, { signal: AbortSignal.timeout(30_000) })).checkpoint;
        console.log("ACKED", this.acked.toString());
      } catch (error) {
        console.error("not acked:", String(error));
        break; // a later ack makes up for it, or the next stream
      }
    }
    this.committing = undefined;
  }
}

// watchmark's reason, and after how many milliseconds the same call may succeed, if ever.
function explain(error: unknown): [string | undefined, number | undefined] {
  const details = error instanceof RichClientError ? error.extra : [];
  const info = details.find((it): it is ErrorInfo => it.$type === ErrorInfo.$type);
  const retry = details.find((it): it is RetryInfo => it.$type === RetryInfo.$type);
  const { seconds = 0, nanos = 0 } = retry?.retryDelay ?? {};
  return [info?.reason, retry && Number(seconds) * 1e3 + nanos / 1e6];
}

const [address = "", clientId = "", prefix = "", stateFile = ""] = process.argv.slice(2);
const consumer = new Consumer(address, clientId, prefix, new LocalCopy(stateFile));
process.on("SIGTERM", () => consumer.stop());
process.exit(await consumer.run());
