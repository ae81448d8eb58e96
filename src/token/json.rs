//! A strict reader for the JSON of tokens: one pass, borrowing from the text.
//!
//! Stricter than RFC 8259 where two readers of one token could disagree:
//!
//! 1. The text is one object, in UTF-8, without a byte order mark and without anything but white space around it.
//! 2. No object, nested ones included, names a member twice, however it is escaped (RFC 7515 §4, RFC 7519 §4).
//! 3. Nesting ends at [`MAX_DEPTH`].
//! 4. A number's magnitude fits an `f64`; its text is kept as written.

use std::{borrow::Cow, fmt};

/// How deep objects and arrays may nest, the outermost object included.
pub const MAX_DEPTH: usize = 16;

/// Below this many members, comparing each pair is cheaper than sorting.
const FEW_MEMBERS: usize = 24;

/// Not a JSON object that two readers would agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a strict JSON object")]
pub struct InvalidJson;

/// A JSON value (RFC 8259 §3). `Debug` shows its kind only, since claims reach logs.
#[derive(Clone, PartialEq)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as written.
    Number(&'a str),
    /// A string, unescaped.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Value<'a>>),
    /// An object.
    Object(Object<'a>),
}

impl<'a> Value<'a> {
    /// The string, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The elements, if it is an array.
    #[must_use]
    pub fn as_array(&self) -> Option<&[Value<'a>]> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// The object, if it is one.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Appends its compact JSON text.
    pub fn write_json(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(text) => out.push_str(text),
            Self::String(text) => write_string(text, out),
            Self::Array(elements) => {
                out.push('[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    element.write_json(out);
                }
                out.push(']');
            }
            Self::Object(object) => object.write_json(out),
        }
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Bool(_) => "Bool(..)",
            Self::Number(_) => "Number(..)",
            Self::String(_) => "String(..)",
            Self::Array(_) => "Array(..)",
            Self::Object(_) => "Object(..)",
        })
    }
}

/// A JSON object without doubled members. `Debug` shows the number of members only.
#[derive(Clone, PartialEq, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Object<'a> {
    /// Reads an object.
    ///
    /// # Errors
    /// [`InvalidJson`] for anything that the rules of this module refuse.
    pub fn parse(text: &'a [u8]) -> Result<Self, InvalidJson> {
        let text = std::str::from_utf8(text).map_err(|_| InvalidJson)?;
        let mut reader = Reader { text, position: 0 };
        reader.skip_space();
        reader.expect(b'{')?;
        let object = reader.object(1)?;
        reader.skip_space();
        if reader.position == text.len() { Ok(object) } else { Err(InvalidJson) }
    }

    /// The member of this name, compared code point by code point.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(each, _)| each == name).map(|(_, value)| value)
    }

    /// Each member, in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    fn write_json(&self, out: &mut String) {
        out.push('{');
        for (index, (name, value)) in self.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            write_string(name, out);
            out.push(':');
            value.write_json(out);
        }
        out.push('}');
    }

    fn has_doubled_member(&self) -> bool {
        let members = &self.0;
        if members.len() <= FEW_MEMBERS {
            return members
                .iter()
                .enumerate()
                .any(|(index, (name, _))| members[..index].iter().any(|(b, _)| b == name));
        }
        let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| pair[0] == pair[1])
    }
}

impl<'a> IntoIterator for Object<'a> {
    type Item = (Cow<'a, str>, Value<'a>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl fmt::Debug for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({} members)", self.0.len())
    }
}

