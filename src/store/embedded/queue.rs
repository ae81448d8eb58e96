//! A bounded queue from tasks to a thread: full, it makes its senders wait; closed, it is emptied first.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The queue is closed, or its thread is gone.
#[derive(Debug)]
pub(super) struct Closed;

enum Message<J> {
    Job(Ticket<J>),
    Close,
}

/// A job and its place in the queue, which is free again when the job is done.
pub(super) struct Ticket<J> {
    pub(super) job: J,
    place: OwnedSemaphorePermit,
}

impl<J> Ticket<J> {
    /// The job, and its place without it.
    pub(super) fn split(self) -> (J, Ticket<()>) {
        (self.job, Ticket { job: (), place: self.place })
    }
}

impl Ticket<()> {
    /// A job in this place.
    pub(super) fn with<J>(self, job: J) -> Ticket<J> {
        Ticket { job, place: self.place }
    }
}

/// The tasks' end.
#[derive(Debug)]
pub(super) struct Queue<J> {
    places: Arc<Semaphore>,
    sender: SyncSender<Message<J>>,
}

/// The thread's end.
pub(super) struct Inbox<J> {
    receiver: Receiver<Message<J>>,
}

/// What the thread finds.
pub(super) enum Next<J> {
    Job(Ticket<J>),
    Nothing,
    /// No job will come any more.
    Closed,
}

/// A queue of at most `capacity` jobs, waiting or at work.
pub(super) fn queue<J>(capacity: usize) -> (Queue<J>, Inbox<J>) {
    // One more than there are places, so that neither a job with a place nor the last message finds it full.
    let (sender, receiver) = sync_channel(capacity + 1);
    (Queue { places: Arc::new(Semaphore::new(capacity)), sender }, Inbox { receiver })
}

impl<J> Queue<J> {
    pub(super) async fn send(&self, job: J) -> Result<(), Closed> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| Closed)?;
        self.sender.try_send(Message::Job(Ticket { job, place })).map_err(|_| Closed)
    }

    /// Whether no more jobs are let in.
    pub(super) fn is_closed(&self) -> bool {
        self.places.is_closed()
    }

    /// Lets no more jobs in. Those in the queue are done.
    pub(super) fn close(&self) {
        if !self.places.is_closed() {
            self.places.close();
            let _ = self.sender.try_send(Message::Close);
        }
    }
}

impl<J> Inbox<J> {
    /// Waits for a job.
    pub(super) fn wait(&self) -> Next<J> {
        match self.receiver.recv() {
            Ok(message) => message.into(),
            Err(_) => Next::Closed,
        }
    }

    /// Waits for a job, at most this long.
    pub(super) fn wait_for(&self, patience: Duration) -> Next<J> {
        match self.receiver.recv_timeout(patience) {
            Ok(message) => message.into(),
            Err(RecvTimeoutError::Timeout) => Next::Nothing,
            Err(RecvTimeoutError::Disconnected) => Next::Closed,
        }
    }

    /// Takes a job if there is one.
    pub(super) fn take(&self) -> Next<J> {
        match self.receiver.try_recv() {
            Ok(message) => message.into(),
            Err(TryRecvError::Empty) => Next::Nothing,
            Err(TryRecvError::Disconnected) => Next::Closed,
        }
    }
}

impl<J> From<Message<J>> for Next<J> {
    fn from(message: Message<J>) -> Self {
        match message {
            Message::Job(ticket) => Self::Job(ticket),
            Message::Close => Self::Closed,
        }
    }
}
