//! The query language of the search, as far as a client needs it: a part of Lucene's.
//!
//! `field:term`, `field:"phrase"`, `field:pre*`, `field:*end`, ranges `[a TO b]` and `{a TO b}` with `*` for no end, `_exists_:field`,
//! `NOT` and `-`, `AND`, `OR`, parentheses. What is not understood is refused. So is `AND` beside `OR` without parentheses: Lucene
//! does not read it as booleans, and a query that means one thing to its author and another to the tenant is a mistake.

use std::ops::Range;

use super::{
    field::{Field, Held},
    moment::span,
    user::User,
};

/// What users have to be.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Query {
    All,
    Not(Box<Query>),
    And(Vec<Query>),
    Or(Vec<Query>),
    Exists(Field),
    Is(Field, Pattern),
    Within(Field, Bounds),
}

/// What a field's text has to be.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Pattern {
    Exactly(String),
    /// Text with `*` between these for any characters.
    Like(Vec<String>),
}

/// A range. A bound is inclusive or not.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Bounds {
    low: Option<(String, bool)>,
    high: Option<(String, bool)>,
}

#[derive(Clone, PartialEq, Debug)]
enum Token {
    Open,
    Close,
    And,
    Or,
    Not,
    Clause(Query),
}

/// Deeper than anybody nests by hand.
const DEEPEST: usize = 20;

impl Query {
    /// Reads a query; the message says what is not understood.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let tokens = Lexer { text, at: 0 }.tokens()?;
        if tokens.is_empty() {
            return Ok(Self::All);
        }
        let mut parser = Parser { tokens: tokens.into_iter().peekable(), depth: 0 };
        let query = parser.clauses()?;
        match parser.tokens.next() {
            None => Ok(query),
            Some(_) => Err("a parenthesis too much".into()),
        }
    }

    pub(crate) fn fits(&self, user: &User) -> bool {
        match self {
            Self::All => true,
            Self::Not(query) => !query.fits(user),
            Self::And(queries) => queries.iter().all(|query| query.fits(user)),
            Self::Or(queries) => queries.iter().any(|query| query.fits(user)),
            Self::Exists(field) => field.of(user).is_some(),
            // What a user does not have is nothing: `blocked:false` finds only those of whom it is said.
            Self::Is(field, pattern) => field.of(user).is_some_and(|held| pattern.fits(field, &held)),
            Self::Within(field, bounds) => field.of(user).is_some_and(|held| bounds.hold(&held)),
        }
    }

    /// When users must have been created to fit, as far as the query says so at its top.
    pub(crate) fn created(&self) -> Range<i64> {
        match self {
            Self::And(queries) => {
                let ranges = queries.iter().map(Self::created);
                ranges.fold(i64::MIN..i64::MAX, |all, one| all.start.max(one.start)..all.end.min(one.end))
            }
            Self::Within(Field::CreatedAt, bounds) => bounds.times().unwrap_or(i64::MIN..i64::MAX),
            _ => i64::MIN..i64::MAX,
        }
    }
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    depth: usize,
}

impl Parser {
    /// Clauses up to a parenthesis or the end, between them always the same operator.
    fn clauses(&mut self) -> Result<Query, String> {
        let mut clauses = vec![self.clause()?];
        let mut operator = None;
        loop {
            let next = match self.tokens.peek() {
                None | Some(Token::Close) => break,
                Some(next @ (Token::And | Token::Or)) => next.clone(),
                Some(_) => return Err("between two clauses AND or OR is needed".into()),
            };
            if operator.as_ref().is_some_and(|operator| *operator != next) {
                return Err("AND beside OR needs parentheses".into());
            }
            self.tokens.next();
            operator = Some(next);
            clauses.push(self.clause()?);
        }
        Ok(match operator {
            Some(Token::And) => Query::And(clauses),
            Some(_) => Query::Or(clauses),
            None => clauses.pop().unwrap_or(Query::All),
        })
    }

