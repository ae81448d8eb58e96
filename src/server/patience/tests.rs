use std::{cell::Cell, rc::Rc, task::Waker};

use proptest::prelude::*;
use tokio::time::advance;

use super::*;

/// Not multiples of [`STEP`], so that nothing happens at the very moment a limit is reached.
const HEADER: u64 = 103;
const IDLE: u64 = 255;
const STEP: u64 = 10;

/// A client, as its socket shows it.
#[derive(Default)]
struct Client {
    sends: Cell<bool>,
    reads: Cell<bool>,
    has_closed: Cell<bool>,
    aborted: Cell<bool>,
    shut_down: Cell<bool>,
}

struct Stream(Rc<Client>);

impl Abort for Stream {
    fn abort(&self) {
        self.0.aborted.set(true);
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.0.has_closed.get() {
            return Poll::Ready(Ok(()));
        }
        if !self.0.sends.replace(false) {
            return Poll::Pending;
        }
        buffer.put_slice(b"x");
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.0.reads.get() { Poll::Ready(Ok(bytes.len())) } else { Poll::Pending }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.shut_down.set(true);
        Poll::Ready(Ok(()))
    }
}

fn patient(shared: bool) -> (Rc<Client>, Arc<Progress>, Patient<Stream>) {
    let client = Rc::new(Client::default());
    let progress = Progress::new(Gauge::default());
    let limits = Limits { header: Duration::from_millis(HEADER), idle: Duration::from_millis(IDLE), shared };
    (Rc::clone(&client), Arc::clone(&progress), Patient::new(Stream(client), progress, limits))
}

/// Reads what there is. `Err`: the time is up.
fn read(patient: &mut Patient<Stream>) -> io::Result<bool> {
    let (mut bytes, mut context) = ([0; 8], Context::from_waker(Waker::noop()));
    let mut buffer = ReadBuf::new(&mut bytes);
    match Pin::new(patient).poll_read(&mut context, &mut buffer) {
        Poll::Ready(result) => result.map(|()| true),
        Poll::Pending => Ok(false),
    }
}

fn write(patient: &mut Patient<Stream>) -> io::Result<bool> {
    match Pin::new(patient).poll_write(&mut Context::from_waker(Waker::noop()), b"x") {
        Poll::Ready(result) => result.map(|_| true),
        Poll::Pending => Ok(false),
    }
}

fn shut_down(patient: &mut Patient<Stream>) -> Poll<io::Result<()>> {
    Pin::new(patient).poll_shutdown(&mut Context::from_waker(Waker::noop()))
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The client sends a byte.
    Sends,
    /// A header is complete.
    Begins,
    /// A response has ended.
    Ends,
    /// The gate writes, and the client reads that or does not.
    Writes { is_read: bool },
    /// Time passes, in steps.
    Waits(u64),
}

/// What the limits mean, event by event.
#[derive(Default)]
struct Model {
    now: u64,
    begun: u64,
    active: u64,
    idle_since: u64,
    header_since: Option<u64>,
    write_since: Option<u64>,
}

impl Model {
    fn apply(&mut self, event: Event, shared: bool) {
        match event {
            Event::Sends if self.active == 0 && !(shared && self.begun > 0) => {
                self.header_since.get_or_insert(self.now);
            }
            Event::Begins => {
                self.active += 1;
                self.begun += 1;
                self.header_since = None;
            }
            Event::Ends if self.active > 0 => {
                self.active -= 1;
                self.idle_since = self.now;
            }
            Event::Writes { is_read: true } => self.write_since = None,
            Event::Writes { is_read: false } => {
                self.write_since.get_or_insert(self.now);
            }
            Event::Waits(steps) => self.now += steps * STEP,
            Event::Sends | Event::Ends => {}
        }
    }

    fn is_over(&self) -> bool {
        let over = |since: Option<u64>, limit: u64| since.is_some_and(|since| self.now - since > limit);
        let idle = (self.active == 0).then_some(self.idle_since);
        let header = self.header_since.filter(|_| self.active == 0);
        over(self.write_since, IDLE) || over(idle, IDLE + HEADER) || over(header, HEADER)
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Sends),
        1 => Just(Event::Begins),
        1 => Just(Event::Ends),
        1 => any::<bool>().prop_map(|is_read| Event::Writes { is_read }),
        4 => (0..20_u64).prop_map(Event::Waits),
    ]
}

proptest! {
    #[test]
    fn the_time_is_up_exactly_when_the_limits_say_so(
        events in prop::collection::vec(event(), 0..60),
        shared in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (client, progress, mut patient) = patient(shared);
            let (mut model, mut serving) = (Model::default(), Vec::new());
            for event in events {
                model.apply(event, shared);
                let mut result = Ok(true);
                match event {
                    Event::Sends => {
                        client.sends.set(true);
                        result = read(&mut patient);
                    }
                    Event::Begins => serving.push(progress.serve()),
                    Event::Ends => drop(serving.pop()),
                    Event::Writes { is_read } => {
                        client.reads.set(is_read);
                        result = write(&mut patient);
                    }
                    Event::Waits(steps) => advance(Duration::from_millis(steps * STEP)).await,
                }
                let over = result.and_then(|_| read(&mut patient)).is_err();
                prop_assert_eq!(over, model.is_over(), "after {:?} at {} ms", event, model.now);
                if over {
                    break;
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn an_ordered_end_waits_for_the_client_but_not_for_long() {
    // The client closes as well.
    let (client, _, mut stream) = patient(false);
    client.sends.set(true);
    assert!(shut_down(&mut stream).is_pending());
    assert!(client.shut_down.get() && !client.sends.get(), "what still comes is thrown away");
    client.has_closed.set(true);
    assert!(shut_down(&mut stream).is_ready());
    drop(stream);
    assert!(!client.aborted.get());

    // The client says nothing.
    let (client, _, mut stream) = patient(false);
    assert!(shut_down(&mut stream).is_pending());
    advance(LINGER + Duration::from_millis(1)).await;
    assert!(shut_down(&mut stream).is_ready());
    drop(stream);
    assert!(!client.aborted.get());

    // The client goes on and on.
    let (client, _, mut stream) = patient(false);
    let since = Instant::now();
    loop {
        client.sends.set(true);
        if shut_down(&mut stream).is_ready() {
            break;
        }
        advance(Duration::from_millis(STEP)).await;
    }
    assert_eq!(since.elapsed(), Duration::from_millis(HEADER.next_multiple_of(STEP)));
}

#[tokio::test(start_paused = true)]
async fn any_other_end_is_an_abort() {
    let (client, _, stream) = patient(false);
    drop(stream);
    assert!(client.aborted.get() && !client.shut_down.get());
}

#[tokio::test(start_paused = true)]
async fn idle_is_told_from_the_last_request_on() {
    let (_, progress, _stream) = patient(true);
    let since = Instant::now();
    let serving = progress.serve();
    let idle = {
        let progress = Arc::clone(&progress);
        tokio::spawn(async move { progress.idle(Duration::from_millis(IDLE)).await })
    };
    tokio::time::sleep(Duration::from_millis(10 * IDLE)).await;
    assert!(!idle.is_finished());
    drop(serving);
    idle.await.unwrap();
    assert!(since.elapsed() >= Duration::from_millis(11 * IDLE), "{:?}", since.elapsed());
    assert!(since.elapsed() <= Duration::from_millis(12 * IDLE), "{:?}", since.elapsed());
}
