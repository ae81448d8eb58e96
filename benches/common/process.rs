//! What the kernel tells of a process.

use std::{fs, time::Duration};

use anyhow::Context;

/// CPU time of all its threads so far, in user space and kernel.
///
/// By the scheduler's clock, which counts nanoseconds; `utime` and `stime` count hundredths of a second.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end in between.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        let on_core = text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok());
        nanos += on_core.context("the kernel does not tell how long threads ran (schedstat)")?;
    }
    Ok(Duration::from_nanos(nanos))
}
