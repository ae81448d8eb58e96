//! The Management API of a tenant: users, and lists of them.

mod calls;
mod export;
mod search;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use portcullis::{
    clock::{Clock, Timestamp},
    http_client::HttpClient,
    management::{
        listing::{BATCH, Listed, Listing},
        observer::Observer,
        pace::RateShare,
        tenant::{Tenant, TenantError, TenantSettings},
        user::User,
        users::{Patience, Users},
    },
    token::claims::SubjectId,
};
use serde_json::Value;

use crate::support::auth0::{self, Auth0, CLIENT_ID, CLIENT_SECRET};

/// What was told.
#[derive(Default, Debug)]
struct Watch {
    told: Mutex<Vec<String>>,
    waits: Mutex<(usize, usize)>,
    downloaded: Mutex<Vec<u64>>,
}

impl Observer for Watch {
    fn waiting(&self, _: Timestamp) {
        self.waits.lock().unwrap().0 += 1;
    }

    fn resumed(&self) {
        self.waits.lock().unwrap().1 += 1;
    }

    fn exporting(&self, percent: Option<u8>, _: Option<Duration>) {
        assert!(percent.is_none_or(|percent| percent <= 100));
        self.told.lock().unwrap().push(format!("exporting {percent:?}"));
    }

    fn downloaded(&self, bytes: u64) {
        self.downloaded.lock().unwrap().push(bytes);
    }

    fn retrying(&self, attempt: u32, error: &TenantError) {
        self.told.lock().unwrap().push(format!("retrying {attempt}: {error}"));
    }
}

impl Watch {
    fn told(&self, begin: &str) -> Vec<String> {
        self.told.lock().unwrap().iter().filter(|told| told.starts_with(begin)).cloned().collect()
    }
}

fn tenant(auth0: &Auth0) -> Tenant {
    let settings = TenantSettings {
        base: auth0.base().parse().unwrap(),
        client_id: CLIENT_ID.into(),
        client_secret: CLIENT_SECRET.into(),
        audience: format!("{}/api/v2/", auth0.base()).into(),
        rate_share: RateShare::percent(100),
    };
    let tenant = Tenant::new(settings, HttpClient::new().unwrap(), Clock::System);
    tenant.with_patience(Duration::from_secs(2))
}

const PATIENCE: Patience = Patience {
    attempts: 8,
    poll: Duration::from_millis(20),
    longest_poll: Duration::from_millis(100),
    pause: Duration::from_millis(10),
    stalled: Duration::from_secs(2),
};

/// The users of a tenant, for the impatient.
fn users(auth0: &Auth0) -> Users {
    watched(auth0).0
}

fn watched(auth0: &Auth0) -> (Users, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    let users = Users::new(tenant(auth0), Arc::clone(&watch) as Arc<dyn Observer>).with_patience(PATIENCE);
    (users, watch)
}

fn id(text: &str) -> SubjectId {
    text.try_into().unwrap()
}

/// What came of a listing.
#[derive(Default, Debug)]
struct Heard {
    jobs: Vec<Box<str>>,
    users: BTreeMap<SubjectId, User>,
    unreadable: u64,
    error: Option<TenantError>,
}

/// Listens to all of it.
async fn everyone(users: &Users, listing: Listing) -> Heard {
    let mut everyone = users.everyone(listing);
    let mut heard = Heard::default();
    while let Some(listed) = everyone.next().await {
        match listed {
            Ok(Listed::Job(job)) => heard.jobs.push(job),
            Ok(Listed::Users(users)) => {
                assert!((1..=BATCH).contains(&users.len()));
                for user in users {
                    let twice = heard.users.insert(user.id.clone(), user);
                    assert!(twice.is_none(), "listed twice");
                }
            }
            Ok(Listed::Unreadable(count)) => heard.unreadable += count,
            Err(error) => heard.error = Some(error),
        }
        assert!(heard.error.is_none() || everyone.next().await.is_none(), "an error is the end");
    }
    assert!(everyone.next().await.is_none());
    heard
}

/// The users that a tenant has, of those that are wanted.
fn expected(auth0: &Auth0, is_wanted: impl Fn(&auth0::User) -> bool) -> BTreeMap<SubjectId, User> {
    let mut all = BTreeMap::new();
    auth0.each_user(|user| {
        if !is_wanted(&user) {
            return;
        }
        let last_active = user.app_metadata.get("last_active").map(|value| match value {
            Value::Number(millis) => Timestamp::from_millis(millis.as_i64().unwrap()),
            text => text.as_str().unwrap().parse().unwrap(),
        });
        let user = User {
            id: id(&user.id),
            blocked: user.is_blocked(),
            created_at: Some(Timestamp::from_millis(user.created_at)),
            last_login: user.last_login.map(Timestamp::from_millis),
            last_active,
            logins: user.logins_count,
            doubtful: false,
        };
        all.insert(user.id.clone(), user);
    });
    all
}

/// These are all, and each is as the tenant has them. Not by `assert_eq`, which would show them all.
fn are_the_same(heard: &Heard, expected: &BTreeMap<SubjectId, User>) {
    assert!(heard.error.is_none(), "{:?}", heard.error);
    assert_eq!(heard.users.len(), expected.len());
    for (id, user) in expected {
        assert_eq!(heard.users.get(id), Some(user), "{}", id.as_str());
    }
}
