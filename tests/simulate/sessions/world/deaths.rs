//! How a process ends, and the next one begins.

use super::*;

impl World {
    /// The process dies, and the next one starts.
    pub(super) async fn crash(&mut self) {
        self.tally.count("crash of the process");
        let waiting = self.store.waiting();
        let kept = self.random.usize(0..=waiting);
        if kept < waiting {
            self.tally.count("write lost with the process");
        }
        self.restart(kept).await;
    }

    pub(super) async fn restart(&mut self, kept: usize) {
        for (_, ack) in self.acks.drain(..) {
            ack.abort();
        }
        self.supervisor.abort();
        for client in &mut self.clients {
            client.live = None;
            client.superseded.clear();
        }
        let seed = self.random.u64(..);
        // What acks and the supervisor still hold goes with them.
        tokio::task::yield_now().await;
        self.upstream = SimUpstream::new(self.etcd.clone());
        let (registry, supervisor) = start(seed, &self.upstream, &self.store);
        let old = std::mem::replace(&mut self.registry, registry);
        self.supervisor = supervisor;
        assert_eq!(
            Arc::strong_count(&old),
            1,
            "somebody holds the dead process"
        );
        drop(old);
        tokio::task::yield_now().await;
        self.store.crash(kept);
        self.store.panic_on_next_put(false);
        self.panicked = false;
    }

    /// The process is asked to stop: it does, once everything is acknowledged.
    pub(super) async fn drain(&mut self) {
        self.tally.count("drain");
        for client in 0..CLIENTS {
            self.read(client, 100);
        }
        let registry = Arc::clone(&self.registry);
        let mut drain = Box::pin(registry.drain());
        let mut drained = drain.as_mut().now_or_never();
        self.settle_once().await;
        for client in &mut self.clients {
            if let Some(mut live) = client.live.take() {
                let end = live.messages.next().now_or_never();
                let is_drained = matches!(end, Some(Some(Err(_))));
                assert!(is_drained, "4.10: the stream says {end:?}");
            }
        }
        for number in 0..CLIENTS {
            // Whatever was queued may be acknowledged still.
            let id = self.clients[number].id.clone();
            let head = self.etcd.lock().head();
            let mut acks = Vec::new();
            for revision in 1..=head {
                acks.push(revision);
            }
            self.store.settle(&id, head);
            for revision in acks {
                let registry = Arc::clone(&self.registry);
                let id = id.clone();
                let ack = async move { drop(registry.ack(&id, None, rev(revision)).await) };
                self.acks.push((String::new(), tokio::spawn(ack)));
            }
        }
        for _ in 0..200 {
            self.settle_once().await;
            self.store.flush_one(true);
        }
        drained = drained.or_else(|| drain.as_mut().now_or_never());
        assert!(drained.is_some(), "4.10: a drain never ends");
        drop(drain);
        drop(registry);
        self.restart(0).await;
    }
}
