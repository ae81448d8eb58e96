//! As much of RESP as readers of pushes need: frames are looked at where they lie, nothing is copied.

use anyhow::{Context, bail};

/// One message of a server.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Frame<'a> {
    /// A status, an error, a number.
    Line(&'a str),
    Text(&'a str),
    Nil,
    List(Vec<Frame<'a>>),
    /// A list that nobody asked for.
    Push(Vec<Frame<'a>>),
}

impl<'a> Frame<'a> {
    /// The first frame and its length, once all of it is there.
    pub(crate) fn read(bytes: &'a [u8]) -> anyhow::Result<Option<(Self, usize)>> {
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        let line = std::str::from_utf8(&bytes[1..end])?;
        let begin = end + 2;
        match bytes[0] {
            b'+' | b'-' | b':' => Ok(Some((Self::Line(line), begin))),
            b'_' => Ok(Some((Self::Nil, begin))),
            b'$' | b'*' if line == "-1" => Ok(Some((Self::Nil, begin))),
            b'$' => {
                let end = begin + line.parse::<usize>()?;
                let Some(text) = bytes.get(begin..end + 2) else { return Ok(None) };
                Ok(Some((Self::Text(std::str::from_utf8(&text[..end - begin])?), end + 2)))
            }
            b'*' | b'>' => {
                let Some((items, end)) = Self::read_list(bytes, begin, line.parse()?)? else { return Ok(None) };
                Ok(Some((if bytes[0] == b'>' { Self::Push(items) } else { Self::List(items) }, end)))
            }
            // The greeting, a map, is twice as many frames as it says.
            b'%' => {
                let read = Self::read_list(bytes, begin, 2 * line.parse::<usize>()?)?;
                Ok(read.map(|(items, end)| (Self::List(items), end)))
            }
            other => bail!("a frame begins with {:?}", char::from(other)),
        }
    }

    fn read_list(bytes: &'a [u8], mut at: usize, count: usize) -> anyhow::Result<Option<(Vec<Self>, usize)>> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
            let Some((item, length)) = Self::read(rest)? else { return Ok(None) };
            items.push(item);
            at += length;
        }
        Ok(Some((items, at)))
    }

    pub(crate) fn items(&self) -> &[Self] {
        match self {
            Self::List(items) | Self::Push(items) => items,
            _ => &[],
        }
    }

    pub(crate) fn text(&self) -> anyhow::Result<&'a str> {
        match self {
            Self::Line(text) | Self::Text(text) => Ok(text),
            other => bail!("{other:?} is no text"),
        }
    }

    /// The item at `path`, of lists in lists.
    pub(crate) fn at(&self, path: &[usize]) -> anyhow::Result<&Self> {
        path.iter()
            .try_fold(self, |frame, at| frame.items().get(*at).with_context(|| format!("{frame:?} has no [{at}]")))
    }
}

/// A command in the form that servers read.
pub(crate) fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}
