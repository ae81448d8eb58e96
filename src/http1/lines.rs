//! How the lines of a header end (RFC 9112 §2.2).

/// What ends a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LineEnd {
    /// As it should be.
    CrLf,
    /// As some old servers have it.
    Lf,
}

impl LineEnd {
    fn of(line: &[u8]) -> Self {
        if line.ends_with(b"\r\n") { Self::CrLf } else { Self::Lf }
    }
}

/// What all lines of a header end with, of which these are the fields. `None`: one ends otherwise than the others. Somebody may have been
/// made to put it there: what was one field to its sender would go on as two.
///
/// A field begins where the line before it ends, so that the bytes in between need not be looked at once more.
pub(crate) fn line_end(head: &[u8], fields: &[httparse::Header<'_>]) -> Option<LineEnd> {
    let last = LineEnd::of(head);
    let before_last = &head[..head.len().saturating_sub(if last == LineEnd::CrLf { 2 } else { 1 })];
    let begins = |field: &httparse::Header<'_>| field.name.as_ptr().addr() - head.as_ptr().addr();
    let are_alike =
        LineEnd::of(before_last) == last && fields.iter().all(|field| LineEnd::of(&head[..begins(field)]) == last);
    are_alike.then_some(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_that_ends_otherwise_is_found() {
        for lines in 1..4 {
            for ends in 0..1 << (lines + 1) {
                let end = |line: usize| if ends & 1 << line == 0 { "\r\n" } else { "\n" };
                let first = format!("GET / HTTP/1.1{}", end(0));
                let fields = (1..lines).map(|line| format!("x-{line}: {line}{}", end(line)));
                let head: String = [first].into_iter().chain(fields).chain([end(lines).to_owned()]).collect();
                let mut fields = [httparse::EMPTY_HEADER; 4];
                let mut request = httparse::Request::new(&mut fields);
                let size = request.parse(head.as_bytes()).unwrap().unwrap();
                assert_eq!((size, request.headers.len()), (head.len(), lines - 1));
                let expected = match ends {
                    0 => Some(LineEnd::CrLf),
                    _ if ends == (1 << (lines + 1)) - 1 => Some(LineEnd::Lf),
                    _ => None,
                };
                assert_eq!(line_end(head.as_bytes(), request.headers), expected, "{head:?}");
            }
        }
    }
}
