//! The fuzz targets for a moment each: on their seeds, and on what becomes of them. `fuzz/` has them for as long as you like.
//!
//! `PORTCULLIS_FUZZ_SECONDS` makes the moment longer; `PORTCULLIS_FUZZ_SEED` repeats a run.

mod targets;

use std::{
    env,
    hash::{BuildHasher, RandomState},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::{Duration, Instant},
};

use targets::{TARGETS, Target};

/// What inputs are made of besides their seeds.
const WORDS: [&[u8]; 24] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b".",
    b"..",
    b"=",
    b"%2e",
    b"%25",
    b"//",
    b"\n",
    b"\0",
    b"\xff",
    b"null",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b": ",
    b"; ",
    b"Bearer ",
];

/// The longest input.
const MAX_LENGTH: usize = 6000;

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    env::var(name).ok().and_then(|value| value.parse().ok())
}

fn run(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let seed = from_environment("PORTCULLIS_FUZZ_SEED").unwrap_or_else(|| RandomState::new().hash_one(name));
    let time = Duration::from_secs(from_environment("PORTCULLIS_FUZZ_SECONDS").unwrap_or(2));
    println!("{name}: PORTCULLIS_FUZZ_SEED={seed}");
    let mut random = Random(seed);
    let begun = Instant::now();
    let mut runs = 0_u64;
    for input in target.seeds {
        check(target, input);
    }
    while begun.elapsed() < time {
        for _ in 0..16 {
            check(target, &random.input(target.seeds));
            runs += 1;
        }
    }
    println!("{name}: {runs} inputs");
}

/// Shows the input that broke a promise.
fn check(target: &Target, input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(input))) {
        println!("{} breaks on b\"{}\"", target.name, input.escape_ascii());
        resume_unwind(panic);
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// A seed with a few changes; now and then noise.
    fn input(&mut self, seeds: &[&[u8]]) -> Vec<u8> {
        if self.below(16) == 0 {
            let length = self.below(64);
            return (0..length).map(|_| self.byte()).collect();
        }
        let mut input = seeds[self.below(seeds.len())].to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut input, seeds);
        }
        input.truncate(MAX_LENGTH);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[&[u8]]) {
        let at = self.below(input.len());
        let end = (at + 1 + self.below(16)).min(input.len());
        match self.below(7) {
            _ if input.is_empty() => input.push(self.byte()),
            0 => input[at] ^= 1 << self.below(8),
            1 => input[at] = self.byte(),
            2 => drop(input.drain(at..end)),
            3 => input.truncate(at),
            4 => drop(input.splice(at..at, WORDS[self.below(WORDS.len())].iter().copied())),
            5 => {
                let part = input[at..end].to_vec();
                let place = self.below(input.len());
                input.splice(place..place, part);
            }
            _ => {
                let other = seeds[self.below(seeds.len())];
                let from = self.below(other.len());
                let to = (from + self.below(40)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
}

macro_rules! fuzzed {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn every_target_is_run_here_and_by_the_fuzzer() {
            let here = [$(stringify!($name)),*];
            assert!(TARGETS.iter().map(|target| target.name).eq(here));
            for name in here {
                let file = format!("{}/fuzz/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
                // The package comes without the fuzzer.
                if std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz")).exists() {
                    assert!(std::path::Path::new(&file).exists(), "{file} is missing");
                }
            }
        }
    };
}
fuzzed!(
    token,
    marker_value,
    config,
    path,
    credential,
    jwks,
    logout_token,
    revocation,
    log_stream,
    user_event,
    sse,
    security_event,
    return_url,
    user,
    export,
    websocket,
    response,
    request,
    http2_frames,
);
