//! Checks what callers send, before anything else sees it.

use bytes::Bytes;

use super::{owner, peer::Peer, status::Cause};
use crate::{
    proto::{
        PairOptions,
        watchmark::v1::{self as pb, SubscribeRequest},
    },
    resume::{
        ClientId, KeyRange, OnCompaction, Revision, Selection, SessionId, SessionRequest, Start,
    },
};

/// What this sidecar lets its subscribers watch.
#[derive(Clone, Debug, Default)]
pub struct EdgeRules {
    /// `--default-prefix`: for a new client_id that names no range.
    pub default_range: Option<KeyRange>,
    /// `--allow-prefix`: every range must lie in one of them. Empty: any range
    /// with an upper end.
    pub allowed_ranges: Vec<KeyRange>,
    /// `--client-id-from-cert`: a client_id belongs to the application whose
    /// certificate names it. What is not about one client_id of the caller's
    /// own must not be served beside it.
    pub client_id_from_cert: bool,
}

/// A `SubscribeRequest` that says something sensible, but perhaps no range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Asked {
    pub(super) client_id: ClientId,
    range: Option<KeyRange>,
    no_put: bool,
    no_delete: bool,
    start: Start,
    resume_after: Option<Revision>,
    on_compaction: OnCompaction,
    auto_ack: bool,
    max_unacked_events: Option<u32>,
    pub(super) pair_options: PairOptions,
}

/// An `AckRequest` that says something sensible.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AskedAck {
    pub(super) client_id: ClientId,
    pub(super) session: Option<SessionId>,
    pub(super) revision: Revision,
}

impl Asked {
    pub(super) fn parse(request: SubscribeRequest) -> Result<Self, Cause> {
        // Exhaustive: a new field has to be put where it belongs. `Selection`,
        // `SessionRequest` and `PairOptions` say what is theirs.
        let SubscribeRequest {
            client_id,
            prefix,
            key,
            range_end,
            start,
            resume_after,
            prev_kv,
            no_put,
            no_delete,
            keys_only,
            on_compaction,
            ack_mode,
            max_unacked_events,
        } = request;
        let start = match pb::Start::try_from(start) {
            Ok(pb::Start::Unspecified | pb::Start::Snapshot) => Start::Snapshot,
            Ok(pb::Start::Latest) => Start::Latest,
            Err(_) => return Err(unknown_value("start", start)),
        };
        let on_compaction = match pb::CompactionPolicy::try_from(on_compaction) {
            Ok(pb::CompactionPolicy::Unspecified | pb::CompactionPolicy::Resync) => {
                OnCompaction::Resync
            }
            Ok(pb::CompactionPolicy::Fail) => OnCompaction::Fail,
            Err(_) => return Err(unknown_value("on_compaction", on_compaction)),
        };
        let auto_ack = match pb::AckMode::try_from(ack_mode) {
            Ok(pb::AckMode::Unspecified | pb::AckMode::Manual) => false,
            Ok(pb::AckMode::Auto) => true,
            Err(_) => return Err(unknown_value("ack_mode", ack_mode)),
        };
        if resume_after < 0 {
            return Err(Cause::InvalidArgument {
                field: "resume_after",
                problem: format!(
                    "{resume_after} is negative; give the last revision you processed, or leave \
                     it out"
                ),
            });
        }
        Ok(Self {
            client_id: self::client_id(&client_id)?,
            range: self::range(prefix, key, range_end)?,
            no_put,
            no_delete,
            start,
            resume_after: Revision::new(resume_after),
            on_compaction,
            auto_ack,
            max_unacked_events: Some(max_unacked_events).filter(|&max| max > 0),
            pair_options: PairOptions { prev_kv, keys_only },
        })
    }

    /// Whether the range is the stored or the default one.
    pub(super) const fn needs_stored_selection(&self) -> bool {
        self.range.is_none()
    }

    /// The whole request. `stored` is what the client_id watches already.
    pub(super) fn resolve(
        self,
        stored: Option<Selection>,
        rules: &EdgeRules,
    ) -> Result<SessionRequest, Cause> {
        let names_filters = self.no_put || self.no_delete;
        let selection = match (self.range, stored) {
            (None, Some(stored)) if !names_filters => stored,
            (range, stored) => Selection {
                range: range
                    .or_else(|| stored.map(|stored| stored.range))
                    .or_else(|| rules.default_range.clone())
                    .ok_or(Cause::NoRange)?,
                no_put: self.no_put,
                no_delete: self.no_delete,
            },
        };
        rules.check(&selection.range)?;
        Ok(SessionRequest {
            selection,
            start: self.start,
            resume_after: self.resume_after,
            on_compaction: self.on_compaction,
            auto_ack: self.auto_ack,
            max_unacked_events: self.max_unacked_events,
        })
    }
}

