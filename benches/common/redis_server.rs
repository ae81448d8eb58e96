//! A redis-server of the bench's own, on a free port of the loopback address.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// A server that writes nothing to disk. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub(crate) fn start(options: &[&str]) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let launched = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &address.port().to_string()])
            .arg("--dir")
            .arg(directory.path())
            .args(options)
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
