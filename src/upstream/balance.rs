//! Which of several is asked next. Pure: who they are and how busy they are is told.
//!
//! A **schedule** has as many turns for each as its weight says, spread evenly. Round robin takes them in order. Least loaded takes
//! two by chance and asks the less busy one, measured by its weight ("power of two choices"): nearly as even as asking the least busy
//! of all, without everybody running to the same one at the same moment.

/// How many turns a schedule has at most. Shares are rounded to it where weights have no common measure.
const TURNS: u64 = 4096;

/// How one is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Balance {
    /// The less busy of two.
    #[default]
    LeastLoaded,
    /// One after another, by weight.
    RoundRobin,
}

/// What is chosen from: indices, by their weights.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Schedule {
    turns: Box<[u16]>,
    /// By index; 0: it has no turn.
    weights: Box<[u64]>,
}

impl Schedule {
    /// A schedule for these weights. Whoever has the weight 0 has no turn.
    pub(super) fn new(weights: &[u64]) -> Self {
        let counts = counts(weights);
        let total: i64 = counts.iter().sum();
        // Smooth weighted round robin: each gains its weight at each turn, and whoever has most has it, and pays all.
        let mut credit = vec![0_i64; counts.len()];
        let mut turns = Vec::new();
        for _ in 0..total {
            credit.iter_mut().zip(&counts).for_each(|(credit, count)| *credit += count);
            // The first of several, so that the order is as written.
            let most = (0..credit.len()).rev().filter(|&index| counts[index] > 0).max_by_key(|&index| credit[index]);
            let Some(most) = most else { break };
            credit[most] -= total;
            turns.extend(u16::try_from(most));
        }
        Self { turns: turns.into(), weights: weights.into() }
    }

    /// Whose turn it is.
    pub(super) fn turn(&self, number: usize) -> Option<usize> {
        let turns = self.turns.len();
        if turns < 2 {
            return self.turns.first().copied().map(usize::from);
        }
        self.turns.get(number % turns).copied().map(usize::from)
    }

    /// The less busy of two that `random` chooses. `load`: how many requests one has under way.
    #[expect(clippy::cast_possible_truncation, reason = "parts of a number")]
    pub(super) fn less_loaded(&self, random: u64, load: impl Fn(usize) -> u32) -> Option<usize> {
        // Any part of it is as good as any other.
        let (one, other) = ((random >> 32) as u32 as usize, random as u32 as usize);
        let first = self.turn(one)?;
        let Some(second) = self.turn_of_another(other, |index| index == first) else { return Some(first) };
        let busy = |index: usize, by: usize| u128::from(load(index)) * u128::from(self.weights[by]);
        Some(if busy(second, first) < busy(first, second) { second } else { first })
    }

    /// Whose turn it is, leaving some out.
    pub(super) fn turn_of_another(&self, number: usize, is_left_out: impl Fn(usize) -> bool) -> Option<usize> {
        let turns = self.turns.len();
        (0..turns)
            .map(|step| usize::from(self.turns[(number % turns + step) % turns]))
            .find(|&index| !is_left_out(index))
    }
}