    fn clause(&mut self) -> Result<Query, String> {
        match self.tokens.next() {
            Some(Token::Not) => match self.tokens.peek() {
                Some(Token::Not) => Err("NOT twice".into()),
                _ => Ok(Query::Not(Box::new(self.clause()?))),
            },
            Some(Token::Open) => {
                self.depth += 1;
                if self.depth > DEEPEST {
                    return Err("too many parentheses".into());
                }
                let query = self.clauses()?;
                self.depth -= 1;
                match self.tokens.next() {
                    Some(Token::Close) => Ok(query),
                    _ => Err("a parenthesis is not closed".into()),
                }
            }
            Some(Token::Clause(query)) => Ok(query),
            _ => Err("a clause is missing".into()),
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn tokens(mut self) -> Result<Vec<Token>, String> {
        let mut tokens = Vec::new();
        loop {
            self.at += self.rest().len() - self.rest().trim_start().len();
            let rest = self.rest();
            let Some(first) = rest.chars().next() else { return Ok(tokens) };
            let is_word = |word: &str| {
                rest.strip_prefix(word).is_some_and(|after| after.is_empty() || after.starts_with([' ', '(', ')']))
            };
            let (token, length) = match first {
                '(' => (Token::Open, 1),
                ')' => (Token::Close, 1),
                '-' | '!' => (Token::Not, 1),
                _ if is_word("AND") => (Token::And, 3),
                _ if is_word("OR") => (Token::Or, 2),
                _ if is_word("NOT") => (Token::Not, 3),
                _ => {
                    tokens.push(Token::Clause(self.clause()?));
                    continue;
                }
            };
            self.at += length;
            tokens.push(token);
        }
    }

    fn clause(&mut self) -> Result<Query, String> {
        let rest = self.rest();
        let name = rest.split([':', ' ', '(', ')', '"']).next().unwrap_or_default();
        if name.is_empty() || !rest[name.len()..].starts_with(':') {
            return Err(format!("a field is needed: {name}"));
        }
        self.at += name.len() + 1;
        if name == "_exists_" {
            let (of, _) = self.term()?;
            return Ok(Query::Exists(known(&of)?));
        }
        let field = known(name)?;
        match self.rest().chars().next() {
            Some('"') => Ok(Query::Is(field, Pattern::Exactly(self.phrase()?))),
            Some('[' | '{') if field.is_user_metadata() => Err("no ranges on user_metadata".into()),
            Some('[' | '{') => Ok(Query::Within(field, self.range()?)),
            Some('(') => Err("a group of terms".into()),
            _ => {
                let (term, stars) = self.term()?;
                pattern(field, term, &stars)
            }
        }
    }

    /// A bare term, and where in it there are stars.
    fn term(&mut self) -> Result<(String, Vec<usize>), String> {
        let (mut term, mut stars) = (String::new(), Vec::new());
        let mut chars = self.rest().chars();
        loop {
            match chars.clone().next() {
                None | Some(' ' | '(' | ')') => break,
                Some('\\') => {
                    chars.next();
                    term.push(chars.next().ok_or("an escape of nothing")?);
                }
                Some('"' | '[' | ']' | '{' | '}') => return Err("a character that has to be escaped".into()),
                Some(next) => {
                    if next == '*' {
                        stars.push(term.len());
                    }
                    term.push(next);
                    chars.next();
                }
            }
        }
        self.at = self.text.len() - chars.as_str().len();
        if term.is_empty() { Err("a term is missing".into()) } else { Ok((term, stars)) }
    }

    fn phrase(&mut self) -> Result<String, String> {
        let mut phrase = String::new();
        let mut chars = self.rest()[1..].chars();
        loop {
            match chars.next() {
                None => return Err("a phrase does not end".into()),
                Some('"') => break,
                Some('\\') => phrase.push(chars.next().ok_or("an escape of nothing")?),
                Some(next) => phrase.push(next),
            }
        }
        self.at = self.text.len() - chars.as_str().len();
        if chars.as_str().is_empty() || chars.as_str().starts_with([' ', ')']) {
            Ok(phrase)
        } else {
            Err("something right after a phrase".into())
        }
    }

    fn range(&mut self) -> Result<Bounds, String> {
        let rest = self.rest();
        let end = rest.find([']', '}']).ok_or("a range does not end")?;
        let (from_start, to_end) = (rest.starts_with('['), rest[end..].starts_with(']'));
        let (low, high) = rest[1..end].split_once(" TO ").ok_or("a range without TO")?;
        let bound = |text: &str, is_inclusive: bool| {
            let text = text.trim();
            let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
            let text = text.replace('\\', "");
            match text.as_str() {
                "*" => Ok(None),
                "" => Err("a bound is missing".to_owned()),
                _ if text.contains(' ') => Err(format!("a bound like {text}")),
                _ => Ok(Some((text, is_inclusive))),
            }
        };
        let bounds = Bounds { low: bound(low, from_start)?, high: bound(high, to_end)? };
        self.at += end + 1;
        Ok(bounds)
    }
}

fn pattern(field: Field, term: String, stars: &[usize]) -> Result<Query, String> {
    if stars.is_empty() {
        let is_special = term.starts_with(['<', '>', '/', '~', '^']) || term.ends_with(['~', '^']);
        return if is_special {
            Err(format!("a term like {term}"))
        } else {
            Ok(Query::Is(field, Pattern::Exactly(term)))
        };
    }
    if field.is_user_metadata() {
        return Err("no wildcards on user_metadata".into());
    }
    if term == "*" {
        return Ok(Query::Exists(field));
    }
    let mut parts = Vec::new();
    let mut from = 0;
    for &star in stars {
        parts.push(term[from..star].to_owned());
        from = star + 1;
    }
    parts.push(term[from..].to_owned());
    if parts[0].is_empty() && parts.iter().map(|part| part.chars().count()).max().unwrap_or(0) < 3 {
        return Err("a suffix of less than three characters".into());
    }
    Ok(Query::Is(field, Pattern::Like(parts)))
}

fn known(name: &str) -> Result<Field, String> {
    Field::searched(name).ok_or_else(|| format!("an unknown field: {name}"))
}

impl Pattern {
    fn fits(&self, field: &Field, held: &Held<'_>) -> bool {
        if let (Self::Exactly(term), Held::Time(at)) = (self, held) {
            return span(term).is_some_and(|(from, until)| (from..until).contains(at));
        }
        if let (Self::Exactly(term), Some(number)) = (self, held.number()) {
            return term.parse::<f64>().is_ok_and(|term| term.total_cmp(&number).is_eq());
        }
        let text = held.text();
        if field.is_normalized() {
            self.is_like(&text.to_lowercase(), str::to_lowercase)
        } else {
            self.is_like(&text, str::to_owned)
        }
    }

    fn is_like(&self, text: &str, folded: impl Fn(&str) -> String) -> bool {
        match self {
            Self::Exactly(term) => text == folded(term),
            Self::Like(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| folded(part)).collect();
                let [first, between @ .., last] = &parts[..] else { return false };
                let Some(mut rest) = text.strip_prefix(first.as_str()) else { return false };
                for part in between {
                    let Some(at) = rest.find(part.as_str()) else { return false };
                    rest = &rest[at + part.len()..];
                }
                rest.ends_with(last.as_str())
            }
        }
    }
}

impl Bounds {
    /// The times that it holds, if it is one of times. A bound that names a day means all of it.
    fn times(&self) -> Option<Range<i64>> {
        let low = match &self.low {
            None => i64::MIN,
            Some((text, is_inclusive)) => span(text).map(|(from, until)| if *is_inclusive { from } else { until })?,
        };
        let high = match &self.high {
            None => i64::MAX,
            Some((text, is_inclusive)) => span(text).map(|(from, until)| if *is_inclusive { until } else { from })?,
        };
        Some(low..high)
    }

