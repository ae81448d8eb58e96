//! Subjects as issuers name them, and when they were last admitted: within a year, of every tenth at the same moment, as after an import.

use std::time::Duration;

use portcullis::{
    clock::Timestamp,
    token::claims::{InvalidId, IssuerName, Subject},
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Makes subjects by their numbers.
pub(crate) struct Ids {
    pub(crate) issuer: IssuerName,
    now: Timestamp,
}

impl Ids {
    pub(crate) fn new(now: Timestamp) -> Result<Self, InvalidId> {
        Ok(Self { issuer: "bench".try_into()?, now })
    }

    pub(crate) fn subject(&self, n: u64) -> Result<Subject, InvalidId> {
        let id = format!("auth0|{:016x}{:08x}", mixed(n, 3), mixed(n, 4) >> 32);
        Ok(Subject { issuer: self.issuer.clone(), id: (&*id).try_into()? })
    }

    /// When the n-th was last admitted.
    pub(crate) fn seen(&self, n: u64) -> Timestamp {
        if n.is_multiple_of(10) {
            return self.import();
        }
        self.now.minus(Duration::from_millis(1 + mixed(n, 5) % (365 * 24 * 60 * 60 * 1000)))
    }

    /// The moment at which every tenth was.
    pub(crate) fn import(&self) -> Timestamp {
        self.now.minus(200 * DAY)
    }

    /// That many days ago.
    pub(crate) fn ago(&self, days: u32) -> Timestamp {
        self.now.minus(days * DAY)
    }
}

/// SplitMix64.
pub(crate) fn mixed(n: u64, salt: u64) -> u64 {
    let mut word =
        n.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15) << 1 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