impl AskedAck {
    pub(super) fn parse(request: &pb::AckRequest) -> Result<Self, Cause> {
        Ok(Self {
            client_id: client_id(&request.client_id)?,
            session: Some(SessionId(request.session_id)).filter(|session| session.0 > 0),
            revision: Revision::new(request.revision).ok_or_else(|| Cause::InvalidArgument {
                field: "revision",
                problem: format!(
                    "{} is not above zero; give the revision of an Events or SnapshotEnd",
                    request.revision
                ),
            })?,
        })
    }
}

impl EdgeRules {
    /// Whether `range` may be watched.
    pub fn allows(&self, range: &KeyRange) -> bool {
        if self.allowed_ranges.is_empty() {
            return !range.is_open_ended();
        }
        let mut allowed_ranges = self.allowed_ranges.iter();
        allowed_ranges.any(|allowed| allowed.contains(range))
    }

    /// Whether the caller may speak for `client_id`.
    pub(super) fn check_owner(
        &self,
        client_id: &ClientId,
        peer: Option<&Peer>,
    ) -> Result<(), Cause> {
        if self.client_id_from_cert {
            owner::check(client_id, peer)
        } else {
            Ok(())
        }
    }

    fn check(&self, range: &KeyRange) -> Result<(), Cause> {
        if self.allows(range) {
            Ok(())
        } else {
            Err(Cause::RangeNotAllowed {
                is_open_ended: range.is_open_ended(),
            })
        }
    }
}

pub(super) fn client_id(text: &str) -> Result<ClientId, Cause> {
    ClientId::parse(text).map_err(|error| Cause::InvalidArgument {
        field: "client_id",
        problem: error.to_string(),
    })
}

fn range(prefix: Bytes, key: Bytes, range_end: Bytes) -> Result<Option<KeyRange>, Cause> {
    let invalid = |field, problem: &str| {
        Err(Cause::InvalidArgument {
            field,
            problem: problem.to_owned(),
        })
    };
    // What is kept must not keep the whole request.
    let [prefix, key, range_end] = [prefix, key, range_end].map(|it| Bytes::copy_from_slice(&it));
    match (prefix.is_empty(), key.is_empty(), range_end.is_empty()) {
        (true, true, true) => Ok(None),
        (false, true, true) => Ok(Some(KeyRange::prefix(prefix))),
        (false, ..) => invalid(
            "prefix",
            "given together with key or range_end; give prefix or key, not both",
        ),
        (true, true, false) => invalid("range_end", "given without key"),
        (true, false, _) => match KeyRange::new(key, range_end) {
            Ok(range) => Ok(Some(range)),
            Err(error) => invalid("range_end", &error.to_string()),
        },
    }
}