fn write_string(text: &str, out: &mut String) {
    use fmt::Write;

    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{0}'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

struct Reader<'a> {
    text: &'a str,
    position: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    fn next(&mut self) -> Result<u8, InvalidJson> {
        let byte = self.peek().ok_or(InvalidJson)?;
        self.position += 1;
        Ok(byte)
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.position += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), InvalidJson> {
        if self.take(byte) { Ok(()) } else { Err(InvalidJson) }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.position += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, InvalidJson> {
        match self.peek().ok_or(InvalidJson)? {
            b'"' => {
                self.position += 1;
                Ok(Value::String(self.string()?))
            }
            b'{' => {
                self.position += 1;
                Ok(Value::Object(self.object(depth + 1)?))
            }
            b'[' => {
                self.position += 1;
                Ok(Value::Array(self.array(depth + 1)?))
            }
            b'-' | b'0'..=b'9' => Ok(Value::Number(self.number()?)),
            _ => self.literal(),
        }
    }

    fn literal(&mut self) -> Result<Value<'a>, InvalidJson> {
        let rest = &self.text[self.position..];
        for (word, value) in [("true", Value::Bool(true)), ("false", Value::Bool(false)), ("null", Value::Null)] {
            if rest.starts_with(word) {
                self.position += word.len();
                return Ok(value);
            }
        }
        Err(InvalidJson)
    }

    /// After the opening brace.
    fn object(&mut self, depth: usize) -> Result<Object<'a>, InvalidJson> {
        if depth > MAX_DEPTH {
            return Err(InvalidJson);
        }
        let mut object = Object(Vec::with_capacity(if depth == 1 { 12 } else { 0 }));
        self.skip_space();
        if self.take(b'}') {
            return Ok(object);
        }
        loop {
            self.skip_space();
            self.expect(b'"')?;
            let name = self.string()?;
            self.skip_space();
            self.expect(b':')?;
            self.skip_space();
            object.0.push((name, self.value(depth)?));
            self.skip_space();
            match self.next()? {
                b',' => {}
                b'}' if object.has_doubled_member() => return Err(InvalidJson),
                b'}' => return Ok(object),
                _ => return Err(InvalidJson),
            }
        }
    }

    /// After the opening bracket.
    fn array(&mut self, depth: usize) -> Result<Vec<Value<'a>>, InvalidJson> {
        if depth > MAX_DEPTH {
            return Err(InvalidJson);
        }
        let mut elements = Vec::new();
        self.skip_space();
        if self.take(b']') {
            return Ok(elements);
        }
        loop {
            self.skip_space();
            elements.push(self.value(depth)?);
            self.skip_space();
            match self.next()? {
                b',' => {}
                b']' => return Ok(elements),
                _ => return Err(InvalidJson),
            }
        }
    }

    fn number(&mut self) -> Result<&'a str, InvalidJson> {
        let start = self.position;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.digits()?;
        }
        let text = &self.text[start..self.position];
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(text),
            _ => Err(InvalidJson),
        }
    }

    fn digits(&mut self) -> Result<(), InvalidJson> {
        let start = self.position;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.position += 1;
        }
        if self.position > start { Ok(()) } else { Err(InvalidJson) }
    }

    /// After the opening quote.
    fn string(&mut self) -> Result<Cow<'a, str>, InvalidJson> {
        let plain = self.plain();
        if self.take(b'"') {
            return Ok(Cow::Borrowed(plain));
        }
        let mut text = plain.to_owned();
        loop {
            match self.next()? {
                b'"' => return Ok(Cow::Owned(text)),
                b'\\' => text.push(self.escaped()?),
                _ => return Err(InvalidJson),
            }
            text.push_str(self.plain());
        }
    }

    /// What stands before the next quote, escape or control character.
    fn plain(&mut self) -> &'a str {
        let rest = &self.text[self.position..];
        let length = rest.bytes().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f)).unwrap_or(rest.len());
        self.position += length;
        &rest[..length]
    }

    /// After the backslash.
    fn escaped(&mut self) -> Result<char, InvalidJson> {
        Ok(match self.next()? {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.code_point(),
            _ => return Err(InvalidJson),
        })
    }

    fn code_point(&mut self) -> Result<char, InvalidJson> {
        let first = self.code_unit()?;
        if !matches!(first, 0xd800..=0xdbff) {
            return char::from_u32(first).ok_or(InvalidJson);
        }
        self.expect(b'\\')?;
        self.expect(b'u')?;
        let second = self.code_unit()?;
        if !matches!(second, 0xdc00..=0xdfff) {
            return Err(InvalidJson);
        }
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(InvalidJson)
    }

    fn code_unit(&mut self) -> Result<u32, InvalidJson> {
        let mut unit = 0;
        for _ in 0..4 {
            unit = unit * 16 + char::from(self.next()?).to_digit(16).ok_or(InvalidJson)?;
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> bool {
        Object::parse(text.as_bytes()).is_err()
    }

    #[test]
    fn reads_what_serde_json_reads() {
        let text =
            "\t{ \"a\\u00e9\\n\": [1, -2.5e3, true, null, {\"b\":\"\\ud83d\\ude00\"}],\r\n\"c\\/\": {}, \"d\": [] } ";
        let object = Object::parse(text.as_bytes()).unwrap();
        let mut written = String::new();
        object.write_json(&mut written);
        let expected: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(&written).unwrap(), expected);
        assert_eq!(object.get("c/"), Some(&Value::Object(Object::default())));
    }

    #[test]
    fn a_string_without_escapes_is_borrowed() {
        let object = Object::parse(br#"{"a":"plain"}"#).unwrap();
        assert!(matches!(object.get("a"), Some(Value::String(Cow::Borrowed("plain")))));
    }

    #[test]
    fn doubled_members_are_refused_at_every_level_and_in_every_spelling() {
        assert!(refused(r#"{"a":1,"a":1}"#));
        assert!(refused(r#"{"a":1,"\u0061":1}"#));
        assert!(refused(r#"{"x":[{"y":{"a":1,"b":2,"a":1}}]}"#));
        let many: Vec<String> = (0..100).map(|n| format!("\"m{n}\":0")).collect();
        assert!(!refused(&format!("{{{}}}", many.join(","))));
        assert!(refused(&format!("{{{},\"m7\":0}}", many.join(","))));
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(!refused(&nested(MAX_DEPTH)));
        assert!(refused(&nested(MAX_DEPTH + 1)));
        assert!(refused(&nested(1_000_000)));
    }

    #[test]
    fn malformed_text_is_refused() {
        for text in [
            "",
            " ",
            "[]",
            "1",
            "\"a\"",
            "null",
            "{} {}",
            "{}x",
            "\u{feff}{}",
            "{,}",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "{'a':1}",
            "{\"a\":01}",
            "{\"a\":+1}",
            "{\"a\":.5}",
            "{\"a\":1.}",
            "{\"a\":1e}",
            "{\"a\":-}",
            "{\"a\":NaN}",
            "{\"a\":Infinity}",
            "{\"a\":1e999}",
            "{\"a\":tru}",
            "{\"a\":\"\u{1}\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\\udc00\"}",
            "{\"a\":\"\\ud800\\u0041\"}",
            "{\"a\":\"\\u12\"}",
            "{\"a\":\"\\u+123\"}",
            "{\"a\":\"open",
            "{\"a\":[1,]}",
            "{\"a\":[1",
            "{\"a\":1 // no\n}",
        ] {
            assert!(refused(text), "{text:?}");
        }
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_err());
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<f64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::hash_map("[a-e\"\\\\é]{0,3}", inner, 0..6)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_on_what_it_writes(value in json()) {
            let text = serde_json::json!({ "v": value }).to_string();
            let object = Object::parse(text.as_bytes()).unwrap();
            let mut written = String::new();
            object.write_json(&mut written);
            let again: serde_json::Value = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(again, serde_json::from_str::<serde_json::Value>(&text).unwrap());
        }

        #[test]
        fn accepts_nothing_that_serde_json_refuses(text in "[\\{\\}\\[\\]\",:\\\\u0-9a-f.eE+\\- trn\u{1}\u{e9}]{0,24}") {
            let text = format!("{{\"a\":{text}}}");
            let theirs = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
            let ours = Object::parse(text.as_bytes());
            prop_assert!(ours.is_err() || theirs.is_ok(), "{}", text);
            // Doubled members are the only thing that we refuse and serde_json takes (depth cannot be reached here).
            if let (Err(_), Ok(map)) = (&ours, &theirs) {
                prop_assert!(serde_json::to_string(map).unwrap().len() < text.len(), "{}", text);
            }
        }

        #[test]
        fn a_broken_object_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Object::parse(&bytes);
        }

        #[test]
        fn one_changed_byte_is_judged_as_serde_json_does(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut text = br#"{"iss":"https://a/","aud":["x","y"],"exp":1763700000.5,"n":{"k":null,"\u00e9":"\ud83d\ude00"}}"#.to_vec();
            *at.get_mut(&mut text) = byte;
            let theirs = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&text).is_ok();
            prop_assert_eq!(Object::parse(&text).is_ok(), theirs);
        }
    }
}
