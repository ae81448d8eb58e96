//! The index of activity. Questions are asked in parts, so that none is long, on a thread that no request waits for.

use super::{
    EmbeddedStore,
    database::{Part, Place},
    notes::CHUNK,
    reader::{Read, Survey},
};
use crate::{
    clock::Timestamp,
    store::{ActivityCount, Seen, StoreError},
    token::claims::{IssuerName, SubjectId},
};

impl EmbeddedStore {
    pub(super) async fn survey_last(
        &self,
        issuer: &IssuerName,
        subjects: &[SubjectId],
    ) -> Result<Vec<Option<Timestamp>>, StoreError> {
        let mut times = Vec::with_capacity(subjects.len());
        for chunk in subjects.chunks(CHUNK) {
            let (issuer, subjects) = (issuer.clone(), chunk.to_vec());
            times.extend(self.survey(|answer| Survey::Last { issuer, subjects, answer }).await?);
        }
        Ok(times)
    }

    pub(super) async fn survey_inactive(
        &self,
        issuer: &IssuerName,
        before: Timestamp,
        after: Option<&Seen>,
        limit: usize,
    ) -> Result<Vec<Seen>, StoreError> {
        let mut page = Vec::new();
        let mut place = Some(after.map_or_else(|| Place::before(Timestamp::MIN), Place::of));
        while page.len() < limit
            && let Some(after) = place
        {
            let (issuer, limit) = (issuer.clone(), CHUNK.min(limit - page.len()));
            let (some, next) = self.survey(|answer| Survey::Page { issuer, before, after, limit, answer }).await?;
            page.extend(some);
            place = next;
        }
        Ok(page)
    }

    pub(super) async fn survey_count(
        &self,
        issuer: &IssuerName,
        before: Timestamp,
    ) -> Result<ActivityCount, StoreError> {
        let inactive = self.count(issuer, Place::before(Timestamp::MIN), before).await?;
        let active = self.count(issuer, Place::before(before), Timestamp::MAX).await?;
        Ok(ActivityCount { known: inactive + active, inactive })
    }

    async fn count(&self, issuer: &IssuerName, from: Place, before: Timestamp) -> Result<u64, StoreError> {
        let (mut count, mut place) = (0, Some(from));
        while let Some(after) = place {
            let issuer = issuer.clone();
            let (some, next): Part<u64> = self.survey(|answer| Survey::Count { issuer, before, after, answer }).await?;
            count += some;
            place = next;
        }
        Ok(count)
    }

    async fn survey<T>(&self, survey: impl FnOnce(super::Answer<T>) -> Survey) -> Result<T, StoreError> {
        self.ask(&self.surveys, |answer| Read::Activity(survey(answer))).await
    }
}
