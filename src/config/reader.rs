//! Reads settings one by one out of the file and the variables, and gathers everything that is wrong.
//!
//! Not serde's derive: it stops at the first error, and a merge of file and variables would lose where a value came
//! from. Here each key is named once, where it is read; a section then knows which keys it does not.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    problem::{ConfigErrors, Fault, Place, Problem, nearest},
    value::{Raw, Setting},
    written::{Files, Print, Written, print_of_file},
};

/// What every variable begins with.
const PREFIX: &str = "PORTCULLIS_";

/// A file, the variables over it, and what was found wrong.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    variables: BTreeMap<String, String>,
    /// The variables that would have been read, and their keys.
    known: RefCell<BTreeMap<String, String>>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    /// Every key that was asked for, whether it was there or not.
    asked: RefCell<BTreeSet<String>>,
    /// Digests of what stands in files of their own, by the key that names the file, and those files.
    contents: RefCell<Vec<(String, Print)>>,
    files: RefCell<Files>,
}

/// Where a setting is, or would be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct At {
    /// The key, dotted.
    pub(super) key: String,
    origin: Origin,
    is_given: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Origin {
    Nowhere,
    Offset(usize),
    Variable(String),
}

impl At {
    pub(super) fn under(&self, key: &str) -> Self {
        let key = if self.key.is_empty() { key.to_owned() } else { format!("{}.{key}", self.key) };
        Self { key, origin: self.origin.clone(), is_given: false }
    }

    fn variable(self, name: String) -> Self {
        Self { origin: Origin::Variable(name), is_given: true, ..self }
    }

    /// Whether something is written there.
    pub(super) const fn is_given(&self) -> bool {
        self.is_given
    }

    /// Whether it is in a variable.
    pub(super) const fn is_variable(&self) -> bool {
        matches!(self.origin, Origin::Variable(_))
    }

    fn offset(self, offset: usize) -> Self {
        Self { origin: Origin::Offset(offset), is_given: true, ..self }
    }
}

impl<'a> Reader<'a> {
    /// Empty variables count as unset: container tools cannot leave one out.
    pub(super) fn new(name: &'a str, text: &'a str, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = |(name, value): &(String, String)| name.starts_with(PREFIX) && !value.is_empty();
        Self {
            name,
            text,
            variables: variables.into_iter().filter(ours).collect(),
            known: RefCell::default(),
            problems: RefCell::default(),
            warnings: RefCell::default(),
            asked: RefCell::default(),
            contents: RefCell::default(),
            files: RefCell::default(),
        }
    }

