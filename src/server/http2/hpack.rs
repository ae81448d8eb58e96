//! Field blocks (HPACK, RFC 7541).
//!
//! The gate keeps the table that its client fills, and has none of its own: the fields of its responses differ from each other where they
//! are long, and a table would be memory of every connection.
//!
//! - `huffman`: the code of strings.
//! - `table`: the fields that are known by a number.

mod huffman;
mod table;

#[cfg(test)]
mod tests;

use std::cell::Cell;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use self::table::Table;
pub(super) use self::table::{Field, Name, Pseudo};

/// What strings of a block are read into, by all connections of a thread, in bytes.
const TEXT: usize = 32 * 1024;

thread_local! {
    static TEXTS: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// A block that means nothing: nothing after it can be read either (RFC 7541 §§2.3.3, 4.2, 5, 6.1, 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a field block cannot be read")]
pub(super) struct Unreadable;

/// Reads blocks.
#[derive(Default, Debug)]
pub(super) struct Decoder {
    table: Table,
}

impl Decoder {
    /// Reads a whole block, and hands its fields on in their order.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn decode(&mut self, mut block: &[u8], mut each: impl FnMut(Field)) -> Result<(), Unreadable> {
        let mut text = TEXTS.take();
        let result = self.fields(&mut block, &mut text, &mut each);
        TEXTS.set(text);
        result
    }

    fn fields(
        &mut self,
        block: &mut &[u8],
        text: &mut BytesMut,
        each: &mut impl FnMut(Field),
    ) -> Result<(), Unreadable> {
        let mut is_first = true;
        while let Some(&kind) = block.first() {
            match kind {
                0x80.. => {
                    let index = integer(block, 7)?;
                    each(self.table.get(index).ok_or(Unreadable)?.clone());
                }
                0x40.. => {
                    let mut field = self.literal(block, 6, text)?;
                    // Apart from the text of its block, which it may outlive for long.
                    field.value = Bytes::copy_from_slice(&field.value);
                    self.table.insert(field.clone());
                    each(field);
                }
                0x20.. if is_first => {
                    self.table.resize(integer(block, 5)?)?;
                    // Two of them at most, which a third would not change.
                    continue;
                }
                0x20.. => return Err(Unreadable),
                _ => {
                    let mut field = self.literal(block, 4, text)?;
                    field.is_sensitive = kind & 0x10 != 0;
                    each(field);
                }
            }
            is_first = false;
        }
        Ok(())
    }

    /// A name, or the number of one, and a value (RFC 7541 §6.2).
    fn literal(&self, block: &mut &[u8], prefix: u8, text: &mut BytesMut) -> Result<Field, Unreadable> {
        let index = integer(block, prefix)?;
        let name = if index == 0 { None } else { Some(self.table.get(index).ok_or(Unreadable)?.name.clone()) };
        let name = match name {
            Some(name) => name,
            None => Name::from(string(block, text)?),
        };
        Ok(Field::new(name, string(block, text)?))
    }
}

/// A number whose first bits are the last of the next byte (RFC 7541 §5.1).
fn integer(block: &mut &[u8], prefix: u8) -> Result<usize, Unreadable> {
    let (&first, mut rest) = block.split_first().ok_or(Unreadable)?;
    let most = (1_usize << prefix) - 1;
    let mut value = usize::from(first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (&byte, more) = rest.split_first().ok_or(Unreadable)?;
            rest = more;
            value += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            // Nothing in a block is as large as that.
            if shift > 21 {
                return Err(Unreadable);
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// A string (RFC 7541 §5.2).
fn string(block: &mut &[u8], text: &mut BytesMut) -> Result<Bytes, Unreadable> {
    let is_coded = block.first().ok_or(Unreadable)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (coded, rest) = block.split_at_checked(length).ok_or(Unreadable)?;
    *block = rest;
    if coded.is_empty() {
        return Ok(Bytes::new());
    }
    let most = if is_coded { huffman::longest(length) } else { length };
    if text.capacity() < most {
        text.reserve(most.max(TEXT));
    }
    if is_coded {
        text.resize(most, 0);
        let length = huffman::decode(coded, text).ok_or(Unreadable).inspect_err(|_| text.clear())?;
        text.truncate(length);
    } else {
        text.extend_from_slice(coded);
    }
    Ok(text.split().freeze())
}

/// Writes blocks.
#[derive(Default, Debug)]
pub(super) struct Encoder {
    /// Whether the client was told that there is no table.
    is_announced: bool,
}

impl Encoder {
    /// Begins a block. To be sent in the order in which they are begun.
    fn begin(&mut self, block: &mut Vec<u8>) {
        // A client that wants a smaller table than the usual one is to be told that it is no larger (RFC 7541 §4.2).
        if !std::mem::replace(&mut self.is_announced, true) {
            block.push(0x20);
        }
    }

    /// The header of a response.
    pub(super) fn response(&mut self, status: StatusCode, fields: &HeaderMap, block: &mut Vec<u8>) {
        self.begin(block);
        if let Some(index) = table::of_status(status) {
            block.push(0x80 | index);
        } else {
            put_integer(block, 0, 4, table::STATUS);
            put_string(block, status.as_str().as_bytes());
        }
        put_fields(block, fields);
    }

    /// Trailers.
    pub(super) fn trailers(&mut self, fields: &HeaderMap, block: &mut Vec<u8>) {
        self.begin(block);
        put_fields(block, fields);
    }
}

fn put_fields(block: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        put_field(block, name, value);
    }
}

/// A literal that no table is to keep, and that nobody on the way may put into one if it is secret (RFC 7541 §§6.2.2, 6.2.3).
fn put_field(block: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    let kind = if value.is_sensitive() { 0x10 } else { 0 };
    if let Some(index) = table::of_name(name) {
        put_integer(block, kind, 4, index);
    } else {
        block.push(kind);
        put_string(block, name.as_str().as_bytes());
    }
    put_string(block, value.as_bytes());
}

fn put_string(block: &mut Vec<u8>, text: &[u8]) {
    put_integer(block, 0, 7, text.len());
    block.extend_from_slice(text);
}

fn put_integer(block: &mut Vec<u8>, kind: u8, prefix: u8, value: usize) {
    let most = (1 << prefix) - 1;
    let byte = |value: usize| u8::try_from(value & 0xff).unwrap_or_default();
    if value < most {
        return block.push(kind | byte(value));
    }
    block.push(kind | byte(most));
    let mut rest = value - most;
    while rest >= 0x80 {
        block.push(byte(rest & 0x7f) | 0x80);
        rest >>= 7;
    }
    block.push(byte(rest));
}