fn unknown_value(field: &'static str, value: i32) -> Cause {
    Cause::InvalidArgument {
        field,
        problem: format!("{value} is not a value this version knows"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: SubscribeRequest) -> Result<Asked, Cause> {
        Asked::parse(SubscribeRequest {
            client_id: "orders".to_owned(),
            ..request
        })
    }

    fn prefix(prefix: &'static str) -> KeyRange {
        KeyRange::prefix(prefix.into())
    }

    fn selection(range: KeyRange) -> Selection {
        Selection {
            range,
            no_put: true,
            no_delete: false,
        }
    }

    #[test]
    fn a_bare_client_id_is_a_whole_request() {
        let asked = asked(SubscribeRequest::default()).unwrap();
        assert!(asked.needs_stored_selection());
        let stored = selection(prefix("a/"));
        let resolved = asked.resolve(Some(stored.clone()), &EdgeRules::default());
        assert_eq!(
            resolved.unwrap(),
            SessionRequest {
                selection: stored,
                start: Start::Snapshot,
                resume_after: None,
                on_compaction: OnCompaction::Resync,
                auto_ack: false,
                max_unacked_events: None,
            }
        );
    }

    #[test]
    fn the_range_is_the_given_then_the_stored_then_the_default_one() {
        let rules = EdgeRules {
            default_range: Some(prefix("default/")),
            ..EdgeRules::default()
        };
        let range_of = |given: &'static str, stored: Option<Selection>| {
            let request = SubscribeRequest {
                prefix: given.into(),
                no_delete: true,
                ..SubscribeRequest::default()
            };
            asked(request)
                .unwrap()
                .resolve(stored, &rules)
                .map(|it| it.selection.range)
        };
        let stored = Some(selection(prefix("stored/")));
        assert_eq!(range_of("given/", stored.clone()), Ok(prefix("given/")));
        assert_eq!(range_of("", stored), Ok(prefix("stored/")));
        assert_eq!(range_of("", None), Ok(prefix("default/")));
        let without_default = asked(SubscribeRequest::default()).unwrap();
        assert_eq!(
            without_default.resolve(None, &EdgeRules::default()),
            Err(Cause::NoRange)
        );
    }

    #[test]
    fn an_open_ended_range_needs_the_empty_allowed_prefix() {
        let resolve = |allowed: &[&'static str]| {
            let request = SubscribeRequest {
                key: b"a".as_slice().into(),
                range_end: b"\0".as_slice().into(),
                ..SubscribeRequest::default()
            };
            let rules = EdgeRules {
                allowed_ranges: allowed.iter().copied().map(prefix).collect(),
                ..EdgeRules::default()
            };
            asked(request).unwrap().resolve(None, &rules)
        };
        let refused = Err(Cause::RangeNotAllowed {
            is_open_ended: true,
        });
        assert_eq!(resolve(&[]), refused);
        assert_eq!(resolve(&["a"]), refused);
        assert!(resolve(&["b", ""]).is_ok());
    }

    #[test]
    fn a_stored_range_is_checked_against_what_is_allowed_now() {
        let rules = EdgeRules {
            allowed_ranges: vec![prefix("a/")],
            ..EdgeRules::default()
        };
        let asked = asked(SubscribeRequest::default()).unwrap();
        assert_eq!(
            asked.resolve(Some(selection(prefix("b/"))), &rules),
            Err(Cause::RangeNotAllowed {
                is_open_ended: false
            })
        );
    }

    #[test]
    fn a_senseless_request_is_refused_by_the_name_of_its_field() {
        let field = |request| match asked(request) {
            Err(Cause::InvalidArgument { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        let base = SubscribeRequest::default;
        let request = SubscribeRequest { start: 9, ..base() };
        assert_eq!(field(request), "start");
        let request = SubscribeRequest {
            on_compaction: -1,
            ..base()
        };
        assert_eq!(field(request), "on_compaction");
        let request = SubscribeRequest {
            ack_mode: 3,
            ..base()
        };
        assert_eq!(field(request), "ack_mode");
        let request = SubscribeRequest {
            resume_after: -1,
            ..base()
        };
        assert_eq!(field(request), "resume_after");
        let request = SubscribeRequest {
            range_end: "b".into(),
            ..base()
        };
        assert_eq!(field(request), "range_end");
        let request = SubscribeRequest {
            key: "b".into(),
            range_end: "a".into(),
            ..base()
        };
        assert_eq!(field(request), "range_end");
        let request = SubscribeRequest {
            prefix: "a".into(),
            key: "a".into(),
            ..base()
        };
        assert_eq!(field(request), "prefix");
        let request = SubscribeRequest {
            prefix: "a".into(),
            range_end: "b".into(),
            ..base()
        };
        assert_eq!(field(request), "prefix");
        let nameless = Asked::parse(base());
        assert!(matches!(
            nameless,
            Err(Cause::InvalidArgument {
                field: "client_id",
                ..
            })
        ));
    }

    #[test]
    fn an_ack_needs_a_name_and_a_revision_above_zero() {
        let ack = |client_id: &str, revision| {
            AskedAck::parse(&pb::AckRequest {
                client_id: client_id.to_owned(),
                revision,
                session_id: 0,
            })
        };
        assert_eq!(ack("orders", 7).unwrap().session, None);
        for (client_id, revision, expected) in [
            ("", 7, "client_id"),
            ("orders", 0, "revision"),
            ("orders", -7, "revision"),
        ] {
            match ack(client_id, revision) {
                Err(Cause::InvalidArgument { field, .. }) => assert_eq!(field, expected),
                other => panic!("{other:?}"),
            }
        }
    }
}
