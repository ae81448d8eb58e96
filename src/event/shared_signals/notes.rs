//! What the gateways of a fleet remember of a stream: one looks after it, and any may be told of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store::{Notes, StoreError};

/// How many states are remembered: verification events may come late and out of order.
const STATES: usize = 4;

/// How often a change is tried when others change it too.
const ATTEMPTS: usize = 8;

/// The note of one stream.
#[derive(Clone, Debug)]
pub(super) struct StreamNotes {
    notes: Arc<dyn Notes>,
    name: String,
}

/// What is remembered.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq, Default, Debug)]
pub(super) struct StreamNote {
    /// The states that were asked for lately, the latest last.
    #[serde(default)]
    states: Vec<String>,
    /// The state that came back last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verified: Option<String>,
    /// What the transmitter said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<(String, Option<String>)>,
}

impl StreamNotes {
    pub(super) fn new(notes: Arc<dyn Notes>, source: &str) -> Self {
        Self { notes, name: format!("ssf:{source}") }
    }

    /// A verification with this state is about to be asked for.
    pub(super) async fn expect(&self, state: &str) -> Result<(), StoreError> {
        self.change(|note| {
            note.states.push(state.to_owned());
            let surplus = note.states.len().saturating_sub(STATES);
            note.states.drain(..surplus);
        })
        .await
    }

    /// A verification event with this state came; whether it had been asked for.
    pub(super) async fn verified(&self, state: &str) -> Result<bool, StoreError> {
        let (note, _) = self.read().await?;
        if !note.states.iter().any(|each| each == state) {
            return Ok(false);
        }
        self.change(|note| note.verified = Some(state.to_owned())).await?;
        Ok(true)
    }

    /// Whether a verification event with this state was the last that came.
    pub(super) async fn is_verified(&self, state: &str) -> Result<bool, StoreError> {
        Ok(self.read().await?.0.verified.as_deref() == Some(state))
    }

    /// The transmitter says how the stream is.
    pub(super) async fn set_status(&self, status: &str, reason: Option<&str>) -> Result<(), StoreError> {
        let short = |text: &str| super::intake::shown(text);
        self.change(|note| note.status = Some((short(status), reason.map(short)))).await
    }

    /// How the transmitter said that the stream is.
    pub(super) async fn status(&self) -> Result<Option<(String, Option<String>)>, StoreError> {
        Ok(self.read().await?.0.status)
    }

    async fn read(&self) -> Result<(StreamNote, Option<String>), StoreError> {
        let text = self.notes.note(&self.name).await?;
        // What another version wrote is begun anew.
        let note = text.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Ok((note, text))
    }

    async fn change(&self, change: impl Fn(&mut StreamNote)) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            let (before, text) = self.read().await?;
            let mut after = before.clone();
            change(&mut after);
            let Ok(new) = serde_json::to_string(&after) else { return Ok(()) };
            if after == before && text.is_some()
                || self.notes.swap_note(&self.name, text.as_deref(), Some(&new)).await?
            {
                return Ok(());
            }
        }
        tracing::warn!(note = self.name, "note is changed by others all the time, and was left");
        Ok(())
    }
}
