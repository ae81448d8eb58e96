//! Lines on their way to a file that may be slow: whoever logs never waits for it.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use prometheus_client::metrics::counter::Counter;

/// How many bytes of lines may wait, of most, and of those that matter more.
const ROOM: usize = 4 << 20;
const RESERVE: usize = 1 << 20;

/// How much of the room is kept once it is empty again.
const KEPT: usize = 64 << 10;

/// How long to wait before writing again to what took nothing.
const PAUSE: Duration = Duration::from_millis(10);

/// How long the end of the program waits for the rest to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where lines wait until a thread of their own has written them. Clones share it.
///
/// When there is no more room, because nobody reads what is written, lines are dropped and counted. So are those whose write fails.
#[derive(Clone, Debug)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lines: Mutex<Lines>,
    /// There is something to do.
    work: Condvar,
    /// Everything is written, and nothing more will be.
    done: Condvar,
    losses: Losses,
}

/// What became of lines that nobody will read.
#[derive(Clone, Default, Debug)]
pub(super) struct Losses {
    /// Lines that were dropped, for want of room or because they could not be written.
    pub(super) lines: Counter,
    /// Those of them that matter.
    pub(super) that_matter: Counter,
    /// Writes that failed.
    pub(super) failures: Counter,
}

impl Losses {
    fn add(&self, Count { lines, that_matter }: Count) {
        self.lines.inc_by(lines);
        self.that_matter.inc_by(that_matter);
    }
}

/// How many lines, and how many of them matter.
#[derive(Clone, Copy, Default, Debug)]
struct Count {
    lines: u64,
    that_matter: u64,
}

impl Count {
    fn of_one(matters: bool) -> Self {
        Self { lines: 1, that_matter: matters.into() }
    }
}

#[derive(Default, Debug)]
struct Lines {
    waiting: Vec<u8>,
    count: Count,
    is_closing: bool,
    is_done: bool,
}

impl Queue {
    /// Starts a thread that writes to `output`.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(output: impl Write + Send + 'static, losses: Losses) -> io::Result<Self> {
        let (lines, work, done) = (Mutex::default(), Condvar::new(), Condvar::new());
        let queue = Self(Arc::new(Shared { lines, work, done, losses }));
        let shared = Arc::clone(&queue.0);
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write(output))?;
        Ok(queue)
    }

    /// A writer of lines, each written at once. Those that `matter` still have room when others have none.
    pub(super) fn writer(&self, matters: bool) -> LineWriter<'_> {
        LineWriter { shared: &self.0, matters }
    }

    /// Waits until everything is written, or for two seconds.
    pub(super) fn close(&self) {
        let mut lines = self.0.lines();
        lines.is_closing = true;
        self.0.work.notify_one();
        let result = self.0.done.wait_timeout_while(lines, PATIENCE, |lines| !lines.is_done);
        // Whether it was in time or not, there is nothing more to wait for.
        drop(result);
    }
}

impl Shared {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mut output: impl Write) {
        let mut writing = Vec::new();
        let mut lines = self.lines();
        loop {
            while lines.waiting.is_empty() && !lines.is_closing {
                lines = self.work.wait(lines).unwrap_or_else(PoisonError::into_inner);
            }
            if lines.waiting.is_empty() {
                lines.is_done = true;
                self.done.notify_all();
                return;
            }
            mem::swap(&mut lines.waiting, &mut writing);
            let count = mem::take(&mut lines.count);
            drop(lines);
            if write_all(&mut output, &writing).is_err() {
                // Some of them may have been written.
                self.losses.failures.inc();
                self.losses.add(count);
            }
            writing.clear();
            writing.shrink_to(KEPT);
            lines = self.lines();
        }
    }
}

