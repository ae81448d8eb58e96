//! How far a source that is asked came, as a note in the store.
//!
//! It is replaced only by whoever knows what it was: of two gateways that read at a time, the slower one learns that it was overtaken.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};

use crate::store::{Notes, StoreError};

/// How far a source came; `K` tells it.
pub(super) struct Bookmark<K> {
    /// What is kept in the store.
    pub(super) kept: K,
    /// Its text there.
    text: Option<String>,
    notes: Arc<dyn Notes>,
    name: Arc<str>,
}

impl<K: Serialize + DeserializeOwned + Clone> Bookmark<K> {
    /// What is kept under this name. Where nothing is, `fresh` is from now on: whoever finds nothing to read at first shall not begin
    /// later each time. `None`: what was there was not readable, and `fresh` is kept instead.
    pub(super) async fn load(notes: &Arc<dyn Notes>, name: &Arc<str>, fresh: K) -> Result<Option<Self>, StoreError> {
        let text = notes.note(name).await?;
        let known = text.as_deref().map(serde_json::from_str);
        let bookmark = |kept, text| Self { kept, text, notes: Arc::clone(notes), name: Arc::clone(name) };
        match known {
            Some(Ok(kept)) => Ok(Some(bookmark(kept, text))),
            None => {
                let mut bookmark = bookmark(fresh.clone(), text);
                bookmark.replace(fresh).await?;
                Ok(Some(bookmark))
            }
            Some(Err(_)) => {
                bookmark(fresh.clone(), text).replace(fresh).await?;
                Ok(None)
            }
        }
    }

    /// Writes down how far it came; whether nobody else did in the meantime.
    pub(super) async fn replace(&mut self, kept: K) -> Result<bool, StoreError> {
        // Structs of strings and numbers always serialise.
        let text = serde_json::to_string(&kept).unwrap_or_default();
        let is_ours = self.notes.swap_note(&self.name, self.text.as_deref(), Some(&text)).await?;
        if is_ours {
            self.kept = kept;
            self.text = Some(text);
        }
        Ok(is_ours)
    }
}
