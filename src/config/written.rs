//! What a configuration is made of, key by key, so that two can be compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    fs,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{Context, SHA256};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::problem::{Place, Problem};

/// The keys whose settings are taken once, when a gate starts: `*` stands for a name. A key stands for all that is under it.
pub(super) const AT_START: &[&str] = &[
    "activity",
    "admin.address",
    "inactive",
    "issuers.*.logout.revoke",
    "issuers.*.management",
    "listener.address",
    "listener.max_connections",
    "listener.reuse_port",
    "listener.busy_poll",
    "listener.unix_mode",
    "log.format",
    "markers.cache_size",
    "markers.clock_skew",
    "markers.max_staleness",
    "markers.max_token_lifetime",
    "markers.max_waiting",
    "markers.read_timeout",
    "markers.session_retention",
    "markers.write_timeout",
    "session.gateway",
    "session.record",
    "sources",
    "store",
    "tokens.cache_size",
];

/// Every key that was given, in the file or in a variable, and digests of what: of secrets in files of their own as well. Tells no value.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Written(BTreeMap<String, Entry>);

/// A digest.
pub(super) type Print = [u8; 32];

/// Where a key stands, and a digest of what it says.
#[derive(Clone)]
struct Entry {
    place: Place,
    print: Print,
}

/// Wherever it stands.
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.print == other.print
    }
}

impl Eq for Entry {}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written").finish_non_exhaustive()
    }
}

impl Written {
    /// The keys that are not the same in both.
    #[must_use]
    pub fn changed_since<'a>(&'a self, former: &'a Self) -> Vec<&'a str> {
        let keys: BTreeSet<&String> = self.0.keys().chain(former.0.keys()).collect();
        keys.into_iter().filter(|key| self.0.get(*key) != former.0.get(*key)).map(String::as_str).collect()
    }

    /// Why a gate that runs by `former` cannot go on by this: all settings that are taken when it starts, and are others now.
    #[must_use]
    pub fn needs_restart(&self, former: &Self) -> Vec<Problem> {
        let changed = self.changed_since(former).into_iter().filter(|key| is_taken_at_start(key));
        let problem = |key: &str| Problem {
            place: self
                .0
                .get(key)
                .or_else(|| former.0.get(key))
                .map_or(Place::File(String::new()), |entry| entry.place.clone()),
            key: key.to_owned(),
            message: if self.0.contains_key(key) {
                "needs a restart: this setting is taken when the gate starts".to_owned()
            } else {
                "needs a restart: this setting is taken when the gate starts, and is not there any more".to_owned()
            },
            hint: Some("restart the gate, or take this change back".to_owned()),
        };
        changed.map(problem).collect()
    }

    /// Where a key stands; else, where the first key under it does.
    #[must_use]
    pub fn place(&self, key: &str) -> Option<&Place> {
        let under = |found: &str| found.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.0.iter().find(|(found, _)| under(found)).map(|(_, entry)| &entry.place)
    }

    /// The values of a table of the file, below the key `prefix`; `place` tells where an offset is.
    pub(super) fn take_table(&mut self, prefix: &str, table: &DeTable<'_>, place: &impl Fn(usize) -> Place) {
        for (key, value) in table {
            let key = if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
            self.take_value(key, value, place);
        }
    }

    fn take_value(&mut self, key: String, value: &Spanned<DeValue<'_>>, place: &impl Fn(usize) -> Place) {
        let at = place(value.span().start);
        match value.get_ref() {
            DeValue::Table(table) => self.take_table(&key, table, place),
            DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                for (number, item) in items.iter().enumerate() {
                    self.take_value(format!("{key}[{number}]"), item, place);
                }
            }
            DeValue::Array(items) => {
                // Each item ends before the next begins.
                let mut text = String::new();
                for item in items {
                    let item = scalar(item.get_ref());
                    // Writing to a string never fails.
                    let _ = write!(text, "{}:{item}", item.len());
                }
                self.take(key, text.as_bytes(), at);
            }
            value => self.take(key, scalar(value).as_bytes(), at),
        }
    }

    /// What a key says, whatever it said before.
    pub(super) fn take(&mut self, key: String, text: &[u8], place: Place) {
        self.0.insert(key, Entry { place, print: print(&[text]) });
    }

    /// What stands in the file that a key names.
    pub(super) fn take_file(&mut self, key: &str, contents: &Print) {
        if let Some(entry) = self.0.get_mut(key) {
            entry.print = print(&[&entry.print, contents]);
        }
    }
}

