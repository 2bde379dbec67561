//! Greets every endpoint now and then, used or not, so that an operator sees
//! how it is doing. Owns the pace; refuses to influence any choice. Invariant:
//! one greeting of an endpoint at a time.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tonic::codegen::Bytes;

use super::{
    call::{SINGLE_KEY_BYTES_MAX, range, single_key},
    connect::{Connection, ServerVersion},
    endpoints::Endpoint,
    error::Failure,
    maintenance::{self, Member},
    shared::Shared,
    status::FailureKind,
};
use crate::resume::Revision;

const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Until an endpoint that did not answer is greeted again; doubles, up to the
/// pace of the probe.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Some key; it need not exist.
const ANY_KEY: &[u8] = b"\0";

/// Greets until it is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    join_all(shared.endpoints.all().iter().map(|it| keep(&shared, it))).await;
}

async fn keep(shared: &Shared, endpoint: &Endpoint) {
    let mut again_after = AGAIN_AFTER;
    loop {
        match greet(shared, endpoint).await {
            Ok((member, revision)) => {
                endpoint.greeted(member, revision);
                again_after = AGAIN_AFTER;
                sleep(shared.config.probe_interval).await;
            }
            Err(failure) => {
                endpoint.note(&failure);
                sleep(again_after.min(shared.config.probe_interval)).await;
                again_after = again_after
                    .saturating_mul(2)
                    .min(shared.config.probe_interval);
            }
        }
    }
}

async fn greet(
    shared: &Shared,
    endpoint: &Endpoint,
) -> Result<(Member, Option<Revision>), Failure> {
    let (connection, was_used) = endpoint.unary();
    let outcome = ask(shared, &connection).await;
    let (connection, outcome) = if was_used && outcome.is_err() && !connection.is_usable() {
        let (connection, _) = endpoint.unary();
        let outcome = ask(shared, &connection).await;
        (connection, outcome)
    } else {
        (connection, outcome)
    };
    let (member, revision) = outcome?;
    let server = ServerVersion::from(member);
    // Another use of the connection may have asked already.
    let _ = connection.version.set(server);
    shared.announce(server, &endpoint.name);
    if member.has_leader {
        Ok((member, revision))
    } else {
        Err(Failure::lost_as(
            FailureKind::NoLeader,
            "it has no leader: see to etcd's other members",
        ))
    }
}

async fn ask(
    shared: &Shared,
    connection: &Connection,
) -> Result<(Member, Option<Revision>), Failure> {
    let token = shared.auth.token().await?;
    let asked = maintenance::member(connection, token.value());
    let member = match timeout(GREETING_TIMEOUT, asked).await {
        Ok(Ok(member)) => member,
        Ok(Err(error)) => {
            let failure = Failure::of_client(&error, shared.auth.identity());
            if matches!(failure, Failure::Lost { .. }) {
                connection.retire();
            }
            return Err(failure);
        }
        Err(_) => {
            connection.retire();
            return Err(Failure::lost(format!(
                "no answer within {GREETING_TIMEOUT:?}"
            )));
        }
    };
    if shared.auth.identity().is_some() {
        // Who has a token is known to etcd, and a read could be denied.
        return Ok((member, member.revision));
    }
    // etcd tells its status to anybody, but may want a user for more.
    let read = single_key(Bytes::from_static(ANY_KEY), None);
    let answer = range(
        &shared.auth,
        connection,
        GREETING_TIMEOUT,
        &read,
        SINGLE_KEY_BYTES_MAX,
    );
    let header = answer.await?.header;
    Ok((member, header.and_then(|it| Revision::new(it.revision))))
}
