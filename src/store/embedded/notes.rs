//! Notes: not built yet.

use std::time::Duration;

use async_trait::async_trait;

use super::EmbeddedStore;
use crate::store::{Notes, StoreError, notes::NoteDigest};

#[async_trait]
impl Notes for EmbeddedStore {
    async fn seen(&self, _: &str, _: &[NoteDigest]) -> Result<Vec<bool>, StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn remember(&self, _: &str, _: &[NoteDigest], _: usize) -> Result<(), StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn note(&self, _: &str) -> Result<Option<String>, StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn swap_note(&self, _: &str, _: Option<&str>, _: Option<&str>) -> Result<bool, StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn lease(&self, _: &str, _: &str, _: Duration) -> Result<bool, StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn release(&self, _: &str, _: &str) -> Result<(), StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn leader(&self, _: &str) -> Result<Option<String>, StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn put_jobs(&self, _: &str, _: &[(String, String)]) -> Result<(), StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn jobs(&self, _: &str, _: usize) -> Result<(Vec<(String, String)>, usize), StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn remove_jobs(&self, _: &str, _: &[String]) -> Result<(), StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn add_members(&self, _: &[(String, String)], _: Duration) -> Result<(), StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn members(&self, _: &str) -> Result<Vec<String>, StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
    async fn remove_set(&self, _: &str) -> Result<(), StoreError> {
        Err(StoreError::timed_out(&"notes".into()))
    }
}
