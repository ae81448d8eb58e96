use proptest::prelude::*;

use super::*;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Unreadable> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| {
        let name = match &field.name {
            Name::Pseudo(pseudo) => format!(":{pseudo:?}").to_lowercase(),
            Name::Regular(name) => name.to_string(),
            Name::Malformed(length) => format!("malformed {length}"),
        };
        fields.push((name, String::from_utf8_lossy(&field.value).into_owned()));
    })?;
    Ok(fields)
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// RFC 7541, appendices C.3 and C.4: three requests over one connection, as they are and coded.
#[test]
fn the_requests_of_the_standard() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let coded = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let fields = |fields: &[(&str, &str)]| -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let authority = (":authority", "www.example.com");
    let expected = [
        fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), authority]),
        fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), authority, ("cache-control", "no-cache")]),
        fields(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            authority,
            ("custom-key", "custom-value"),
        ]),
    ];
    for requests in [plain, coded] {
        let mut decoder = Decoder::default();
        for (block, expected) in requests.iter().zip(&expected) {
            assert_eq!(decode(&mut decoder, &bytes(block)).unwrap(), *expected);
        }
    }
}

/// RFC 7541, appendix C.5: responses that fill a table of 256 bytes, so that older fields go.
#[test]
fn fields_leave_a_table_that_is_full() {
    let mut decoder = Decoder::default();
    let small = bytes("3fe1 01");
    let first = bytes(
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 54\
         6e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
    );
    let read = decode(&mut decoder, &[small, first].concat()).unwrap();
    assert_eq!(read[0], (":status".to_owned(), "302".to_owned()));
    assert_eq!(read[3].1, "https://www.example.com");
    let read = decode(&mut decoder, &bytes("4803 3330 37c1 c0bf")).unwrap();
    let names: Vec<_> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(
        names,
        [
            (":status", "307"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("location", "https://www.example.com")
        ]
    );
    // The fourth has gone to make room for the status.
    assert_eq!(decode(&mut decoder, &[0xc2]), Err(Unreadable));
}

#[test]
fn blocks_that_mean_nothing_are_refused() {
    for block in [
        // The field with no number, one that nobody has named, and numbers without end.
        &[0x80][..],
        &[0xbe],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0xff],
        &[0xff, 0x80],
        // Strings that are cut off.
        &[0x40, 0x01],
        &[0x40, 0x01, b'a'],
        &[0x00, 0x05, b'a'],
        &[0x00, 0x81, 0xff, 0x00],
        // A table that is larger than allowed, and one that changes between fields.
        &[0x3f, 0xe2, 0x1f],
        &[0x82, 0x20],
    ] {
        assert_eq!(decode(&mut Decoder::default(), block), Err(Unreadable), "{block:x?}");
    }
    let mut decoder = Decoder::default();
    assert_eq!(decode(&mut decoder, &[0x20, 0x3f, 0xe1, 0x1f, 0x82]).unwrap().len(), 1);
}

#[test]
fn what_no_field_may_be_called_is_told_apart() {
    let read = decode(&mut Decoder::default(), b"\x40\x01A\x01b\x00\x01c\x01\x64\xbe").unwrap();
    let malformed = ("malformed 1".to_owned(), "b".to_owned());
    assert_eq!(read, [malformed.clone(), ("c".to_owned(), "d".to_owned()), malformed]);
}

/// A field that is too large empties the table, and is in none (RFC 7541 §4.4).
#[test]
fn a_field_that_is_too_large_empties_the_table() {
    let mut decoder = Decoder::default();
    let long = [&[0x40, 1, b'a', 0x7f, 0xe1, 0x1e][..], &[b'x'; 4064]].concat();
    assert_eq!(decode(&mut decoder, &[&b"\x40\x01b\x01c\xbe"[..], &long].concat()).unwrap().len(), 3);
    assert_eq!(decode(&mut decoder, &[0xbe]), Err(Unreadable));
}

#[test]
fn secrets_stay_out_of_tables() {
    let mut sensitive = Vec::new();
    Decoder::default().decode(b"\x10\x01a\x01b\x00\x01a\x01b", |field| sensitive.push(field.is_sensitive)).unwrap();
    assert_eq!(sensitive, [true, false]);
    let (mut fields, mut block) = (HeaderMap::new(), Vec::new());
    let mut value = HeaderValue::from_static("b");
    value.set_sensitive(true);
    fields.insert("set-cookie", value);
    Encoder::default().response(StatusCode::OK, &fields, &mut block);
    assert_eq!(block, [0x20, 0x88, 0x1f, 55 - 15, 1, b'b']);
}

proptest! {
    /// What the encoder writes is what is read.
    #[test]
    fn responses_are_read_as_they_were_written(
        status in 100_u16..600,
        fields in prop::collection::vec(("[a-z][a-z-]{0,30}|date|vary|content-type|www-authenticate", "[!-~]{0,200}"), 0..20),
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in &fields {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for is_first in [true, false] {
            let mut block = Vec::new();
            encoder.response(StatusCode::from_u16(status).unwrap(), &map, &mut block);
            prop_assert_eq!(block[0] == 0x20, is_first);
            let read = decode(&mut decoder, &block).unwrap();
            let mut expected = vec![(":status".to_owned(), status.to_string())];
            expected.extend(map.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())));
            prop_assert_eq!(read, expected);
        }
    }

    #[test]
    fn nonsense_does_no_harm(blocks: Vec<Vec<u8>>) {
        let mut decoder = Decoder::default();
        for block in &blocks {
            let _ = decode(&mut decoder, block);
            prop_assert!(decoder.table.size() <= 4096);
        }
    }
}
