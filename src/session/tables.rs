//! The tables of limits: the one in force, and those under which older sessions began.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};

use super::LimitTable;
use crate::store::{Sessions, StoreError};

/// The most tables of former configurations that are remembered. Others are asked for each time.
const MAX_KNOWN: usize = 256;

/// A table and its name in the store: what it says decides what it is called, so it never changes.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: Arc<str>,
    pub(super) limits: LimitTable,
    /// Whether the store has it.
    kept: AtomicBool,
}

impl Table {
    fn new(limits: LimitTable) -> Self {
        let hash = digest(&SHA256, limits.encode().as_bytes());
        let name = hash.as_ref()[..6].iter().fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
        Self { name: name.into(), limits, kept: AtomicBool::new(false) }
    }
}

#[derive(Debug)]
pub(super) struct Tables {
    current: ArcSwap<Table>,
    /// How often it changed.
    edition: AtomicU64,
    known: Mutex<HashMap<Arc<str>, Arc<Table>>>,
}

impl Tables {
    pub(super) fn new(limits: LimitTable) -> Self {
        Self { current: ArcSwap::from_pointee(Table::new(limits)), edition: AtomicU64::new(0), known: Mutex::default() }
    }

    /// Takes in limits: what begins from now on is under a table with them.
    pub(super) fn amend(&self, amend: impl Fn(&mut LimitTable)) {
        self.current.rcu(|table| {
            let mut limits = table.limits.clone();
            amend(&mut limits);
            if limits == table.limits { Arc::clone(table) } else { Arc::new(Table::new(limits)) }
        });
        self.edition.fetch_add(1, Ordering::Release);
    }

    /// Which table is the current one: what was reckoned under another has to be reckoned again. Read before the table.
    pub(super) fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }

    pub(super) fn current(&self) -> Arc<Table> {
        self.current.load_full()
    }

    /// Whether any route has limits of its own.
    pub(super) fn limits_routes(&self) -> bool {
        self.current.load().limits.limits_routes()
    }

    pub(super) fn is_current(&self, table: &Arc<Table>) -> bool {
        Arc::ptr_eq(table, &self.current.load())
    }

    /// The table in force, once the store has it.
    pub(super) async fn kept(&self, store: &dyn Sessions) -> Result<Arc<Table>, StoreError> {
        let table = self.current();
        if !table.kept.load(Ordering::Acquire) {
            store.keep_limits(&table.name, &table.limits.encode()).await?;
            table.kept.store(true, Ordering::Release);
        }
        Ok(table)
    }

    /// The store may have lost it: it is kept again when it is next needed.
    pub(super) fn doubt(&self) {
        self.current.load().kept.store(false, Ordering::Release);
    }

    /// The table of this name. One that the store does not have sets no limits: those of now apply.
    pub(super) async fn named(&self, name: &str, store: &dyn Sessions) -> Result<Arc<Table>, StoreError> {
        let current = self.current();
        if *current.name == *name {
            return Ok(current);
        }
        if let Some(table) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Arc::clone(table));
        }
        let limits = store.limits(name).await?.and_then(|text| LimitTable::decode(&text));
        let found = limits.is_some();
        if !found {
            tracing::warn!(table = name, "the limits under which a session began are not known; those of now apply");
        }
        let table =
            Arc::new(Table { name: name.into(), limits: limits.unwrap_or_default(), kept: AtomicBool::new(true) });
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if found && known.len() < MAX_KNOWN {
            known.insert(Arc::clone(&table.name), Arc::clone(&table));
        }
        Ok(table)
    }
}
