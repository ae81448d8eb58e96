//! The forms in which records come together. What a stream is set to, and what its `Content-Type` says, may be wrong, so the text
//! itself tells:
//!
//! 1. `[` begins an array of records.
//! 2. `{` and a member `logs` that is an array: the records in it.
//! 3. Else each line is a record; or each object, where the first one spans lines.
//!
//! A text that breaks off, or is garbled, gives what comes before the fault, and what is left as one more record, which whoever
//! reads it finds malformed. In lines, a fault ends with its line.

use super::{record::RecordReader, user_event::UserEventReader};
use crate::event::{Batch, Gap, SessionEvent, source::BatchReader};

/// A byte order mark in UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The records in a text, in its order, as slices of it. Whether they are any good is for their reader to say; none is empty.
#[must_use]
pub fn records(text: &[u8]) -> Records<'_> {
    let text = text.strip_prefix(MARK).unwrap_or(text).trim_ascii();
    let form = match text {
        [b'[', ..] => Form::Array,
        [b'{', ..] => match logs_of(text) {
            Some(logs) => return Records { rest: &text[logs + 1..], form: Form::Array },
            None => objects_or_lines(text),
        },
        _ => Form::Lines,
    };
    Records { rest: if form == Form::Array { &text[1..] } else { text }, form }
}

/// Iterates over records. Created by [`records`].
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    /// Elements with commas between them, up to a `]`.
    Array,
    /// Objects with white space between them.
    Objects,
    /// One a line.
    Lines,
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self.form {
            Form::Array => self.next_element(),
            Form::Objects => self.next_object(),
            Form::Lines => self.next_line(),
        }
    }
}

impl<'a> Records<'a> {
    fn next_element(&mut self) -> Option<&'a [u8]> {
        let is_between = |byte: &u8| *byte == b',' || byte.is_ascii_whitespace();
        let begin = self.rest.iter().position(|byte| !is_between(byte))?;
        let rest = &self.rest[begin..];
        if rest[0] == b']' {
            // Whatever follows the array is none of it.
            self.rest = &[];
            return None;
        }
        let end = end_of_value(rest).unwrap_or(rest.len());
        Some(self.split(rest, end))
    }

    fn next_object(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.trim_ascii_start();
        if rest.is_empty() {
            return None;
        }
        let end = end_of_value(rest).unwrap_or(rest.len());
        Some(self.split(rest, end))
    }

    fn next_line(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest.trim_ascii_start();
        if rest.is_empty() {
            return None;
        }
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        Some(self.split(rest, end).trim_ascii_end())
    }

    /// Takes the beginning of the rest; at least one byte, so that there is an end.
    fn split(&mut self, rest: &'a [u8], end: usize) -> &'a [u8] {
        let (record, after) = rest.split_at(end.clamp(1, rest.len()));
        self.rest = after;
        record
    }
}

/// Objects, where the first one is whole, but not on its line.
fn objects_or_lines(text: &[u8]) -> Form {
    let line = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    match end_of_value(text) {
        Some(end) if end > line => Form::Objects,
        _ => Form::Lines,
    }
}

/// Where the array of the member `logs` begins, if the object has one. What else stands in an element comes before or after it.
fn logs_of(text: &[u8]) -> Option<usize> {
    let mut position = 1;
    loop {
        position += space(&text[position..]);
        let name = position..position + end_of_value(text.get(position..).filter(|rest| rest.starts_with(b"\""))?)?;
        position = name.end + space(&text[name.end..]);
        if text.get(position) != Some(&b':') {
            return None;
        }
        position += 1;
        position += space(&text[position..]);
        match (&text[name], text.get(position)?) {
            (b"\"logs\"", b'[') => return Some(position),
            (b"\"data\"" | b"\"type\"", _) => return None,
            _ => position += end_of_value(&text[position..])?,
        }
        position += space(&text[position..]);
        if text.get(position) != Some(&b',') {
            return None;
        }
        position += 1;
    }
}

fn space(text: &[u8]) -> usize {
    text.len() - text.trim_ascii_start().len()
}

/// Where the value ends that the text begins with: brackets are counted, not matched, and strings passed over. `None`: not in this
/// text.
fn end_of_value(text: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut position = 0;
    while let Some(byte) = text.get(position) {
        match byte {
            b'"' => {
                position += end_of_string(&text[position..])?;
                if depth == 0 {
                    return Some(position);
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            // A number, a word, or garbage, and what follows it.
            b'}' | b']' | b',' | b'\n' if depth == 0 => return Some(position),
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return Some(position + 1);
                }
            }
            _ => {}
        }
        position += 1;
    }
    None
}

/// Where the string ends that the text begins with. A string cannot hold a line end.
fn end_of_string(text: &[u8]) -> Option<usize> {
    let mut position = 1;
    loop {
        match text.get(position)? {
            b'"' => return Some(position + 1),
            b'\n' => return None,
            b'\\' => position += 2,
            _ => position += 1,
        }
    }
}