    /// The outermost section.
    pub(super) fn root(&'a self, table: &'a DeTable<'a>) -> Section<'a> {
        let at = At { key: String::new(), origin: Origin::Nowhere, is_given: true };
        Section::new(self, at, Some(table), true)
    }

    pub(super) fn report(&self, at: &At, fault: Fault) {
        push(&self.problems, self.problem(at, fault));
    }

    pub(super) fn warn(&self, at: &At, fault: Fault) {
        push(&self.warnings, self.problem(at, fault));
    }

    /// Reports what is wrong at an offset of the file, without a key.
    pub(super) fn report_syntax(&self, offset: Option<usize>, message: &str) {
        let origin = offset.map_or(Origin::Nowhere, Origin::Offset);
        self.report(&At { key: String::new(), origin, is_given: true }, Fault::new(message));
    }

    /// A path as written: in the file relative to the file's directory, in a variable to the current one.
    pub(super) fn resolve(&self, at: &At, path: &str) -> PathBuf {
        match at.origin {
            Origin::Variable(_) => PathBuf::from(path),
            _ => Path::new(self.name).parent().unwrap_or(Path::new("")).join(path),
        }
    }

    /// Reports the variables that belong to a section and that nothing asked for.
    pub(super) fn report_unknown_variables(&self, sections: &[&str]) {
        // The command line's own.
        const OTHERS: [&str; 1] = ["PORTCULLIS_ADMIN_URL"];
        let known = self.known.borrow();
        for (name, value) in &self.variables {
            let prefix = |section: &&str| format!("{PREFIX}{section}_");
            let prefix = sections.iter().map(prefix).find(|prefix| name.starts_with(prefix));
            let Some(prefix) = prefix else { continue };
            if known.contains_key(name) || OTHERS.contains(&&**name) || is_service_link(name, value) {
                continue;
            }
            let keys = known.keys().filter_map(|known| known.strip_prefix(&prefix));
            let hint = match (nearest(&name[prefix.len()..], keys), &prefix[PREFIX.len()..]) {
                (Some(key), _) => Some(format!("did you mean {prefix}{key}?")),
                (None, "ISSUERS_") => Some("the file must have the issuer, if only as `[issuers.<name>]`".to_owned()),
                (None, "ROUTES_") => Some("routes are written in the file only".to_owned()),
                (None, _) => None,
            };
            let at = At { key: String::new(), origin: Origin::Variable(name.clone()), is_given: true };
            self.report(&at, Fault { message: "unknown variable".to_owned(), hint });
        }
    }

    /// The errors, or else the warnings.
    pub(super) fn finish(&self) -> Result<Vec<Problem>, ConfigErrors> {
        let mut problems = self.problems.take();
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        if problems.is_empty() { Ok(self.warnings.take()) } else { Err(ConfigErrors(problems)) }
    }

    /// A file is about to be read because a key names it, whether it can be or not: a change of it is a change of the configuration.
    pub(super) fn note_file(&self, at: &At, path: &Path) {
        self.files.borrow_mut().insert(path.to_owned());
        self.contents.borrow_mut().push((at.key.clone(), print_of_file(path)));
    }

    /// The files that were read, or should have been.
    pub(super) fn files(&self) -> Files {
        self.files.take()
    }

    /// Everything that was said.
    pub(super) fn written(&self, table: &DeTable<'_>) -> Written {
        let mut written = Written::default();
        written.take_table("", table, &|offset| self.position(offset));
        for (name, key) in &*self.known.borrow() {
            if let Some(value) = self.variables.get(name) {
                written.take(key.clone(), value.as_bytes(), Place::Variable(name.clone()));
            }
        }
        for (key, contents) in self.contents.take() {
            written.take_file(&key, &contents);
        }
        written
    }

    /// Every key that was asked for.
    #[cfg(test)]
    pub(super) fn asked(&self) -> BTreeSet<String> {
        self.asked.take()
    }

    fn problem(&self, at: &At, Fault { message, hint }: Fault) -> Problem {
        let place = match &at.origin {
            Origin::Nowhere => Place::File(self.name.to_owned()),
            Origin::Variable(name) => Place::Variable(name.clone()),
            Origin::Offset(offset) => self.position(*offset),
        };
        Problem { place, key: at.key.clone(), message, hint }
    }

    fn position(&self, offset: usize) -> Place {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place::Position {
            file: self.name.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }

    /// The value of the variable for a key. Two keys with one variable make it ambiguous.
    fn variable(&self, key: &str) -> Option<(String, &str)> {
        let upper = |char: char| if char.is_ascii_alphanumeric() { char.to_ascii_uppercase() } else { '_' };
        let name: String = PREFIX.chars().chain(key.chars().map(upper)).collect();
        let value = self.variables.get(&name);
        if let Some(other) = self.known.borrow_mut().insert(name.clone(), key.to_owned())
            && other != key
            && value.is_some()
        {
            let at = At { key: key.to_owned(), origin: Origin::Variable(name.clone()), is_given: true };
            self.report(&at, Fault::new(format!("stands for {other} too")).hint("rename one of the issuers"));
        }
        value.map(|value| (name, value.as_str()))
    }
}

/// Cross-checks look at the same pair more than once; each problem is told once.
fn push(list: &RefCell<Vec<Problem>>, problem: Problem) {
    let mut list = list.borrow_mut();
    if !list.contains(&problem) {
        list.push(problem);
    }
}

/// What Kubernetes sets for a service that is called `portcullis-admin`: nobody meant it for us.
fn is_service_link(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_") && ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| name.contains(protocol))
        || name.ends_with("_PORT") && value.contains("://")
}

/// A table of the file, or the place where one could be.
#[derive(Debug)]
pub(super) struct Section<'a> {
    reader: &'a Reader<'a>,
    at: At,
    table: Option<&'a DeTable<'a>>,
    /// Whether variables stand over its keys.
    has_variables: bool,
    known: RefCell<Vec<String>>,
}

impl<'a> Section<'a> {
    fn new(reader: &'a Reader<'a>, at: At, table: Option<&'a DeTable<'a>>, has_variables: bool) -> Self {
        Self { reader, at, table, has_variables, known: RefCell::default() }
    }

