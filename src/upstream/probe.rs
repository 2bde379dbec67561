//! Samples etcd's revision, and checks that watched ranges may still be read:
//! etcd checks a watch only when it is created. Owns the samples; refuses to
//! sample a server that serves no watch. Invariant: `asked_at` is before the
//! revision was read, and a sample names the member that answered.
//!
//! A sample is a read-only transaction whose branch that is not run reads a
//! watched range. etcd checks permission for both branches, so that it answers
//! for the whole range at the cost of no key.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{debug, warn};

use super::{
    call::{call, with_token},
    convert,
    endpoints::Endpoint,
    error::Failure,
    etcd::Shared,
    live::{RangeId, id},
};
use crate::{
    proto::etcdserverpb::{RangeRequest, RequestOp, TxnRequest, TxnResponse, request_op::Request},
    resume::{KeyRange, ProbeSample, RefusalKind},
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
    let request = check(&range);
    let answer = call(&shared.auth, &connection, PROBE_TIMEOUT, |token| {
        let mut kv = connection.kv();
        let request = with_token(request.clone(), &token);
        async move { kv.txn(request).await }
    })
    .await;
    match answer.and_then(|answer| sample(&answer, asked_at)) {
        Ok((sample, header)) => {
            shared.newest.update(header, now);
            Some(sample)
        }
        Err(Failure::Refused(refusal)) if refusal.kind == RefusalKind::PermissionDenied => {
            warn!(endpoint = %endpoint.name, "ending the watches of a range that may no longer be read");
            shared.live.refuse(&range, refusal);
            None
        }
        Err(failure) => {
            debug!(endpoint = %endpoint.name, %failure, "etcd's revision not sampled");
            None
        }
    }
}

/// With no comparison the first branch is run, which is empty.
fn check(range: &KeyRange) -> TxnRequest {
    let read = RangeRequest {
        key: range.key().clone(),
        range_end: range.range_end().clone(),
        limit: 1,
        keys_only: true,
        ..RangeRequest::default()
    };
    TxnRequest {
        success: Vec::new(),
        failure: vec![RequestOp {
            request: Some(Request::RequestRange(read)),
        }],
    }
}

fn sample(
    answer: &TxnResponse,
    asked_at: Duration,
) -> Result<(ProbeSample, crate::resume::Header), Failure> {
    let header = convert::header(answer.header.as_ref())?;
    let sample = ProbeSample {
        member_id: answer.header.as_ref().map_or(0, |header| header.member_id),
        asked_at,
        revision: header.revision,
    };
    Ok((sample, header))
}
