//! `src/marker/generations.rs` under every order of its loads and stores that the memory model allows:
//!
//! ```sh
//! cargo test --locked --manifest-path tests/loom/Cargo.toml
//! ```
//!
//! A value in the store is a relaxed atomic here: that is less order than any real store keeps.

// `generations` takes its atomics from here.
#[cfg(test)]
use loom::sync::atomic;

#[cfg(test)]
#[path = "../../../src/marker/generations.rs"]
#[allow(dead_code, reason = "hashes are for the cache")]
mod generations;

#[cfg(test)]
mod tests {
    use loom::{
        model,
        sync::Arc,
        thread::{self, JoinHandle},
    };

    use super::{
        atomic::{AtomicU64, Ordering},
        generations::{Generations, Note, Standing},
    };

    /// A store of two values, one in each slot, and what is known of it.
    struct Fleet {
        values: [AtomicU64; 2],
        generations: Generations,
    }

    /// Values, and what they are kept under.
    struct Kept {
        values: [u64; 2],
        standing: Standing,
    }

    const SLOTS: [usize; 2] = [0, 1];
    /// Of keys that nobody asks for here.
    const OTHER: usize = 2;

    impl Fleet {
        fn new() -> Arc<Self> {
            Arc::new(Self { values: [AtomicU64::new(0), AtomicU64::new(0)], generations: Generations::new(4) })
        }

        fn write(&self, slot: usize) {
            self.values[slot].store(1, Ordering::Relaxed);
        }

        fn read(&self) -> [u64; 2] {
            [self.values[0].load(Ordering::Relaxed), self.values[1].load(Ordering::Relaxed)]
        }

        fn keep(&self) -> Kept {
            let standing = self.generations.standing(SLOTS);
            Kept { values: self.read(), standing }
        }

        /// What is kept, if it still stands, and what had been heard.
        fn answer(&self, kept: &Kept) -> Option<([u64; 2], Option<u64>)> {
            let mut heard = None;
            let stands = self.generations.stands(SLOTS, kept.standing, |time| {
                heard = time;
                true
            });
            stands.then_some((kept.values, heard))
        }

        /// Whether what was noted still stands, and what had been heard.
        fn still(&self, note: &Note) -> Option<Option<u64>> {
            let mut heard = None;
            let stands = self.generations.still(SLOTS, note, |time| {
                heard = time;
                true
            });
            stands.then_some(heard)
        }
    }