    fn hold(&self, held: &Held<'_>) -> bool {
        if let Some(number) = held.number() {
            let is_above = |(text, is_inclusive): &(String, bool)| {
                text.parse::<f64>().is_ok_and(|low| if *is_inclusive { number >= low } else { number > low })
            };
            let is_below = |(text, is_inclusive): &(String, bool)| {
                text.parse::<f64>().is_ok_and(|high| if *is_inclusive { number <= high } else { number < high })
            };
            return self.low.as_ref().is_none_or(is_above) && self.high.as_ref().is_none_or(is_below);
        }
        if let (Some(at), Some(times)) = (held.time(), self.times()) {
            return times.contains(&at);
        }
        let text = held.text();
        let is_above = |(low, is_inclusive): &(String, bool)| {
            if *is_inclusive { *text >= **low } else { *text > **low }
        };
        let is_below = |(high, is_inclusive): &(String, bool)| {
            if *is_inclusive { *text <= **high } else { *text < **high }
        };
        !matches!(held, Held::Time(_))
            && self.low.as_ref().is_none_or(is_above)
            && self.high.as_ref().is_none_or(is_below)
    }

    /// Whether all its bounds are of a kind that the field has.
    pub(crate) fn suit(&self, field: &Field) -> bool {
        let bounds = || self.low.iter().chain(&self.high).map(|(text, _)| text);
        match field {
            Field::CreatedAt | Field::UpdatedAt | Field::LastLogin => bounds().all(|text| span(text).is_some()),
            Field::LoginsCount => bounds().all(|text| text.parse::<f64>().is_ok()),
            _ => true,
        }
    }
}