/// Whether the setting of this key is taken once, when a gate starts.
#[must_use]
pub fn is_taken_at_start(key: &str) -> bool {
    let matches = |pattern: &str| {
        let mut segments = key.split(['.', '[']);
        pattern.split('.').all(|expected| segments.next().is_some_and(|found| expected == "*" || expected == found))
    };
    AT_START.iter().copied().any(matches)
}

fn print(parts: &[&[u8]]) -> Print {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut print = Print::default();
    print.copy_from_slice(context.finish().as_ref());
    print
}

/// A digest of what stands in a file; of nothing where it cannot be read, or is longer than any that is meant.
pub(super) fn print_of_file(path: &Path) -> Print {
    const LONGEST: u64 = 16 * 1024 * 1024;
    let is_long = fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() || metadata.len() > LONGEST);
    let contents = if is_long { None } else { fs::read(path).ok() };
    // One that is not there is not one that is empty.
    contents.map_or_else(Print::default, |contents| print(&[&contents]))
}

/// A digest of what stands in files; the same as long as nothing changes.
#[must_use]
pub fn fingerprint(files: &Files) -> [u8; 32] {
    let prints: Vec<Print> = files.iter().map(|file| print_of_file(file)).collect();
    print(&[prints.as_flattened()])
}

/// The kind is part of it: `1` is not `"1"`.
fn scalar(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("s{text}"),
        DeValue::Integer(integer) => format!("i{}:{}", integer.radix(), integer.as_str()),
        DeValue::Float(float) => format!("f{}", float.as_str()),
        DeValue::Boolean(value) => format!("b{value}"),
        DeValue::Datetime(time) => format!("d{time}"),
        DeValue::Array(items) => items.iter().map(|item| scalar(item.get_ref())).collect(),
        DeValue::Table(_) => String::new(),
    }
}

/// A file that was read, and what for: those that make another configuration when they change.
pub type Files = BTreeSet<PathBuf>;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Written {
        let (table, _) = DeTable::parse_recoverable(text);
        let mut written = Written::default();
        written.take_table("", table.get_ref(), &|_| Place::File("gate.toml".to_owned()));
        written
    }

    #[test]
    fn only_what_is_said_differs() {
        let one = written("mode = \"a\"\n[listener]\nx = [\"1\", \"2\"] # why\n[[routes]]\nname = \"r\"\n");
        let same = written("mode=\"a\"\nlistener = { x = [ \"1\",\n\"2\" ] }\nroutes = [{ name = \"r\" }]\n");
        assert_eq!(one, same);
        for (text, changed) in [
            ("mode = \"b\"\n[listener]\nx = [\"1\", \"2\"]\n[[routes]]\nname = \"r\"\n", vec!["mode"]),
            ("mode = \"a\"\n[listener]\nx = [\"12\"]\n[[routes]]\nname = \"r\"\n", vec!["listener.x"]),
            ("mode = \"a\"\n[listener]\nx = [1, \"2\"]\n[[routes]]\nname = \"r\"\n", vec!["listener.x"]),
            ("mode = \"a\"\n[listener]\nx = [\"1\", \"2\"]\n", vec!["routes[0].name"]),
            ("mode = \"a\"\ny = 1\n[[routes]]\nname = \"s\"\n", vec!["listener.x", "routes[0].name", "y"]),
        ] {
            let other = written(text);
            assert_eq!(other.changed_since(&one), changed, "{text}");
            assert_eq!(one.changed_since(&other), changed, "{text}");
        }
    }

    #[test]
    fn a_file_is_part_of_what_is_said() {
        let mut one = written("[admin]\ntoken_file = \"t\"\n");
        let mut other = one.clone();
        one.take_file("admin.token_file", &print(&[b"one"]));
        other.take_file("admin.token_file", &print(&[b"other"]));
        assert_eq!(one.changed_since(&other), ["admin.token_file"]);
        assert!(!format!("{one:?}").contains("one\""));
    }

    #[test]
    fn what_needs_a_new_start_is_known_by_its_key() {
        for key in [
            "store.url",
            "store",
            "sources.log.codes",
            "issuers.acme.management.client_secret_file",
            "issuers.acme.logout.revoke",
            "listener.address",
            "markers.max_staleness",
        ] {
            assert!(is_taken_at_start(key), "{key}");
        }
        for key in [
            "mode",
            "listener.trusted_proxies",
            "listener",
            "issuers.acme.audiences",
            "issuers.acme.logout.kind",
            "issuers.store.issuer",
            "routes[0].upstream",
            "routes[3].store",
            "markers.outage",
            "log.level",
        ] {
            assert!(!is_taken_at_start(key), "{key}");
        }
    }
}
