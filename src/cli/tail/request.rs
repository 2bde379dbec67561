//! What is known of the client_id before it is tailed, what that forbids, and
//! what is asked for.

use std::time::SystemTime;

use tonic::Code;

use super::{Flags, Start};
use crate::{
    cli::{connect::Server, failure::Failure, note::note, words},
    proto::watchmark::v1::{self as pb, SubscribeRequest, Subscription},
};

/// What the server says of a client_id.
pub(super) enum Found {
    /// There is none.
    Nothing,
    Stored(Box<Subscription>),
    /// It does not say.
    Unknown(Failure),
}

impl Found {
    pub(super) async fn ask(server: &Server, client_id: &str) -> Result<Self, Failure> {
        match server.subscription(client_id).await {
            Ok(subscription) => Ok(Self::Stored(Box::new(subscription))),
            Err(failure) if failure.is_not_found() => Ok(Self::Nothing),
            // A port may have the one service and not the other.
            Err(Failure::Refused(refusal))
                if [Code::Unimplemented, Code::PermissionDenied].contains(&refusal.code) =>
            {
                Ok(Self::Unknown(Failure::Refused(refusal)))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Refuses what could harm a subscriber that lives on this client_id.
    pub(super) fn permits(&self, flags: &Flags, now: SystemTime) -> Result<(), Failure> {
        let client_id = &flags.client_id;
        let refuse = |message| Err(Failure::Failed(message));
        match self {
            Self::Unknown(failure) if !flags.take_over => refuse(format!(
                "whether {client_id} has a live stream, which this would end, cannot be found \
                 out: {failure}. Give --take-over to go on without knowing"
            )),
            Self::Stored(it) if it.session.is_some() && !flags.take_over => {
                let (peer, since) = live(it, now);
                let prefix = words::prefix(it).map(words::readable);
                refuse(format!(
                    "{client_id} has a live stream, from {peer} for {since}, which this would \
                     end: look at the same keys under a client_id of your own (watchmark tail \
                     NAME --prefix {}), or give --take-over",
                    prefix.as_deref().unwrap_or("PREFIX")
                ))
            }
            Self::Stored(it)
                if it.checkpoint == 0 && flags.start == Some(Start::Latest) && !flags.ack =>
            {
                refuse(format!(
                    "{client_id} is known and has no checkpoint yet: --start latest would give it \
                     one, and its subscriber would never see what is there already. Leave \
                     --start out, or give --ack to mean it"
                ))
            }
            _ => Ok(()),
        }
    }

    /// Says what this does to others.
    pub(super) fn announce(&self, flags: &Flags) {
        let client_id = &flags.client_id;
        match self {
            Self::Nothing => note(&format!(
                "{client_id} is new, and stays stored: watchmark rm {client_id} forgets it"
            )),
            Self::Stored(it) if it.session.is_some() => {
                let (peer, _) = live(it, SystemTime::now());
                note(&format!(
                    "taking over the live stream of {client_id} from {peer}: that one ends with \
                     SESSION_SUPERSEDED, and its subscriber has to subscribe again after this"
                ));
            }
            Self::Stored(_) => {}
            Self::Unknown(_) => note(&format!(
                "taking over {client_id}: if it has a live stream, that one ends with \
                 SESSION_SUPERSEDED"
            )),
        }
    }

    pub(super) fn request(&self, flags: &Flags) -> SubscribeRequest {
        let bytes = |text: &Option<String>| text.clone().unwrap_or_default().into();
        // A known client_id without a checkpoint would get one from LATEST.
        let start = flags.start.unwrap_or(match self {
            Self::Nothing => Start::Latest,
            Self::Stored(_) | Self::Unknown(_) => Start::Snapshot,
        });
        SubscribeRequest {
            client_id: flags.client_id.clone(),
            prefix: bytes(&flags.prefix),
            key: bytes(&flags.key),
            range_end: bytes(&flags.range_end),
            start: match start {
                Start::Latest => pb::Start::Latest.into(),
                Start::Snapshot => pb::Start::Snapshot.into(),
            },
            // What is not shown does not travel.
            keys_only: !flags.values,
            ack_mode: pb::AckMode::Manual.into(),
            ..SubscribeRequest::default()
        }
    }
}

/// Who has the stream, and for how long.
fn live(subscription: &Subscription, now: SystemTime) -> (String, String) {
    let session = subscription.session.as_ref();
    let since = session.and_then(|session| session.since.as_ref());
    let peer = session.map(|session| words::one_line(&session.peer));
    (peer.unwrap_or_default(), words::age(since, now))
}
