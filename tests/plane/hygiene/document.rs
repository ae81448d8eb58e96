//! The tables of `docs/http.md`, which the tests go by.

use std::collections::BTreeSet;

const DOCUMENT: &str = include_str!("../../../docs/http.md");

/// A table, found by the heading before it. Each row is to be tried.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    tried: BTreeSet<usize>,
}

impl Table {
    /// The table under this heading.
    pub(super) fn under(heading: &str) -> Self {
        let (_, section) = DOCUMENT.split_once(&format!("\n## {heading}\n")).expect("the heading is there");
        let lines = section.lines().take_while(|line| !line.starts_with("## "));
        let rows = lines.filter(|line| line.starts_with('|')).skip(2).map(cells).collect();
        Self { rows, tried: BTreeSet::new() }
    }

    /// The other cells of the row that begins with this.
    pub(super) fn row(&mut self, first: &str) -> &[String] {
        let found = self.rows.iter().position(|row| row[0] == first);
        let index = found.unwrap_or_else(|| panic!("no row for {first:?}"));
        self.tried.insert(index);
        &self.rows[index][1..]
    }

    /// No row may be left that nobody tried.
    pub(super) fn finish(self) {
        let left: Vec<_> = (0..self.rows.len()).filter(|row| !self.tried.contains(row)).collect();
        assert!(left.is_empty(), "nobody tried {:?}", left.iter().map(|&row| &self.rows[row][0]).collect::<Vec<_>>());
    }
}

/// The cells of a row, without back quotes.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim_matches('|').replace("\\|", "\u{1}");
    line.split('|').map(|cell| cell.trim().replace('`', "").replace('\u{1}', "|")).collect()
}
