use proptest::prelude::*;

use super::*;

/// `Ok`: it is let through, and this much of what follows belongs to it. `Err`: where it is stopped.
fn look(bytes: &[u8]) -> Result<u64, usize> {
    let mut framing = Framing::new();
    framing.look(bytes)?;
    Ok(framing.heads())
}

const HEAD: &str = "POST /a HTTP/1.1\r\nHost: a\r\n";

#[test]
fn what_leaves_no_doubt_is_let_through() {
    let cases: &[(&str, u64)] = &[
        ("", 0),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
        ("GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        ("{}Content-Length: 3\r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n", 2),
        ("{}CONTENT-LENGTH:\t3 \r\n\r\n\n\n\nGET / HTTP/1.1\r\n\r\n", 2),
        ("{}Content-Length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        ("{}Content-Lengths: x\r\nContent-Lengt: x\r\nTE: x\r\nTrailer: x\r\nCookie: x\r\n\r\n", 1),
        ("{}Content-Length: 4\r\n\r\nGET ", 1),
        ("{}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        (
            "{}transfer-encoding:CHUNKED\r\n\r\n2\r\n\n\n\r\nA;x=\"y\"\r\n\n\n\n\n\n\n\n\n\n\n\r\n00\r\nX: 1\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            2,
        ),
        ("{}Transfer-Encoding: chunked\r\n\r\n1 ; x\r\n\n\r\n0\r\n\r\n", 1),
        // Refused by those who know what it means.
        ("{}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", 2),
        ("{}Transfer-Encoding: gzip\r\n\r\n\n\n\n", 1),
    ];
    for (bytes, heads) in cases {
        assert_eq!(look(bytes.replace("{}", HEAD).as_bytes()), Ok(*heads), "{bytes:?}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_stopped_where_it_is() {
    // `!` stands before the byte that must not be there.
    let cases = [
        "GET / HTTP/1.1!\nHost: a\r\n\r\n",
        "!\nGET / HTTP/1.1\r\n\r\n",
        "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r!\nGET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a!\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n!\n",
        "GET / HTTP/1.1\r\nX: a!\nContent-Length: 5\r\n\r\n",
        "GET /a#b HTTP/1.1\r!\nHost: a\r\n\r\n",
        "{}Content-Length: 3\r\nTransfer-Encoding: chunked\r!\n\r\n",
        "{}Transfer-Encoding: chunked\r\nContent-Length: 3\r!\n\r\n",
        "{}Content-Length: 3\r\nContent-Length: 3\r!\n\r\n",
        "{}Content-Length: 3\r\nContent-Length: 4\r!\n\r\n",
        "{}Content-Length: 3, 3\r!\n\r\n",
        "{}Content-Length: +3\r!\n\r\n",
        "{}Content-Length: -3\r!\n\r\n",
        "{}Content-Length: 0x3\r!\n\r\n",
        "{}Content-Length: 3_0\r!\n\r\n",
        "{}Content-Length: 3 0\r!\n\r\n",
        "{}Content-Length: 3.0\r!\n\r\n",
        "{}Content-Length: 03\r!\n\r\n",
        "{}Content-Length: 00\r!\n\r\n",
        "{}Content-Length:\r!\n\r\n",
        "{}Content-Length: 99999999999999999999\r!\n\r\n",
        "{}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r!\n\r\n",
        "{}Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r!\n\r\n",
        "{}Transfer-Encoding: chunked, chunked\r!\n\r\n",
        "{}Transfer-Encoding: chunked, gzip\r!\n\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n!x\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n!\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n! 1\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n!+1\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n!-1\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n0!x1\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1!_0\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1 !\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1 !0\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1!\nx\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1\r!\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1;x!\ny\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1;x\r!y\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1;!\0\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1111111111111111!1\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1\r\nx!y\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1\r\nx!\n0\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r!0\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n0\r\nX: 1!\n\r\n",
        "{}Transfer-Encoding: chunked\r\n\r\n0\r\n!\n",
    ];
    for case in cases {
        let case = case.replace("{}", HEAD);
        let at = case.find('!').unwrap();
        let bytes = case.replacen('!', "", 1);
        assert_eq!(look(bytes.as_bytes()), Err(at), "{case:?}");
        // One byte sooner there is nothing wrong yet.
        assert!(look(&bytes.as_bytes()[..at]).is_ok(), "{case:?}");
    }
}

#[test]
fn what_comes_behind_a_header_is_noticed() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n";
    for (bytes, heads, expected) in [
        (get.to_owned(), 1, false),
        (format!("{get}{get}"), 2, false),
        (format!("{get}x"), 1, true),
        (format!("{get}\r\n"), 1, true),
        (format!("{get}GET / HTTP/1.1\r\n"), 1, true),
        (post.to_owned(), 1, false),
        (format!("{post}a"), 1, true),
        (format!("{post}abc"), 1, true),
        (format!("{post}abc{get}"), 2, false),
    ] {
        for cut in 0..bytes.len() {
            let mut framing = Framing::new();
            framing.look(&bytes.as_bytes()[..cut]).unwrap();
            framing.look(&bytes.as_bytes()[cut..]).unwrap();
            assert_eq!((framing.heads(), framing.is_beyond()), (heads, expected), "{bytes:?} {cut}");
        }
    }
}

/// Pieces that mean something, so that random bytes are interesting ones.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(
        &[
            "POST / HTTP/1.1\r\n",
            "Content-Length: 3\r\n",
            "Content-Length: 1",
            "Transfer-Encoding: chunked\r\n",
            "Host: a\r\n",
            "\r\n",
            "\n",
            "\r",
            "0\r\n\r\n",
            "3\r\nabc\r\n",
            "1;x=y\r\n\n\r\n",
            "a",
            "#",
            " ",
            "0",
            ";",
            "X: 0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
        ][..],
    );
    prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// However bytes come, they mean the same.
    #[test]
    fn pieces_are_read_like_the_whole(bytes in pieces(), sizes in prop::collection::vec(1..40_usize, 1..40)) {
        let mut framing = Framing::new();
        let (mut at, mut sizes) = (0, sizes.into_iter().cycle());
        let mut found = Ok(());
        while at < bytes.len() && found.is_ok() {
            let end = (at + sizes.next().unwrap_or(1)).min(bytes.len());
            found = framing.look(&bytes[at..end]).map_err(|place| at + place);
            at = end;
        }
        prop_assert_eq!(found.map(|()| framing.heads()), look(&bytes));
    }
}
