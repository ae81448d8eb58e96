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

/// How long the end of the program waits for the rest to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where lines wait until a thread of their own has written them. Clones share it.
///
/// When there is no more room, because nobody reads what is written, lines are dropped and counted.
#[derive(Clone, Debug)]
pub(super) struct Queue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lines: Mutex<Lines>,
    /// There is something to do.
    work: Condvar,
    /// Everything is written, and nothing more will be.
    done: Condvar,
    dropped: Counter,
}

#[derive(Default, Debug)]
struct Lines {
    waiting: Vec<u8>,
    is_closing: bool,
    is_done: bool,
}

impl Queue {
    /// Starts a thread that writes to `output`. `dropped` counts lines for which there was no room.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn start(output: impl Write + Send + 'static, dropped: Counter) -> io::Result<Self> {
        let (lines, work, done) = (Mutex::default(), Condvar::new(), Condvar::new());
        let queue = Self(Arc::new(Shared { lines, work, done, dropped }));
        let shared = Arc::clone(&queue.0);
        thread::Builder::new().name("log".to_owned()).spawn(move || shared.write(output))?;
        Ok(queue)
    }

    /// A writer of lines, each written at once. Those that `matter` still have room when others have none.
    pub(super) fn writer(&self, matters: bool) -> LineWriter<'_> {
        LineWriter { shared: &self.0, room: if matters { ROOM + RESERVE } else { ROOM } }
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
            drop(lines);
            // Who does not read has closed, or will not mind.
            let _ = output.write_all(&writing).and_then(|()| output.flush());
            writing.clear();
            writing.shrink_to(KEPT);
            lines = self.lines();
        }
    }
}

/// Puts each line that is written into a [`Queue`].
#[derive(Debug)]
pub(super) struct LineWriter<'a> {
    shared: &'a Shared,
    room: usize,
}

impl Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut lines = self.shared.lines();
        if lines.is_done || lines.waiting.len() + line.len() > self.room {
            self.shared.dropped.inc();
        } else {
            let was_empty = lines.waiting.is_empty();
            lines.waiting.extend_from_slice(line);
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
        let (written, dropped) = (Arc::default(), Counter::default());
        let queue = Queue::start(Gated { permits, written: Arc::clone(&written) }, dropped.clone()).unwrap();
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
        let dropped = Counter::default();
        let queue = Queue::start(Gated { permits, written: Arc::default() }, dropped.clone()).unwrap();
        for _ in 0..2 * (ROOM + RESERVE) / 1024 + 1024 {
            queue.writer(true).write_all(&[b'x'; 1024]).unwrap();
        }
        assert!(dropped.get() > 0);
        assert!(queue.0.lines().waiting.len() <= ROOM + RESERVE);
    }
}