/// All records of a body, each read by `read`.
fn read_each(body: &[u8], read: impl Fn(&[u8]) -> Result<SessionEvent, Gap>) -> Batch {
    let mut batch = Batch::default();
    records(body).for_each(|record| batch.push(read(record)));
    batch
}

impl BatchReader for RecordReader {
    fn read_all(&self, body: &[u8]) -> Batch {
        read_each(body, |record| self.read(record))
    }
}

impl BatchReader for UserEventReader {
    fn read_all(&self, body: &[u8]) -> Batch {
        read_each(body, |event| self.read(event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        records(text.as_bytes()).map(|record| str::from_utf8(record).unwrap()).collect()
    }

    const ONE: &str = r#"{"log_id":"1","data":{"a":["]}",{}]}}"#;
    const TWO: &str = r#"{"type":"s","b":"\"}{\\"}"#;

    #[test]
    fn each_form_is_told_by_the_text_itself() {
        for text in [
            format!("[{ONE},{TWO}]"),
            format!(" \r\n[ {ONE} ,\n {TWO}\n]\n "),
            format!("\u{feff}[{ONE},{TWO}]"),
            format!(r#"{{"logs":[{ONE},{TWO}]}}"#),
            format!(r#"{{ "tenant" : {{"a":[]}}, "count":2, "logs" :[ {ONE}, {TWO} ], "more":[3]}}"#),
            format!("{ONE}\n{TWO}"),
            format!("\u{feff}\n{ONE}\r\n\r\n{TWO}\r\n"),
            format!("{ONE}\n\n\n{TWO}\n"),
        ] {
            assert_eq!(split(&text), [ONE, TWO], "{text}");
        }
        assert_eq!(split(ONE), [ONE], "a single record");
        assert_eq!(
            split("{\"type\":\"s\",\n \"logs\":[1,2]}"),
            ["{\"type\":\"s\",\n \"logs\":[1,2]}"],
            "a record of its own"
        );
        let pretty = ["{\n \"type\": \"s\"\n}", "{\"a\":\n1}"];
        assert_eq!(split(&pretty.join("\n")), pretty, "objects that span lines");
        for nothing in ["", " \n ", "\u{feff}", "[]", " [ ] ", "[,]", r#"{"logs":[]}"#] {
            assert_eq!(split(nothing), [""; 0], "{nothing}");
        }
    }

    #[test]
    fn what_comes_before_a_fault_is_kept() {
        for (text, expected) in [
            (format!("[{ONE},{{\"log_id\":\"2\",\"data\":{{\"a"), vec![ONE, "{\"log_id\":\"2\",\"data\":{\"a"]),
            (format!("{{\"logs\":[{ONE},{{\"log"), vec![ONE, "{\"log"]),
            (format!("[{ONE},oops,{TWO}]"), vec![ONE, "oops", TWO]),
            (format!("[{ONE},5,\"text\",{TWO}"), vec![ONE, "5", "\"text\"", TWO]),
            (format!("[{ONE},{{\"a\":1]}},{TWO}]"), vec![ONE, "{\"a\":1]", "}", TWO]),
            (format!("{ONE}\n{{\"log_id\":\"2\",\"da\n{TWO}"), vec![ONE, "{\"log_id\":\"2\",\"da", TWO]),
            (format!("{{\"log_id\":\"2\",\"data\":{{\n{TWO}\n{ONE}"), vec!["{\"log_id\":\"2\",\"data\":{", TWO, ONE]),
            (format!("{{\"log_id\":\"2\n{TWO}\n{ONE}"), vec!["{\"log_id\":\"2", TWO, ONE]),
            (format!("oops\n{TWO}"), vec!["oops", TWO]),
            ("{".to_owned(), vec!["{"]),
            ("{\"logs\":".to_owned(), vec!["{\"logs\":"]),
            ("}".to_owned(), vec!["}"]),
            ("]".to_owned(), vec!["]"]),
            ("\"".to_owned(), vec!["\""]),
            ("\\".to_owned(), vec!["\\"]),
        ] {
            assert_eq!(split(&text), expected, "{text}");
        }
    }

    #[test]
    fn a_record_that_is_no_text_does_not_spoil_the_others() {
        let text = [ONE.as_bytes(), b"{\"type\":\"\xff\xfe\"}", TWO.as_bytes()];
        assert!(records(&text.join(&b'\n')).eq(text));
        assert!(records(&[b"[", &text.join(&b',')[..], b"]"].concat()).eq(text));
    }

    #[test]
    fn every_part_of_a_text_ends_and_none_is_empty() {
        let text = format!("{{\"logs\":[{ONE},{TWO}]}}\n{ONE}\n[{TWO}]");
        for begin in 0..text.len() {
            for end in begin..=text.len() {
                let part = &text.as_bytes()[begin..end];
                let records: Vec<_> = records(part).collect();
                assert!(records.iter().all(|record| !record.is_empty()));
                assert!(records.iter().map(|record| record.len()).sum::<usize>() <= part.len());
            }
        }
    }
}
