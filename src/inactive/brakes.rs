//! What keeps a run from blocking far more users than anybody meant.

/// How many users a run may block. More, and it blocks nobody.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Brakes {
    /// In all.
    pub max: u64,
    /// In percent of all users that were looked at, 0 to 100.
    pub max_share: f64,
}

/// 1000 users, 5 %.
impl Default for Brakes {
    fn default() -> Self {
        Self { max: 1000, max_share: 5.0 }
    }
}

/// A run that would block too many.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Braked {
    /// More than [`Brakes::max`].
    #[error(
        "{planned} users would be blocked, more than the {max} that a run may block; look at the plan, then raise --max or set --limit"
    )]
    Max {
        /// How many there would be.
        planned: u64,
        /// How many there may be.
        max: u64,
    },
    /// More than [`Brakes::max_share`].
    #[error(
        "{planned} of {known} users would be blocked, {share:.1} %, more than the {max_share} % that a run may block; \
         look at the plan, then raise --max-share or set --limit"
    )]
    Share {
        /// How many there would be.
        planned: u64,
        /// Of how many.
        known: u64,
        /// Which share that is, in percent.
        share: f64,
        /// Which there may be.
        max_share: f64,
    },
}

impl Brakes {
    /// Whether so many of all `known` users may be blocked.
    ///
    /// # Errors
    /// [`Braked`].
    pub fn check(&self, planned: u64, known: u64) -> Result<(), Braked> {
        if planned > self.max {
            return Err(Braked::Max { planned, max: self.max });
        }
        #[expect(clippy::cast_precision_loss, reason = "nobody counts that far")]
        let share = if planned == 0 { 0.0 } else { planned as f64 * 100.0 / known.max(planned) as f64 };
        if share > self.max_share {
            return Err(Braked::Share { planned, known, share, max_share: self.max_share });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_either_is_too_many() {
        let brakes = Brakes { max: 10, max_share: 5.0 };
        assert!(brakes.check(0, 0).is_ok());
        assert!(brakes.check(10, 200).is_ok());
        assert_eq!(brakes.check(11, 10_000), Err(Braked::Max { planned: 11, max: 10 }));
        let error = brakes.check(10, 199).unwrap_err();
        assert!(error.to_string().contains("10 of 199 users would be blocked, 5.0 %"), "{error}");
        assert!(brakes.check(1, 0).is_err(), "a share of what is not known is all of it");
        assert!(Brakes { max: 10, max_share: 100.0 }.check(10, 0).is_ok());
    }
}
