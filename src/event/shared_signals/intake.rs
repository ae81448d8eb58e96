//! From a SET, pushed or polled, to what is stored.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use super::{
    about::About,
    fault::{Code, Refused, SetFault},
    keys::Keys,
    mapping::{Action, Actions, Meaning, short_name},
    notes::StreamNotes,
    set::{Event, SecurityEventToken},
};
use crate::{
    clock::Timestamp,
    event::{
        health::Activity,
        identifier_index::{self, IdentifierKind},
        session_event::{Batch, EventId, Gap, GapReason, SessionEvent},
        source::Context,
        subject::{InvalidSubject, Opaque, Resolver, SubjectIdentifier, Target, Unresolved},
    },
    store::StoreError,
};

/// The members of a complex subject that are made use of.
const PROCESSED: [&str; 2] = ["user", "session"];

/// Takes SETs.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) context: Context,
    pub(super) keys: Keys,
    pub(super) resolver: Resolver,
    pub(super) opaque: Opaque,
    pub(super) actions: Actions,
    /// What the settings say may be left out of account although the transmitter calls it critical.
    pub(super) ignored_members: Box<[Box<str>]>,
    /// `critical_subject_members` of the transmitter.
    pub(super) critical_members: ArcSwap<Box<[Box<str>]>>,
    /// What is remembered of the stream; `None`: it is not managed here, so nobody here asks for verification events.
    pub(super) stream: Option<StreamNotes>,
    /// Why nothing comes although everything works.
    pub(super) trouble: Mutex<Option<String>>,
    /// What the source does while there is no trouble.
    pub(super) usual: Activity,
}

impl Intake {
    /// Verifies and reads a SET. Nothing is stored yet, except what concerns the stream and the index.
    pub(super) async fn read(&self, token: &str) -> Result<Batch, Refused> {
        self.batch(&self.keys.verify(token).await?).await
    }

    /// What a good SET says.
    pub(super) async fn batch(&self, set: &SecurityEventToken) -> Result<Batch, Refused> {
        let mut batch = Batch::default();
        for event in &set.events {
            batch.push(self.event(set, event).await?);
        }
        Ok(batch)
    }

    /// Stores what SETs say.
    pub(super) async fn take(&self, batch: &Batch) -> Result<(), StoreError> {
        self.context.pipeline.take(&self.context.origin, batch).await.map(drop)
    }

    /// Counts and logs a SET that is not taken.
    pub(super) fn refused(&self, fault: &SetFault) {
        self.context.origin.health.turned_away(self.context.pipeline.now(), fault);
    }

    /// The source does what it is there for, unless the stream stands still.
    pub(super) fn works(&self) {
        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.context.origin.health.set(trouble.map_or_else(|| self.usual.clone(), Activity::Stopped));
    }

    /// The stream has this status.
    pub(super) fn has_status(&self, status: &str, reason: Option<&str>) {
        let reason = reason.map(|reason| format!(": {}", shown(reason))).unwrap_or_default();
        let trouble =
            (status != "enabled").then(|| format!("the transmitter says that the stream is {}{reason}", shown(status)));
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        self.works();
    }

    async fn event(&self, set: &SecurityEventToken, event: &Event) -> Result<Result<SessionEvent, Gap>, Refused> {
        let kind = short_name(&event.uri);
        let id = if set.events.len() == 1 {
            EventId::new(&set.jti)
        } else {
            EventId::new(&format!("{} {}", set.jti, event.uri))
        };
        let gap = |reason| Ok(Err(Gap { reason, kind: kind.as_str().into(), id: Some(id.clone()) }));
        let action = match self.actions.meaning(event) {
            Meaning::Unknown => return gap(GapReason::UnknownKind),
            Meaning::Action(Action::Ignore) => return gap(GapReason::Ignored),
            Meaning::Malformed(why) => return Err(SetFault::new(Code::InvalidRequest, why).into()),
            Meaning::Verification => {
                self.verification(event).await?;
                return gap(GapReason::Test);
            }
            Meaning::StreamUpdated => {
                self.stream_updated(event).await?;
                return gap(GapReason::Test);
            }
            meaning @ (Meaning::IdentifierChanged | Meaning::IdentifierRecycled) => {
                let about = about(set, event)?;
                let moved = meaning == Meaning::IdentifierChanged;
                let new = event.text("new-value").filter(|_| moved);
                return gap(if self.forget(about, new).await? { GapReason::Ignored } else { GapReason::NoSubject });
            }
            Meaning::Action(action) => action,
        };
        let targets = match self.targets(about(set, event)?, action).await {
            Ok(targets) => targets,
            Err(Unresolved::Store(error)) => return Err(error.into()),
            Err(Unresolved::Gap { reason, format }) => {
                return Ok(Err(Gap { reason, kind: format!("{kind} ({format})").into(), id: Some(id) }));
            }
        };
        let happenings: Vec<_> = targets.into_iter().filter_map(|target| action.happening(target)).collect();
        if happenings.is_empty() {
            return gap(GapReason::NoSubject);
        }
        Ok(Ok(SessionEvent { id: Some(id), at: time(set, event, action), kind: kind.into(), happenings }))
    }

