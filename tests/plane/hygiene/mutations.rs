//! Requests with changes, beside the strict reading.

use proptest::{prelude::*, test_runner::TestRunner};

use super::differential::Differential;

/// Requests to begin from.
const SEEDS: [&str; 9] = [
    "GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nx",
    "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "PUT /d HTTP/1.1\r\nHost: a\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n23;x=y\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\nX-Sum: 1\r\n\r\n",
    "GET http://a:80/x/../e HTTP/1.1\r\nHost: a:80\r\nConnection: x, keep-alive\r\nX: 1\r\n\r\n",
    "GET /f HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
    "HEAD //g/./%61 HTTP/1.1\r\nHost: [::1]:80\r\nX-Forwarded-User: eve\r\nX_Forwarded_For: 6.6.6.6\r\nTE: trailers\r\n\r\n",
    "POST /h HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    "OPTIONS /i HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
];

/// What is put into them.
const WORDS: [&str; 34] = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    " ",
    "\t",
    ":",
    ",",
    ";",
    "#",
    "\u{b}",
    "\r\n ",
    "\r\n\r\n",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content_Length: 5\r\n",
    "Content-Length : 5\r\n",
    "Content-Length: 05\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Transfer-Encoding:\tchunked\r\n",
    "Transfer_Encoding: chunked\r\n",
    "transfer-encoding: x, chunked\r\n",
    "X: y\nContent-Length: 5\r\n",
    "Host: b\r\n",
    "Connection: close\r\n",
    "Connection: content-length\r\n",
    "Expect: 100-continue\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    "HTTP/1.1",
    "../",
    "%2e%2e/",
];

#[derive(Clone, Debug)]
enum Change {
    Put(prop::sample::Index, &'static str),
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index, usize),
    Double(prop::sample::Index, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        4 => (at(), prop::sample::select(&WORDS[..])).prop_map(|(at, word)| Change::Put(at, word)),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (at(), 1..20_usize).prop_map(|(at, length)| Change::Cut(at, length)),
        1 => (at(), 1..40_usize).prop_map(|(at, length)| Change::Double(at, length)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    match change {
        // Between two lines more often than not: there it matters.
        Change::Put(at, word) => {
            let place = at.index(bytes.len());
            let line = bytes[place..].iter().position(|&byte| byte == b'\n').map_or(place, |end| place + end + 1);
            let place = if word.ends_with('\n') && place % 4 != 0 { line } else { place };
            bytes.splice(place..place, word.bytes());
        }
        Change::Set(at, byte) => {
            let place = at.index(bytes.len());
            bytes[place] = *byte;
        }
        Change::Cut(at, length) => {
            let place = at.index(bytes.len());
            bytes.drain(place..(place + length).min(bytes.len()));
        }
        Change::Double(at, length) => {
            let place = at.index(bytes.len());
            let part = bytes[place..(place + length).min(bytes.len())].to_vec();
            bytes.splice(place..place, part);
        }
    }
}

#[test]
fn what_the_upstream_gets_is_what_the_strict_reading_has() {
    let gate = Differential::start();
    for seed in SEEDS {
        assert_eq!(gate.check(seed.as_bytes()), (1, 1), "{seed:?}");
    }
    assert_eq!(gate.check([SEEDS[1], SEEDS[2], SEEDS[0]].concat().as_bytes()), (3, 3));
    let cases = std::env::var("PORTCULLIS_FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1500);
    let mut runner = TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) });
    let seeds = prop::collection::vec(prop::sample::select(&SEEDS[..]), 1..4);
    let strategy = (seeds, prop::collection::vec(change(), 0..4)).prop_map(|(seeds, changes)| {
        let mut bytes = seeds.concat().into_bytes();
        for change in &changes {
            apply(&mut bytes, change);
        }
        bytes
    });
    let total = std::cell::Cell::new((0, 0));
    let result = runner.run(&strategy, |bytes| {
        let (expected, came) = gate.check(&bytes);
        let (all_expected, all_came) = total.get();
        total.set((all_expected + expected, all_came + came));
        Ok(())
    });
    if let Err(error) = result {
        // Not the bytes as numbers.
        panic!("{}", error.to_string().split("minimal failing input").next().unwrap_or_default());
    }
    let (expected, came) = total.get();
    println!("{cases} connections, {expected} requests by the strict reading, {came} served");
    // Else nothing would have been shown.
    assert!(came * 2 > expected, "{came} of {expected}");
}
