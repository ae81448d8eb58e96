//! A redis-server of one's own.

use std::{
    env,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::ports::free_address;

/// Set it to skip, visibly, what needs a redis-server.
const SKIP: &str = "PORTCULLIS_SKIP_REDIS";

/// A redis-server that ends with this value.
pub(crate) struct RedisServer {
    child: Child,
    port: u16,
    options: Vec<String>,
    directory: TempDir,
}

impl RedisServer {
    /// A server on a free port, without persistence. `None`: to be skipped.
    pub(crate) fn start() -> Option<Self> {
        Self::start_with(&[])
    }

    /// A server with further options.
    pub(crate) fn start_with(options: &[&str]) -> Option<Self> {
        Self::start_by(|| options.iter().map(|&option| option.to_owned()).collect())
    }

    /// A server with further options, which are asked for at each attempt: they may name a free port.
    pub(crate) fn start_by(options: impl Fn() -> Vec<String>) -> Option<Self> {
        if is_skipped() {
            return None;
        }
        // Another process may take the port between its choice and its use.
        for _ in 0..5 {
            let options = options();
            let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
            let child = launch(port, &options, &directory);
            let mut server = Self { child, port, options, directory };
            if server.wait_until_up() {
                return Some(server);
            }
        }
        panic!("redis-server does not come up");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    pub(crate) fn unix_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A connection past the store.
    pub(crate) fn client(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }

    /// Runs a command over a connection of its own.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        ask(self.port, command)
    }

    /// SIGSTOP: the server keeps its connections and says nothing.
    pub(crate) fn stop(&self) {
        self.signal("-STOP");
    }

    /// SIGCONT.
    pub(crate) fn cont(&self) {
        self.signal("-CONT");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// After [`kill`](Self::kill): a server at the same address, with what was written to disk, which is nothing by default.
    pub(crate) fn restart(&mut self) {
        self.child = launch(self.port, &self.options, &self.directory);
        assert!(self.wait_until_up(), "redis-server does not come back");
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success(), "kill {signal} failed");
    }

    /// `false`: it ended by itself.
    fn wait_until_up(&mut self) -> bool {
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(10) {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok_and(answers)
                && UnixStream::connect(self.socket()).is_ok_and(answers)
            {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("redis-server does not answer");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether everything that needs a redis-server is to be skipped; says so.
pub(crate) fn is_skipped() -> bool {
    let skipped = env::var_os(SKIP).is_some();
    if skipped {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        println!("SKIPPED: {test}: {SKIP} is set, nothing about Redis is tested");
    }
    skipped
}

/// Runs a command at this port, over a connection of its own, and waits for a second at most.
pub(crate) fn ask<T: redis::FromRedisValue>(port: u16, command: &[&str]) -> redis::RedisResult<T> {
    let patience = Duration::from_secs(1);
    let client = redis::Client::open((Ipv4Addr::LOCALHOST.to_string(), port))?;
    let once = || {
        let mut connection = client.get_connection_with_timeout(patience)?;
        connection.set_read_timeout(Some(patience))?;
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection)
    };
    loop {
        match once() {
            // A read that may take so long and no longer is not begun again by the system after a signal, such as the end of a child of
            // another test (signal(7)). What is asked for here can be asked for twice.
            Err(error) if error.is_io_error() && error.to_string().contains("(os error 4)") => {}
            result => return result,
        }
    }
}

/// Any answer will do, a demand for a password among them.
fn answers(mut stream: impl Read + Write) -> bool {
    stream.write_all(b"PING\r\n").is_ok() && stream.read(&mut [0; 1]).is_ok_and(|read| read == 1)
}

pub(crate) fn free_port() -> u16 {
    free_address().port()
}

fn launch(port: u16, options: &[String], directory: &TempDir) -> Child {
    let launched = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string(), "--dir"])
        .arg(directory.path())
        .arg("--unixsocket")
        .arg(directory.path().join("redis.sock"))
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match launched {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("redis-server is not installed: install it (Debian: apt install redis-server), or set {SKIP}=1")
        }
        Err(error) => panic!("redis-server cannot be started: {error}"),
    }
}
