//! Samples etcd's revision, and checks that watched ranges may still be read:
//! etcd checks a watch only when it is created. Owns the samples; refuses to
//! sample a server that serves no watch. Invariant: `asked_at` is before the
//! revision was read, and a sample names the member that answered.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{debug, warn};

use super::{
    call::check_permission,
    convert,
    endpoints::Endpoint,
    error::Failure,
    live::{RangeId, id},
    shared::Shared,
};
use crate::{
    proto::etcdserverpb::TxnResponse,
    resume::{Header, KeyRange, ProbeSample, RefusalKind},
};

const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Probes until it is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    let every = shared.config.probe_interval;
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // By endpoint: the range checked last.
    let mut last_by_endpoint = BTreeMap::<usize, RangeId>::new();
    loop {
        ticks.tick().await;
        let mut probes = Vec::new();
        for (index, endpoint) in shared.endpoints.all().iter().enumerate() {
            let last = last_by_endpoint.get(&index);
            if endpoint.serves_a_watch()
                && let Some(range) = shared.live.next_after(last)
            {
                last_by_endpoint.insert(index, id(&range));
                probes.push(probe(&shared, endpoint, range));
            }
        }
        let answers = join_all(probes).await;
        publish(&shared, answers.into_iter().flatten());
    }
}

/// A failed probe takes back no older sample.
fn publish(shared: &Shared, answers: impl Iterator<Item = ProbeSample>) {
    let mut samples: BTreeMap<u64, ProbeSample> = shared
        .samples
        .borrow()
        .iter()
        .map(|&sample| (sample.member_id, sample))
        .collect();
    let mut changed = false;
    for answer in answers {
        changed = true;
        samples.insert(answer.member_id, answer);
    }
    if changed {
        shared.samples.send_replace(samples.into_values().collect());
    }
}

async fn probe(shared: &Shared, endpoint: &Endpoint, range: KeyRange) -> Option<ProbeSample> {
    let (connection, _) = endpoint.probe();
    let now = Instant::now();
    let asked_at = now.duration_since(shared.config.origin);
    let answer = check_permission(&shared.auth, &connection, PROBE_TIMEOUT, &range).await;
    match answer.and_then(|answer| sample(&answer, asked_at)) {
        Ok((sample, header)) => {
            shared.config.metrics.probe.observe(now.elapsed());
            shared.newest.update(header, now);
            shared.denials.allowed(&id(&range));
            endpoint.works();
            Some(sample)
        }
        Err(Failure::Refused(refusal)) if refusal.kind == RefusalKind::PermissionDenied => {
            shared
                .denials
                .note(&range, &Failure::Refused(refusal.clone()));
            warn!(endpoint = %endpoint.name, "ending the watches of a range that may no longer be read");
            shared.live.refuse(&range, refusal);
            None
        }
        Err(failure) => {
            endpoint.note(&failure);
            debug!(endpoint = %endpoint.name, %failure, "etcd's revision not sampled");
            None
        }
    }
}

fn sample(answer: &TxnResponse, asked_at: Duration) -> Result<(ProbeSample, Header), Failure> {
    let header = convert::header(answer.header.as_ref())?;
    let sample = ProbeSample {
        member_id: answer.header.as_ref().map_or(0, |header| header.member_id),
        asked_at,
        revision: header.revision,
    };
    Ok((sample, header))
}