    /// Whom an event is about. Of a complex subject, the session is enough to end it, if its id is one that tokens carry; otherwise all
    /// sessions of the user end, whatever device, application or tenant the subject names: rather too many than too few.
    async fn targets(&self, about: &About, action: Action) -> Result<Vec<Target>, Unresolved> {
        let members = match about {
            About::Simple(identifier) => return self.resolver.resolve(identifier).await,
            About::Complex(members) => members,
        };
        let nobody = |format: &str| Unresolved::Gap { reason: GapReason::NoSubject, format: format.into() };
        let critical = self.critical_members.load();
        let is_ignored =
            |name: &str| PROCESSED.contains(&name) || self.ignored_members.iter().any(|ignored| **ignored == *name);
        if let Some((name, _)) = members.iter().find(|(name, _)| critical.contains(name) && !is_ignored(name)) {
            return Err(nobody(&format!("complex, {} is critical", shown(name))));
        }
        let member = |name: &str| members.iter().find(|(each, _)| **each == *name).map(|(_, identifier)| identifier);
        let (session, user) = (member("session"), member("user"));
        if let (Action::Logout, Some(session)) = (action, session) {
            match self.resolver.resolve_as(session, self.opaque_where(Opaque::Session)).await {
                Err(Unresolved::Gap { .. }) if user.is_some() => {}
                resolved => return resolved,
            }
        }
        let Some(user) = user else { return Err(nobody("complex")) };
        self.resolver.resolve_as(user, self.opaque_where(Opaque::Subject)).await
    }

    /// What an opaque id is where it can only be `this`.
    fn opaque_where(&self, this: Opaque) -> Opaque {
        if self.opaque == this { this } else { Opaque::Refuse }
    }

    /// The transmitter may send one by itself, without a state; one with a state must have been asked for.
    async fn verification(&self, event: &Event) -> Result<(), Refused> {
        match (&self.stream, event.text("state")) {
            (Some(stream), Some(state)) => {
                if stream.verified(state).await? {
                    Ok(())
                } else {
                    Err(SetFault::new(Code::InvalidState, "nobody asked for a verification with this `state`").into())
                }
            }
            (None, _) | (_, None) => Ok(()),
        }
    }

    async fn stream_updated(&self, event: &Event) -> Result<(), Refused> {
        let malformed = SetFault::new(Code::InvalidRequest, "`status` of a stream update is missing");
        let status = event.text("status").ok_or(malformed)?;
        if let Some(stream) = &self.stream {
            // Another gateway may be the one that looks after the stream.
            stream.set_status(status, event.text("reason")).await?;
        }
        self.has_status(status, event.text("reason"));
        Ok(())
    }

    /// Nobody is known by this address any more, or, where there is a new one, by that. Says whether it is an address.
    async fn forget(&self, about: &About, new: Option<&str>) -> Result<bool, StoreError> {
        let (kind, old) = match about {
            About::Simple(SubjectIdentifier::Email(address)) => (IdentifierKind::Email, address),
            About::Simple(SubjectIdentifier::PhoneNumber(number)) => (IdentifierKind::Phone, number),
            About::Simple(_) | About::Complex(_) => return Ok(false),
        };
        let Some(old) = kind.canonical(old) else { return Ok(false) };
        let set = |value: &str| identifier_index::set_name(self.resolver.issuer(), kind, value);
        let notes = self.context.pipeline.notes();
        let old = set(&old);
        if let Some(new) = new.and_then(|new| kind.canonical(new)) {
            let new = set(&new);
            let members = notes.members(&old).await?.into_iter().map(|subject| (new.clone(), subject));
            let keep = self.context.pipeline.ledger().retention().session;
            notes.add_members(&members.collect::<Vec<_>>(), keep).await?;
        }
        notes.remove_set(&old).await?;
        Ok(true)
    }
}

/// Whom an event is about: what stands in the SET, else what stands in the event.
fn about<'s>(set: &'s SecurityEventToken, event: &'s Event) -> Result<&'s About, SetFault> {
    match set.about.as_ref().or(event.about.as_ref()) {
        Some(Ok(about)) => Ok(about),
        Some(Err(InvalidSubject)) => {
            Err(SetFault::new(Code::InvalidRequest, "the subject is not of the form that its format requires"))
        }
        None => Err(SetFault::new(Code::InvalidRequest, "`sub_id` is missing")),
    }
}

/// When it happened. Of a whole second, what ends something takes the end, and everything else the beginning: a token of the same
/// second is in doubt.
fn time(set: &SecurityEventToken, event: &Event, action: Action) -> Timestamp {
    let moment = event.happened_at.or(set.happened_at).unwrap_or(set.issued_at);
    match action {
        Action::Logout | Action::Block | Action::Delete => moment.latest(),
        Action::Unblock | Action::Active | Action::Ignore => moment.earliest(),
    }
}

/// What somebody else wrote, for people.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(100).collect()
}

/// What both ways in share.
pub(super) type Shared = Arc<Intake>;
