//! Finds the records in a file, one after the other, without reading it whole.

use std::io::{self, BufRead, ErrorKind};

/// The longest record that is read, in bytes. A longer one, or one that has no end, ends the reading.
const MAX: usize = 4 << 20;

/// What may stand before the records where they are members of an object: `{"logs": [`.
const WRAPPER: &str = "{\"logs\":[";

/// The JSON objects of a file: one after the other, in an array, or in the array `logs` of an object. They are told by their braces
/// only; whether they are JSON is for the reader to say.
pub(super) struct Elements<R> {
    input: R,
    begun: bool,
}

impl<R: BufRead> Elements<R> {
    pub(super) const fn new(input: R) -> Self {
        Self { input, begun: false }
    }

    /// Whether the first object holds the records; then it is stepped into.
    fn step_into_wrapper(&mut self) -> io::Result<()> {
        let ahead = self.input.fill_buf()?;
        let mut rest = WRAPPER.bytes();
        let mut wanted = rest.next();
        for (position, byte) in ahead.iter().enumerate() {
            if byte.is_ascii_whitespace() || [0xef, 0xbb, 0xbf].contains(byte) {
                continue;
            }
            if Some(*byte) != wanted {
                return Ok(());
            }
            wanted = rest.next();
            if wanted.is_none() {
                self.input.consume(position + 1);
                return Ok(());
            }
        }
        Ok(())
    }

    fn element(&mut self) -> io::Result<Option<Vec<u8>>> {
        if !self.begun {
            self.begun = true;
            self.step_into_wrapper()?;
        }
        let mut element = Vec::new();
        let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
        loop {
            let ahead = self.input.fill_buf()?;
            if ahead.is_empty() {
                // What broke off is handed on: it counts as a record that cannot be read.
                return Ok((!element.is_empty()).then_some(element));
            }
            let (mut taken, mut done) = (0, false);
            for byte in ahead {
                taken += 1;
                if depth == 0 {
                    if *byte != b'{' {
                        continue;
                    }
                    depth = 1;
                    element.push(*byte);
                    continue;
                }
                element.push(*byte);
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if quoted => escaped = true,
                    b'"' => quoted = !quoted,
                    b'{' if !quoted => depth += 1,
                    b'}' if !quoted => {
                        depth -= 1;
                        done = depth == 0;
                    }
                    _ => {}
                }
                if done || element.len() > MAX {
                    break;
                }
            }
            self.input.consume(taken);
            if done {
                return Ok(Some(element));
            }
            if element.len() > MAX {
                let message = format!("a record is longer than {} MiB, or has no end", MAX >> 20);
                return Err(io::Error::new(ErrorKind::InvalidData, message));
            }
        }
    }
}

impl<R: BufRead> Iterator for Elements<R> {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.element().transpose()
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    fn elements(text: &str, buffer: usize) -> Vec<String> {
        let input = BufReader::with_capacity(buffer, text.as_bytes());
        Elements::new(input).map(|element| String::from_utf8(element.unwrap()).unwrap()).collect()
    }

    #[test]
    fn records_are_found_in_every_form() {
        let (a, b) = (r#"{"a":{"x":"}\"{"}}"#, r#"{ "b": [1, {}] }"#);
        for text in [
            format!("{a}\n{b}\n"),
            format!("{a}{b}"),
            format!("[{a},\n  {b}]"),
            format!(" \u{feff}[ {a} , {b} ] "),
            format!("{{\"logs\": [{a},{b}]}}"),
            format!("{{ \"logs\" :\n [ {a}, {b} ], \"more\": 1 }}"),
        ] {
            assert_eq!(elements(&text, 8192), [a, b], "{text}");
        }
        assert_eq!(elements("", 16), [""; 0]);
        assert_eq!(elements("[]", 16), [""; 0]);
        assert_eq!(elements("rubbish", 16), [""; 0]);
    }

    #[test]
    fn what_broke_off_is_handed_on() {
        assert_eq!(elements(r#"{"a":1}{"b":"#, 16), [r#"{"a":1}"#, r#"{"b":"#]);
    }

    #[test]
    fn a_record_without_an_end_ends_it() {
        let endless = format!("{{\"a\":\"{}", "x".repeat(MAX));
        let mut elements = Elements::new(endless.as_bytes());
        assert_eq!(elements.next().unwrap().unwrap_err().kind(), ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn buffers_do_not_matter(
            values in prop::collection::vec(("\\PC{0,10}", any::<i32>()), 0..8), buffer in 1..64_usize, array in any::<bool>(),
        ) {
            let records: Vec<String> =
                values.iter().map(|(text, number)| serde_json::json!({ "t": text, "n": { "x": number } }).to_string()).collect();
            let text = if array { format!("[{}]", records.join(",")) } else { records.join("\n") };
            prop_assert_eq!(elements(&text, buffer), records);
        }
    }
}