/// How many turns each has: the weights without their common measure, or rounded if that is too many.
fn counts(weights: &[u64]) -> Vec<i64> {
    let measure = weights.iter().fold(0, |measure, &weight| gcd(measure, weight)).max(1);
    let total: u64 = weights.iter().map(|weight| weight / measure).fold(0, u64::saturating_add);
    let count = |&weight: &u64| {
        let turns = weight / measure;
        let turns = if total > TURNS {
            // In 128 bits no product of two of 64 is too large.
            let rounded = (u128::from(turns) * u128::from(TURNS) + u128::from(total) / 2) / u128::from(total);
            rounded.max(u128::from(weight > 0))
        } else {
            u128::from(turns)
        };
        i64::try_from(turns).unwrap_or(1)
    };
    weights.iter().map(count).collect()
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    fn turns(weights: &[u64], rounds: usize) -> Vec<usize> {
        let schedule = Schedule::new(weights);
        (0..rounds).filter_map(|number| schedule.turn(number)).collect()
    }

    fn random(state: &Cell<u64>) -> u64 {
        state.set(state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
        let mut mixed = state.get();
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    #[test]
    fn turns_are_spread() {
        assert_eq!(turns(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(turns(&[0, 7], 3), [1, 1, 1]);
        assert_eq!(turns(&[], 3), [0; 0]);
        assert_eq!(turns(&[0, 0], 3), [0; 0]);
    }

    #[test]
    fn the_less_busy_one_is_asked_by_its_weight() {
        let schedule = Schedule::new(&[1, 3]);
        let state = Cell::new(7);
        for (load, expected) in [([1, 0], 1), ([0, 1], 0), ([1, 2], 1), ([1, 4], 0)] {
            for _ in 0..100 {
                assert_eq!(schedule.less_loaded(random(&state), |index| load[index]), Some(expected), "{load:?}");
            }
        }
    }

    /// One of many that has stopped answering keeps what it has, and gets hardly any more.
    #[test]
    fn who_is_stuck_gets_little() {
        let schedule = Schedule::new(&[1; 10]);
        let state = Cell::new(3);
        let mut load = [0_u32; 10];
        let mut asked = [0; 10];
        for _ in 0..10_000 {
            let index = schedule.less_loaded(random(&state), |index| load[index]).unwrap();
            asked[index] += 1;
            if index == 0 {
                load[0] += 1;
            }
        }
        assert!(asked[0] < 300, "{asked:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn shares_are_by_weight(weights in prop::collection::vec(0..50_u64, 1..40)) {
            let total: u64 = weights.iter().sum();
            let schedule = Schedule::new(&weights);
            prop_assert_eq!(schedule.turns.is_empty(), total == 0);
            let mut asked = vec![0_u64; weights.len()];
            schedule.turns.iter().for_each(|&index| asked[usize::from(index)] += 1);
            let turns = schedule.turns.len() as u64;
            for (index, &weight) in weights.iter().enumerate() {
                prop_assert_eq!(asked[index] * total, weight * turns);
            }
        }

        #[test]
        fn rounded_shares_are_close(weights in prop::collection::vec(0..1_000_000_u64, 1..40)) {
            let total: u64 = weights.iter().sum();
            prop_assume!(total > 0);
            let schedule = Schedule::new(&weights);
            #[expect(clippy::cast_precision_loss, reason = "shares")]
            for (index, &weight) in weights.iter().enumerate() {
                let asked = schedule.turns.iter().filter(|&&turn| usize::from(turn) == index).count();
                let share = asked as f64 / schedule.turns.len() as f64;
                prop_assert!((share - weight as f64 / total as f64).abs() < 0.01, "{} of {:?}", index, weights);
                prop_assert_eq!(asked > 0, weight > 0);
            }
        }

        /// Idle endpoints get shares by weight too.
        #[test]
        fn idle_shares_are_by_weight(weights in prop::collection::vec(1..10_u64, 1..10), seed in any::<u64>()) {
            let schedule = Schedule::new(&weights);
            let state = Cell::new(seed);
            let mut asked = vec![0_u32; weights.len()];
            for _ in 0..20_000 {
                asked[schedule.less_loaded(random(&state), |_| 0).unwrap()] += 1;
            }
            let total: u64 = weights.iter().sum();
            #[expect(clippy::cast_precision_loss, reason = "shares")]
            for (index, &weight) in weights.iter().enumerate() {
                prop_assert!((f64::from(asked[index]) / 20_000.0 - weight as f64 / total as f64).abs() < 0.03);
            }
        }

        /// Who has no turn, or is left out, is never chosen.
        #[test]
        fn who_has_no_turn_is_never_asked(
            weights in prop::collection::vec(0..5_u64, 1..20),
            numbers in prop::collection::vec(any::<u64>(), 1..100),
            loads in prop::collection::vec(0..10_u32, 20),
            left_out in 0..20_usize,
        ) {
            let schedule = Schedule::new(&weights);
            let any = weights.iter().any(|&weight| weight > 0);
            #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
            for number in numbers {
                let other = schedule.turn_of_another(number as usize, |index| index == left_out);
                let others = weights.iter().enumerate().any(|(index, &weight)| index != left_out && weight > 0);
                prop_assert_eq!(other.is_some(), others);
                prop_assert!(other != Some(left_out));
                for chosen in [schedule.turn(number as usize), schedule.less_loaded(number, |index| loads[index]), other] {
                    prop_assert!(chosen.is_none_or(|index| weights[index] > 0));
                }
                prop_assert_eq!(schedule.turn(number as usize).is_some(), any);
                prop_assert_eq!(schedule.less_loaded(number, |index| loads[index]).is_some(), any);
            }
        }
    }
}