    pub(super) const fn reader(&self) -> &'a Reader<'a> {
        self.reader
    }

    pub(super) const fn at(&self) -> &At {
        &self.at
    }

    /// Whether the file or a variable has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        let variable = || self.reader.variable(&self.at.under(key).key);
        self.value(key).is_some() || self.has_variables && variable().is_some()
    }

    /// A setting.
    pub(super) fn get<T: Setting>(&self, key: &str) -> Slot<'a, T> {
        match self.raw(key) {
            (at, Some(raw)) => Slot::read(self.reader, at, || T::read(raw)),
            (at, None) => Slot::absent(self.reader, at),
        }
    }

    /// A setting that may only be in a variable, because it is secret.
    pub(super) fn secret(&self, key: &str, file_key: &str) -> Slot<'a, String> {
        let at = self.at.under(key);
        let variable = self.reader.variable(&at.key);
        if let Some(at) = self.value(key).map(|value| at.clone().offset(value.span().start)) {
            self.known.borrow_mut().push(key.to_owned());
            let hint = format!(
                "put it into a file of its own and write `{file_key} = \"…\"`, or set {PREFIX}{}",
                at.key.replace(['.', '-'], "_").to_uppercase()
            );
            let slot = Slot { reader: self.reader, at, value: None, faulty: false };
            return slot.fail(Fault::new("a secret may not stand in this file").hint(hint));
        }
        match variable {
            Some((name, value)) => {
                let at = at.variable(name);
                Slot { reader: self.reader, at, value: Some(value.to_owned()), faulty: false }
            }
            None => Slot::absent(self.reader, at),
        }
    }

    /// A list; in a variable, its items are separated by commas. What is wrong with one item stands at that item.
    pub(super) fn list<T: Setting>(&self, key: &str) -> Slot<'a, Vec<(T, At)>> {
        let reader = self.reader;
        let (at, raw) = self.raw(key);
        let items: Vec<(At, Raw<'a>)> = match raw {
            None => return Slot::absent(reader, at),
            Some(Raw::Text(text)) => text.split(',').map(|item| (at.clone(), Raw::Text(item.trim()))).collect(),
            Some(Raw::Value(DeValue::Array(items))) => {
                let item =
                    |item: &'a Spanned<DeValue<'a>>| (at.clone().offset(item.span().start), Raw::Value(item.get_ref()));
                items.iter().map(item).collect()
            }
            Some(raw) => {
                let fault = raw.mismatch("a list").hint("lists stand in brackets: [\"…\", \"…\"]");
                return Slot::absent(reader, at).fail(fault);
            }
        };
        let mut values = Vec::with_capacity(items.len());
        let mut faulty = false;
        for (at, raw) in items {
            match Slot::read(reader, at, || T::read(raw)) {
                Slot { value: Some(value), at, .. } => values.push((value, at)),
                _ => faulty = true,
            }
        }
        Slot { reader, at, value: (!faulty).then_some(values), faulty }
    }

    /// A table whose keys are free, in the order of the file.
    pub(super) fn map<T: Setting>(&self, key: &str) -> Slot<'a, Vec<(String, T, At)>> {
        let (at, value) = self.file_value(key);
        let Some(value) = value else { return Slot::absent(self.reader, at) };
        let DeValue::Table(table) = value.get_ref() else {
            let fault =
                Raw::Value(value.get_ref()).mismatch("a table").hint("tables stand in braces: { \"…\" = \"…\" }");
            return Slot::absent(self.reader, at).fail(fault);
        };
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let mut values = Vec::with_capacity(entries.len());
        let mut faulty = false;
        for (key, value) in entries {
            let entry = at.under(key.get_ref()).offset(value.span().start);
            let raw = Raw::Value(value.get_ref());
            match Slot::read(self.reader, entry, || T::read(raw)) {
                Slot { value: Some(value), at, .. } => {
                    values.push((key.get_ref().to_string(), value, at.offset(key.span().start)));
                }
                _ => faulty = true,
            }
        }
        // Entries are judged one by one, so the good ones are of use even so.
        Slot { reader: self.reader, at, value: Some(values), faulty }
    }

    /// A section of this one.
    pub(super) fn section(&self, key: &str) -> Self {
        let (at, value) = self.file_value(key);
        let table = value.and_then(|value| self.as_table(&at, value, &format!("[{}]", at.key)));
        Self::new(self.reader, at, table, self.has_variables)
    }

    /// The sections of this one that have names: `[issuers.acme]`.
    pub(super) fn named_sections(&self, key: &str) -> Vec<(String, Self)> {
        let (at, value) = self.file_value(key);
        let table = value.and_then(|value| self.as_table(&at, value, &format!("[{}.…]", at.key)));
        let mut named: Vec<_> = table.into_iter().flatten().collect();
        named.sort_by_key(|(name, _)| name.span().start);
        let section = |(name, value): (&Spanned<_>, &'a Spanned<DeValue<'a>>)| {
            let name: &std::borrow::Cow<'_, str> = name.get_ref();
            let at = at.under(name).offset(value.span().start);
            let table = self.as_table(&at, value, &format!("[{}]", at.key))?;
            Some((name.to_string(), Self::new(self.reader, at, Some(table), self.has_variables)))
        };
        named.into_iter().filter_map(section).collect()
    }

    /// The sections of this one that are numbered: `[[routes]]`. No variables stand over those.
    pub(super) fn numbered_sections(&self, key: &str) -> Vec<Self> {
        let (at, value) = self.file_value(key);
        let Some(value) = value else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let fault = Raw::Value(value.get_ref()).mismatch("a list of tables");
            self.reader.report(&at, fault.hint(format!("write `[[{}]]` above each", at.key)));
            return Vec::new();
        };
        let section = |(number, value): (usize, &'a Spanned<DeValue<'a>>)| {
            let at = At { key: format!("{}[{number}]", at.key), ..at.clone() }.offset(value.span().start);
            let table = self.as_table(&at, value, &format!("[[{key}]]"))?;
            Some(Self::new(self.reader, at, Some(table), false))
        };
        items.iter().enumerate().filter_map(section).collect()
    }

    /// The keys of a table of this section.
    pub(super) fn keys(&self, key: &str) -> Vec<String> {
        let table = self.value(key).and_then(|value| value.get_ref().as_table());
        table.into_iter().flatten().map(|(key, _)| key.get_ref().to_string()).collect()
    }

    /// Reports the keys that nothing asked for.
    pub(super) fn finish(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table.into_iter().flatten() {
            if known.iter().any(|known| known == key.get_ref()) {
                continue;
            }
            let hint = match nearest(key.get_ref(), known.iter().map(String::as_str)) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("known here: {}", known.join(", ")),
            };
            let at = self.at.under(key.get_ref()).offset(key.span().start);
            self.reader.report(&at, Fault::new("unknown key").hint(hint));
        }
    }

    fn as_table(&self, at: &At, value: &'a Spanned<DeValue<'a>>, header: &str) -> Option<&'a DeTable<'a>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let fault = Raw::Value(value.get_ref()).mismatch("a table");
            self.reader.report(at, fault.hint(format!("write `{header}` above its keys")));
        }
        table
    }

    fn value(&self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(key)
    }

    /// Notes that the section knows the key, and finds it in the file.
    fn file_value(&self, key: &str) -> (At, Option<&'a Spanned<DeValue<'a>>>) {
        self.known.borrow_mut().push(key.to_owned());
        let at = self.at.under(key);
        self.reader.asked.borrow_mut().insert(at.key.clone());
        match self.value(key) {
            Some(value) => (at.offset(value.span().start), Some(value)),
            None => (at, None),
        }
    }

    fn raw(&self, key: &str) -> (At, Option<Raw<'a>>) {
        let (at, value) = self.file_value(key);
        if self.has_variables
            && let Some((name, text)) = self.reader.variable(&at.key)
        {
            return (at.variable(name), Some(Raw::Text(text)));
        }
        (at, value.map(|value| Raw::Value(value.get_ref())))
    }
}

