//! One gate takes over from another under load, and no connection is refused or reset: the real program, twice.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    net::{TcpStream, UnixStream},
    task::JoinSet,
};

use super::exchange;
use crate::support::{
    eventually_within,
    ports::free_address,
    program::{PORTCULLIS, Running, program},
    upstream::TestUpstream,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// Where a gate is to be found.
#[derive(Clone)]
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Place {
    async fn exchange(&self) -> io::Result<String> {
        match self {
            Self::Tcp(address) => exchange(TcpStream::connect(address).await?).await,
            Self::Unix(path) => exchange(UnixStream::connect(path).await?).await,
        }
    }
}

/// New connections, one request each, as fast as they are served.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: JoinSet<()>,
}

impl Load {
    fn start(place: &Place) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let (stop, served, place) = (Arc::clone(&stop), Arc::clone(&served), place.clone());
            clients.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let reply = place.exchange().await.unwrap_or_else(|error| panic!("a client was let down: {error}"));
                    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("ok"), "{reply:?}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { stop, served, clients }
    }

    /// So many more are served.
    async fn goes_on(&mut self, more: usize) {
        let before = self.served.load(Ordering::Relaxed);
        eventually_within(PATIENCE, "clients are served", async || {
            if let Some(ended) = self.clients.try_join_next() {
                ended.expect("no client was let down");
            }
            self.served.load(Ordering::Relaxed) >= before + more
        })
        .await;
    }

    async fn end(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("no client was let down");
        }
        self.served.load(Ordering::Relaxed)
    }
}

/// A configuration in a directory of its own.
fn configure(listener: &str, upstream: &TestUpstream) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "[listener]\n{listener}\n[admin]\naddress = \"127.0.0.1:0\"\n[store]\nurl = \"embedded:data\"\n[log]\nformat = \"json\"\n\
         [[routes]]\nauth = \"none\"\nupstream = \"{}\"\n",
        upstream.url()
    );
    fs::write(directory.path().join("gate.toml"), text).unwrap();
    directory
}

async fn start(command: Command, directory: &TempDir) -> Running {
    let config = directory.path().join("gate.toml");
    tokio::task::spawn_blocking(move || Running::start_as(command, &config, &[])).await.unwrap()
}

async fn take_over(listener: &str, place: Place) -> String {
    let upstream = TestUpstream::start().await;
    let directories = [0, 1, 2].map(|_| configure(listener, &upstream));
    let mut running = start(program(), &directories[0]).await;
    let mut load = Load::start(&place);
    load.goes_on(100).await;
    let mut logs = String::new();
    for directory in &directories[1..] {
        let next = start(program(), directory).await;
        load.goes_on(50).await;
        running.signal("-TERM");
        assert!(running.end().await.success());
        logs.push_str(&running.log());
        running = next;
        load.goes_on(100).await;
    }
    let served = load.end().await;
    println!("{served} connections were served");
    running.signal("-TERM");
    assert!(running.end().await.success());
    logs
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_handed_over() {
    let address = free_address();
    let logs = take_over(&format!("address = \"{address}\"\nreuse_port = true"), Place::Tcp(address)).await;
    let led = logs.matches("another process takes new connections from now on").count();
    assert_eq!(led, if cfg!(target_os = "linux") { 2 } else { 0 }, "{logs}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_handed_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gate.sock");
    take_over(&format!("address = \"unix:{}\"\nreuse_port = true", path.display()), Place::Unix(path.clone())).await;
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left behind");
}

/// The program as systemd starts it, with this socket as its file descriptor 3.
fn activated(socket: &TcpListener, name: &str) -> Command {
    let mut command = Command::new("sh");
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    command.args(["-c", script, "sh", PORTCULLIS]).env("LISTEN_FDNAMES", name);
    let socket = OwnedFd::from(socket.try_clone().unwrap());
    command.stdin(Stdio::from(socket));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_of_systemd_outlives_its_gates() {
    let upstream = TestUpstream::start().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let directory = configure("address = \"systemd:portcullis\"", &upstream);
    let mut running = start_activated(&socket, &directory).await;
    assert_eq!(running.address, address);
    let mut load = Load::start(&Place::Tcp(address));
    for _ in 0..2 {
        load.goes_on(100).await;
        running.signal("-TERM");
        assert!(running.end().await.success());
        running = start_activated(&socket, &directory).await;
    }
    load.goes_on(100).await;
    println!("{} connections were served", load.end().await);
}

async fn start_activated(socket: &TcpListener, directory: &TempDir) -> Running {
    let command = activated(socket, "portcullis");
    let config = directory.path().join("gate.toml");
    tokio::task::spawn_blocking(move || Running::start_with_stdin(command, &config)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_systemd_does_not_pass_on_is_missed() {
    let upstream = TestUpstream::start().await;
    let directory = configure("address = \"systemd\"", &upstream);
    let error = fails_to_start(program(), directory.path());
    assert!(error.contains("cannot listen on systemd") && error.contains("socket unit"), "{error}");
}

fn fails_to_start(mut command: Command, directory: &Path) -> String {
    let output = command.args(["serve", "--config"]).arg(directory.join("gate.toml")).output().unwrap();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told() {
    let upstream = TestUpstream::start().await;
    let directory = configure("address = \"127.0.0.1:0\"", &upstream);
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = move || {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let mut command = program();
    command.env("NOTIFY_SOCKET", &path);
    let mut running = start(command, &directory).await;
    assert_eq!(told(), "READY=1\n");
    running.signal("-TERM");
    assert_eq!(told(), "STOPPING=1\n");
    assert!(running.end().await.success());
}
