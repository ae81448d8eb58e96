//! All users of a tenant, or of one of its connections.

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::{export::Exporter, search::Search, tenant::TenantError, user::User, users::Users};

/// How many users come together at most.
pub const BATCH: usize = 1000;

/// How many batches wait to be taken.
const WAITING: usize = 2;

/// Which users are listed, and how.
#[derive(Clone, Default, Debug)]
pub struct Listing {
    /// The name of the connection whose users they are; `None`: all.
    pub connection: Option<Box<str>>,
    /// How they are found.
    pub way: Way,
    /// An export that was begun before, for the same connection: it is gone on with, from its beginning. The tenant keeps it for a
    /// day; where it does not any more, another is begun. Only for exports, and only one that was begun here.
    pub job: Option<Box<str>>,
}

/// How users are found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Way {
    /// By a job of the tenant that writes them into a file, which is downloaded: a handful of calls for any number of users. Needs
    /// `read:users`, and with a connection `read:connections`.
    #[default]
    Export,
    /// By searches, one or two for every 500 users and one for every 100: for tenants with few, and where there is no export. The index
    /// that is searched lags behind a little. Needs `read:users`.
    Search,
}

/// What comes of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listed {
    /// The users that follow come from this export. Who keeps its id can go on with it after having been killed, see
    /// [`Listing::job`].
    Job(Box<str>),
    /// Users, one at least and [`BATCH`] at most. Each is listed once.
    Users(Vec<User>),
    /// So many more cannot be read: they have no `user_id` that could be one here.
    Unreadable(u64),
}

/// The users of a listing, as they come. Dropped, it stops at once; a job that was begun is left to the tenant.
///
/// Only a few thousand are held at a time; nothing is downloaded while they are not taken. Whoever takes more than a day to take them
/// all finds the export gone.
#[derive(Debug)]
pub struct Everyone {
    listed: mpsc::Receiver<Listed>,
    task: Option<AbortOnDropHandle<Result<(), TenantError>>>,
}

impl Users {
    /// Lists users. Must be called within a tokio runtime.
    #[must_use]
    pub fn everyone(&self, listing: Listing) -> Everyone {
        let (sender, listed) = mpsc::channel(WAITING);
        let users = self.clone();
        let task = tokio::spawn(async move {
            match listing.way {
                Way::Export => Exporter::new(users, sender).run(listing.connection.as_deref(), listing.job).await,
                Way::Search => Search::new(users, sender).run(listing.connection.as_deref()).await,
            }
        });
        Everyone { listed, task: Some(AbortOnDropHandle::new(task)) }
    }
}

impl Everyone {
    /// What comes next. `None`: that was all. After an error nothing comes any more, and not all users were listed.
    ///
    /// # Errors
    /// [`TenantError`].
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Result<Listed, TenantError>> {
        if let Some(listed) = self.listed.recv().await {
            return Some(Ok(listed));
        }
        let ended = self.task.as_mut()?.await;
        self.task = None;
        match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Err(error)),
            // Not all were listed, which must not look like an end.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Some(Err(TenantError::TimedOut)),
            },
        }
    }
}