/// Writes all of it. A reader that is slow is waited for, whether the system waits or says that nothing can be written now.
fn write_all(output: &mut impl Write, mut rest: &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match output.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => rest = &rest[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
    output.flush()
}

/// Puts each line that is written into a [`Queue`].
#[derive(Debug)]
pub(super) struct LineWriter<'a> {
    shared: &'a Shared,
    matters: bool,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let room = if self.matters { ROOM + RESERVE } else { ROOM };
        let one = Count::of_one(self.matters);
        let mut lines = self.shared.lines();
        if lines.is_done || lines.waiting.len() + line.len() > room {
            self.shared.losses.add(one);
        } else {
            let was_empty = lines.waiting.is_empty();
            lines.waiting.extend_from_slice(line);
            lines.count.lines += one.lines;
            lines.count.that_matter += one.that_matter;
            if was_empty {
                self.shared.work.notify_one();
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Instant};

    use super::*;

    /// Writes what it is told to, when it is told to.
    struct Gated {
        permits: mpsc::Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // No permit will come any more: as if the reader had gone on for good.
            let _ = self.permits.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read() {
        let (permit, permits) = mpsc::channel();
        let (written, losses) = (Arc::default(), Losses::default());
        let queue = Queue::start(Gated { permits, written: Arc::clone(&written) }, losses.clone()).unwrap();
        let dropped = losses.lines;
        let line = [b'x'; 1024];
        let count = 4 * ROOM / line.len();
        let begun = Instant::now();
        for _ in 0..count {
            assert_eq!(queue.writer(false).write(&line).unwrap(), line.len());
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "it waited");
        // The thread holds what it took first.
        let waiting = queue.0.lines().waiting.len();
        assert!(waiting <= ROOM, "{waiting}");
        assert!(dropped.get() >= (count / 2 - 1) as u64, "{}", dropped.get());
        let before = dropped.get();
        queue.writer(true).write_all(b"audit\n").unwrap();
        assert_eq!(dropped.get(), before, "there is still room for what matters");
        drop(permit);
        queue.close();
        let written = written.lock().unwrap();
        assert!(written.ends_with(b"audit\n"));
        assert_eq!((written.len() - 6) / line.len() + usize::try_from(before).unwrap(), count);
    }

    #[test]
    fn what_matters_has_bounds_too() {
        let (_permit, permits) = mpsc::channel();
        let losses = Losses::default();
        let queue = Queue::start(Gated { permits, written: Arc::default() }, losses.clone()).unwrap();
        for _ in 0..2 * (ROOM + RESERVE) / 1024 + 1024 {
            queue.writer(true).write_all(&[b'x'; 1024]).unwrap();
        }
        assert!(losses.lines.get() > 0);
        assert_eq!(losses.that_matter.get(), losses.lines.get());
        assert!(queue.0.lines().waiting.len() <= ROOM + RESERVE);
    }

    /// Fails as it is told to, one write after another; then it takes everything, three bytes at a time.
    struct Failing {
        faults: Vec<io::ErrorKind>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(fault) = self.faults.pop() {
                return Err(fault.into());
            }
            let some = bytes.len().min(3);
            self.written.lock().unwrap().extend_from_slice(&bytes[..some]);
            Ok(some)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let (written, losses) = (Arc::default(), Losses::default());
        let output = Failing { faults: vec![io::ErrorKind::StorageFull], written: Arc::clone(&written) };
        let queue = Queue::start(output, losses.clone()).unwrap();
        queue.writer(true).write_all(b"one\n").unwrap();
        let begun = Instant::now();
        while losses.failures.get() == 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "it is not counted");
            thread::yield_now();
        }
        queue.writer(false).write_all(b"two\n").unwrap();
        queue.writer(true).write_all(b"three\n").unwrap();
        queue.close();
        assert_eq!(*written.lock().unwrap(), b"two\nthree\n");
        assert_eq!((losses.failures.get(), losses.lines.get(), losses.that_matter.get()), (1, 1, 1));
    }

    /// A pipe that somebody else has set so says that it is full instead of waiting.
    #[test]
    fn an_output_that_does_not_wait_is_waited_for() {
        use io::ErrorKind::{Interrupted, WouldBlock};
        let (written, losses) = (Arc::default(), Losses::default());
        let faults = vec![WouldBlock, Interrupted, WouldBlock, WouldBlock];
        let queue = Queue::start(Failing { faults, written: Arc::clone(&written) }, losses.clone()).unwrap();
        queue.writer(true).write_all(b"one\n").unwrap();
        queue.close();
        assert_eq!(*written.lock().unwrap(), b"one\n");
        assert_eq!((losses.failures.get(), losses.lines.get()), (0, 0));
    }
}