    fn spawn<T: 'static>(fleet: &Arc<Fleet>, work: impl FnOnce(&Fleet) -> T + 'static) -> JoinHandle<T> {
        let fleet = Arc::clone(fleet);
        thread::spawn(move || work(&fleet))
    }

    #[test]
    fn a_change_wins_against_a_read_under_way() {
        model(|| {
            let fleet = Fleet::new();
            let reader = spawn(&fleet, Fleet::keep);
            fleet.write(0);
            fleet.generations.change(0);
            // The change was told before this is asked.
            let kept = reader.join().unwrap();
            let answer = fleet.answer(&kept);
            assert!(answer.is_none_or(|(values, _)| values[0] == 1), "a stale answer");
        });
    }

    #[test]
    fn two_who_tell_at_once_both_win() {
        model(|| {
            let fleet = Fleet::new();
            let reader = spawn(&fleet, Fleet::keep);
            let other = spawn(&fleet, |fleet| {
                fleet.write(1);
                fleet.generations.change(1);
            });
            fleet.write(0);
            fleet.generations.reset();
            other.join().unwrap();
            let kept = reader.join().unwrap();
            let answer = fleet.answer(&kept);
            assert!(answer.is_none_or(|(values, _)| values == [1, 1]), "a stale answer");
        });
    }

    /// Tells of a write, then that everything before 7 is told.
    fn tell(fleet: &Fleet) {
        fleet.write(0);
        fleet.generations.change(0);
        fleet.generations.hear(7);
    }

    #[test]
    fn an_answer_knows_what_was_told_before_the_news_it_rests_on() {
        model(|| {
            let fleet = Fleet::new();
            let teller = spawn(&fleet, tell);
            let kept = fleet.keep();
            if let Some((values, Some(7))) = fleet.answer(&kept) {
                assert_eq!(values[0], 1, "a stale answer");
            }
            teller.join().unwrap();
        });
    }

    /// Older news comes late, and takes nothing of the newer away: neither the time nor what was told before it.
    #[test]
    fn late_news_takes_nothing_back() {
        model(|| {
            let fleet = Fleet::new();
            let teller = spawn(&fleet, tell);
            let late = spawn(&fleet, |fleet| fleet.generations.hear(3));
            let kept = fleet.keep();
            if let Some((values, Some(7))) = fleet.answer(&kept) {
                assert_eq!(values[0], 1, "a stale answer");
            }
            teller.join().unwrap();
            late.join().unwrap();
            assert_eq!(fleet.generations.heard(), Some(7));
        });
    }

    /// Both values are 0, again and again.
    #[test]
    fn what_was_noted_is_no_answer_after_a_change() {
        model(|| {
            let fleet = Fleet::new();
            let reader = spawn(&fleet, |fleet| {
                let note = Note::new();
                let kept = fleet.keep();
                if kept.values == [0, 0] {
                    note.take(kept.standing);
                }
                // It may be noted anew that it still stands.
                fleet.still(&note);
                note
            });
            fleet.generations.change(OTHER);
            fleet.write(1);
            fleet.generations.change(1);
            let note = reader.join().unwrap();
            assert_eq!(fleet.still(&note), None, "a stale answer");
        });
    }

    #[test]
    fn what_was_noted_knows_of_what_was_told_before_the_news_it_rests_on() {
        model(|| {
            let fleet = Fleet::new();
            let teller = spawn(&fleet, tell);
            let note = Note::new();
            let kept = fleet.keep();
            if kept.values == [0, 0] {
                note.take(kept.standing);
            }
            for _ in 0..2 {
                assert_ne!(fleet.still(&note), Some(Some(7)), "a stale answer");
            }
            teller.join().unwrap();
        });
    }

    /// Of two who take note at once, each by itself is right.
    #[test]
    fn notes_of_two_readers_go_together() {
        model(|| {
            let fleet = Fleet::new();
            let note = Arc::new(Note::new());
            let other = {
                let note = Arc::clone(&note);
                spawn(&fleet, move |fleet| {
                    let kept = fleet.keep();
                    if kept.values == [0, 0] {
                        note.take(kept.standing);
                    }
                })
            };
            fleet.generations.change(0);
            note.take(fleet.generations.standing(SLOTS));
            fleet.write(1);
            fleet.generations.change(1);
            other.join().unwrap();
            assert_eq!(fleet.still(&note), None, "a stale answer");
        });
    }

    /// These would notice: a value kept under a generation that was loaded after it was read.
    #[test]
    #[should_panic(expected = "a stale answer")]
    fn a_generation_that_is_loaded_too_late_is_noticed() {
        model(|| {
            let fleet = Fleet::new();
            let reader = spawn(&fleet, |fleet| {
                let values = fleet.read();
                Kept { values, standing: fleet.generations.standing(SLOTS) }
            });
            fleet.write(0);
            fleet.generations.change(0);
            let kept = reader.join().unwrap();
            let answer = fleet.answer(&kept);
            assert!(answer.is_none_or(|(values, _)| values[0] == 1), "a stale answer");
        });
    }

    /// And an answer for which the generations were asked before the news.
    #[test]
    #[should_panic(expected = "a stale answer")]
    fn news_that_is_asked_for_too_late_is_noticed() {
        model(|| {
            let fleet = Fleet::new();
            let teller = spawn(&fleet, tell);
            let kept = fleet.keep();
            let stands = fleet.generations.standing(SLOTS) == kept.standing;
            if stands && fleet.generations.heard() == Some(7) {
                assert_eq!(kept.values[0], 1, "a stale answer");
            }
            teller.join().unwrap();
        });
    }
}
