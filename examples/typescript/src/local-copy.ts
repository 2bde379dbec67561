// Stands for the application's own work: a durable copy of the range, as of one revision.

import { existsSync, readFileSync } from "node:fs";
import writeFileAtomic from "write-file-atomic";
import { Event, Event_EventType, KeyValue } from "./gen/watchmark/v1/watch.js";

export class LocalCopy {
  revision = 0n; // 0: there is nothing yet
  private pairs = new Map<string, string>();

  constructor(private readonly file: string) {
    if (existsSync(file)) {
      const { revision, pairs } = JSON.parse(readFileSync(file, "utf8"));
      this.revision = BigInt(revision);
      this.pairs = new Map(Object.entries(pairs));
    }
  }

  // By a snapshot: what is not in it no longer exists.
  replace(revision: bigint, kvs: KeyValue[]) {
    this.revision = revision;
    this.pairs = new Map(kvs.map((kv) => [kv.key.toString(), kv.value.toString()]));
    console.log("SNAPSHOT", kvs.length);
  }

  // Whole revisions. What is here already comes again when only its ack was lost.
  apply(revision: bigint, events: Event[]) {
    for (const { type, kv } of events) {
      if (!kv || kv.modRevision <= this.revision) continue;
      const key = kv.key.toString();
      if (type === Event_EventType.PUT) this.pairs.set(key, kv.value.toString());
      else this.pairs.delete(key);
      console.log(type, key);
    }
    if (revision > this.revision) this.revision = revision;
  }

  // What is here now, whatever comes meanwhile.
  async save() {
    const state = { revision: Number(this.revision), pairs: Object.fromEntries(this.pairs) };
    await writeFileAtomic(this.file, JSON.stringify(state));
  }
}
