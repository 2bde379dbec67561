//! The name of a subscriber.

use std::{fmt, sync::Arc};

/// Names a subscriber: 1 to 128 characters of `[A-Za-z0-9._:/-]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(Arc<str>);

/// A client_id that is not 1 to 128 characters of `[A-Za-z0-9._:/-]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("client_id must be 1 to 128 characters of [A-Za-z0-9._:/-]")]
pub struct InvalidClientId;

impl ClientId {
    /// # Errors
    /// Unless `text` is 1 to 128 characters of `[A-Za-z0-9._:/-]`.
    pub fn parse(text: &str) -> Result<Self, InvalidClientId> {
        let allowed = |c: u8| c.is_ascii_alphanumeric() || b"._:/-".contains(&c);
        if (1..=128).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidClientId)
        }
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_every_allowed_character_and_the_longest_name() {
        assert!(ClientId::parse("aZ09._:/-").is_ok());
        assert!(ClientId::parse(&"x".repeat(128)).is_ok());
    }

    #[test]
    fn is_shown_as_it_was_given() {
        let client_id = ClientId::parse("orders/eu").unwrap();
        assert_eq!(client_id.as_str(), "orders/eu");
        assert_eq!(format!("{client_id}"), "orders/eu");
        assert_eq!(format!("{client_id:?}"), "\"orders/eu\"");
    }

    #[test]
    fn refuses_empty_long_and_foreign_names() {
        for name in ["", "a b", "ä", "a\0", "a\n", &"x".repeat(129)] {
            assert_eq!(ClientId::parse(name), Err(InvalidClientId), "{name:?}");
        }
    }
}