/// A setting that was there, was not, or was wrong (and reported).
#[derive(Debug)]
pub(super) struct Slot<'a, T> {
    reader: &'a Reader<'a>,
    at: At,
    value: Option<T>,
    faulty: bool,
}

impl<'a, T> Slot<'a, T> {
    const fn absent(reader: &'a Reader<'a>, at: At) -> Self {
        Self { reader, at, value: None, faulty: false }
    }

    fn read(reader: &'a Reader<'a>, at: At, read: impl FnOnce() -> Result<T, Fault>) -> Self {
        match read() {
            Ok(value) => Self { reader, at, value: Some(value), faulty: false },
            Err(fault) => Self::absent(reader, at).fail(fault),
        }
    }

    pub(super) const fn at(&self) -> &At {
        &self.at
    }

    /// Whether something was written, right or wrong.
    pub(super) const fn is_given(&self) -> bool {
        self.value.is_some() || self.faulty
    }

    /// Reports what is wrong.
    pub(super) fn fail(self, fault: Fault) -> Self {
        self.reader.report(&self.at, fault);
        Self { value: None, faulty: true, ..self }
    }

    /// Makes something else of it.
    pub(super) fn and_then<U>(self, make: impl FnOnce(T) -> Result<U, Fault>) -> Slot<'a, U> {
        let Self { reader, at, value, faulty } = self;
        match value {
            Some(value) => Slot::read(reader, at, || make(value)),
            None => Slot { reader, at, value: None, faulty },
        }
    }

    /// Holds it to a rule.
    pub(super) fn check(self, rule: impl FnOnce(&T) -> Result<(), Fault>) -> Self {
        self.and_then(|value| rule(&value).map(|()| value))
    }

    /// Reports when it is not there.
    pub(super) fn required(self, hint: &str) -> Self {
        if self.is_given() { self } else { self.fail(Fault::new("is missing").hint(hint)) }
    }

    pub(super) fn or(self, default: T) -> T {
        self.value.unwrap_or(default)
    }

    pub(super) fn option(self) -> Option<T> {
        self.value
    }

    /// The value and where it stands.
    pub(super) fn placed(self) -> Option<(T, At)> {
        self.value.map(|value| (value, self.at))
    }
}

impl<T: Setting + PartialOrd> Slot<'_, T> {
    /// Holds it to a range, its ends included.
    pub(super) fn between(self, least: T, most: T) -> Self {
        let range = least..=most;
        self.check(|value| {
            if range.contains(value) {
                return Ok(());
            }
            Err(Fault::new(format!("must be from {} to {}", range.start().show(), range.end().show())))
        })
    }
}
