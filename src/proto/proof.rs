//! What a proof is called: its number in the API and in the store, its name in
//! metrics, on the status page and on the command line. Nobody else lists them.

use super::watchmark::v1;
use crate::resume::Proof;

impl Proof {
    /// Those that need no event, by name.
    pub const IDLE: &'static [&'static str] = &[Self::Progress.name(), Self::Delay.name()];

    /// Empty: there is no position.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "",
            Self::Acked => "acked",
            Self::Progress => "progress",
            Self::Delay => "delay",
        }
    }
}

impl From<Proof> for v1::Proof {
    fn from(proof: Proof) -> Self {
        match proof {
            Proof::Fresh => Self::Unspecified,
            Proof::Acked => Self::Acked,
            Proof::Progress => Self::Progress,
            Proof::Delay => Self::Delay,
        }
    }
}

impl From<v1::Proof> for Proof {
    fn from(proof: v1::Proof) -> Self {
        match proof {
            v1::Proof::Unspecified => Self::Fresh,
            v1::Proof::Acked => Self::Acked,
            v1::Proof::Progress => Self::Progress,
            v1::Proof::Delay => Self::Delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_proof_has_a_number_and_is_acked_fresh_or_idle() {
        let all = (0..).map_while(|number| v1::Proof::try_from(number).ok());
        let mut idle = Vec::new();
        for wire in all {
            let proof = Proof::from(wire);
            assert_eq!(v1::Proof::from(proof), wire);
            let name = wire.as_str_name().trim_start_matches("PROOF_");
            match proof {
                Proof::Fresh => assert_eq!((proof.name(), name), ("", "UNSPECIFIED")),
                _ => assert_eq!(proof.name().to_uppercase(), name),
            }
            if !matches!(proof, Proof::Fresh | Proof::Acked) {
                idle.push(proof.name());
            }
        }
        assert_eq!(idle, Proof::IDLE);
    }
}
