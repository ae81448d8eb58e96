//! A redis-server of the bench's own, on a free port of the loopback address.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::ports::free_address;

/// A server that writes nothing to disk. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl RedisServer {
    /// Starts one with these lines of configuration, and waits until it answers.
    pub(crate) fn start(configuration: &str) -> anyhow::Result<Self> {
        Self::launch(&format!("save \"\"\nappendonly no\n{configuration}"), &[])
    }

    /// The same without any setting but where it listens.
    pub(crate) fn launch(configuration: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let address = free_address();
        let (file, path) = (directory.path().join("redis.conf"), directory.path().display());
        fs::write(&file, format!("bind 127.0.0.1\nport {}\ndir \"{path}\"\n{configuration}", address.port()))?;
        let launched = Command::new("redis-server")
            .arg(&file)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let child = match launched {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("redis-server is not installed"),
            launched => launched.context("redis-server does not start")?,
        };
        let mut server = Self { child, address, _directory: directory };
        server.wait_until_up()?;
        Ok(server)
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_up(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !TcpStream::connect(self.address).is_ok_and(answers) {
            if let Some(status) = self.child.try_wait()? {
                bail!("redis-server ended with {status}");
            }
            if Instant::now() > deadline {
                bail!("redis-server does not answer after 10 s");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It is our own child: it is there until it has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answers(mut stream: TcpStream) -> bool {
    stream.write_all(b"PING\r\n").is_ok() && stream.read(&mut [0; 1]).is_ok_and(|read| read == 1)
}
