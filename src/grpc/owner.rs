//! `--client-id-from-cert`: whose client_id it is.
//!
//! A client_id is an application's name, or its name, a colon and a suffix.
//! Invariant: the client_id alone decides which name that is, so no two
//! certificates own the same one. A DNS name and the path of a SPIFFE ID hold
//! no colon; a name that holds one beyond its `scheme://` owns nothing.

use super::{peer::Peer, status::Cause};
use crate::resume::ClientId;

/// How many names a refused caller is told it has.
const TOLD_MAX: usize = 5;

/// Whether the caller may use `client_id`. `peer`: `None` is nobody we know.
pub(super) fn check(client_id: &ClientId, peer: Option<&Peer>) -> Result<(), Cause> {
    let names = peer.and_then(|peer| peer.identities.as_deref());
    let names = names.unwrap_or_default();
    let owner = owner(client_id.as_str());
    if names.iter().any(|name| name == owner) {
        return Ok(());
    }
    let usable = |name: &&String| {
        ClientId::parse(name).is_ok_and(|client_id| self::owner(client_id.as_str()) == *name)
    };
    Err(Cause::ClientIdNotAllowed {
        names: names
            .iter()
            .filter(usable)
            .take(TOLD_MAX)
            .cloned()
            .collect(),
    })
}

/// The name of the application that `client_id` belongs to.
fn owner(client_id: &str) -> &str {
    let scheme_bytes = match client_id.split_once("://") {
        Some((scheme, _)) if !scheme.contains(':') => scheme.len() + "://".len(),
        _ => 0,
    };
    let rest = &client_id[scheme_bytes..];
    let name_bytes = rest.find(':').unwrap_or(rest.len());
    &client_id[..scheme_bytes + name_bytes]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn peer(names: &[&str]) -> Peer {
        Peer {
            identities: Some(names.iter().map(|&name| name.to_owned()).collect()),
            ..Peer::default()
        }
    }

    fn may(names: &[&str], client_id: &str) -> bool {
        check(&ClientId::parse(client_id).unwrap(), Some(&peer(names))).is_ok()
    }

    #[test]
    fn a_name_owns_itself_and_what_follows_a_colon() {
        let spiffe = "spiffe://prod/ns/shop/sa/orders";
        assert!(may(&[spiffe], spiffe));
        assert!(may(&[spiffe], &format!("{spiffe}:blue")));
        assert!(may(&[spiffe], &format!("{spiffe}:blue/1:2")));
        let dns = "orders.shop.svc";
        assert!(may(&["other", dns], dns));
        assert!(may(&["other", dns], &format!("{dns}:blue")));
    }

    #[test]
    fn a_name_owns_nothing_of_anothers() {
        let spiffe = "spiffe://prod/ns/shop/sa/orders";
        for other in [
            "spiffe://prod/ns/shop/sa/orders2",
            "spiffe://prod/ns/shop/sa/orders/canary",
            "spiffe://prod/ns/shop/sa",
            "spiffe://prod",
            "spiffe",
            "spiffe:",
            "orders",
        ] {
            assert!(!may(&[spiffe], other), "{other}");
        }
        // A DNS name that is also how a URI begins.
        assert!(!may(&["spiffe"], spiffe));
        assert!(may(&["spiffe"], "spiffe:orders"));
        assert!(!may(&["orders.shop"], "orders.shop.svc"));
        assert!(!may(&["Orders"], "orders"));
        // A colon inside a name would make it the beginning of another.
        assert!(!may(
            &["https://host:8443/orders"],
            "https://host:8443/orders"
        ));
        assert!(!may(&["urn:orders"], "urn:orders"));
    }

    #[test]
    fn without_a_usable_name_nothing_is_owned_and_the_caller_is_told_so() {
        let client_id = ClientId::parse("orders").unwrap();
        let none = Err(Cause::ClientIdNotAllowed { names: Vec::new() });
        assert_eq!(check(&client_id, None), none);
        assert_eq!(check(&client_id, Some(&Peer::default())), none);
        for unusable in [&[][..], &["*.shop.svc", "urn:orders", ""]] {
            assert_eq!(check(&client_id, Some(&peer(unusable))), none);
        }
        let many: Arc<[String]> = (0..50).map(|n| format!("n{n}")).collect();
        let many = Peer {
            identities: Some(many),
            ..Peer::default()
        };
        match check(&client_id, Some(&many)) {
            Err(Cause::ClientIdNotAllowed { names }) => assert_eq!(names.len(), TOLD_MAX),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn a_client_id_has_one_owner(client_id in "[a-c./:-]{1,12}", names in prop::collection::vec("[a-c./:-]{1,12}", 2..6)) {
            let mut owners: Vec<_> = names.iter().filter(|name| may(&[name], &client_id)).collect();
            owners.dedup();
            prop_assert!(owners.len() <= 1, "{client_id} belongs to {owners:?}");
        }
    }
}
