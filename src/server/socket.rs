//! Listening sockets: made here, or passed on by systemd.
//!
//! - A TCP address may be shared with the process that takes over (`SO_REUSEPORT`); how one of them leaves is told in `hand_over`.
//! - The file of a Unix socket appears by a rename, ready and with its mode. One that nobody listens behind is stale, and replaced;
//!   one that somebody does is replaced only where addresses are shared. It is removed in the end, if it is still ours.
//! - A socket from systemd outlives the process: what waits in its queue is left to the next one.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Where a gate listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ListenAddress {
    /// `127.0.0.1:8080`
    Tcp(SocketAddr),
    /// `unix:/run/portcullis.sock`
    Unix(PathBuf),
    /// `systemd`, `systemd:<name>`: the sockets that systemd passes on (sd_listen_fds(3)), all of them or those of a name.
    Systemd(Option<Box<str>>),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(None) => f.write_str("systemd"),
            Self::Systemd(Some(name)) => write!(f, "systemd:{name}"),
        }
    }
}

/// How sockets are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketOptions {
    /// Whether another process may listen on the same addresses, to take over.
    pub shared: bool,
    /// The mode of the files of Unix sockets.
    pub unix_mode: u32,
}

/// A socket that is bound, and does not listen yet.
#[derive(Debug)]
pub struct Bound {
    socket: Socket,
    address: ListenAddress,
    origin: Origin,
    options: SocketOptions,
    /// Where a Unix socket is until it takes its place.
    file: Option<SocketFile>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Origin {
    Own,
    Shared,
    Passed,
}

/// Binds what is to be listened on at an address; systemd may pass on several sockets.
///
/// # Errors
/// The system's; [`io::ErrorKind::NotFound`]: systemd passed nothing on.
pub fn bind(address: &ListenAddress, options: SocketOptions) -> io::Result<Vec<Bound>> {
    let origin = if options.shared { Origin::Shared } else { Origin::Own };
    Ok(match address {
        ListenAddress::Tcp(address) => {
            let socket = bind_tcp(*address, options.shared)?;
            let address = socket.local_addr()?.as_socket().unwrap_or(*address);
            vec![Bound { socket, address: ListenAddress::Tcp(address), origin, options, file: None }]
        }
        ListenAddress::Unix(path) => {
            let (socket, file) = bind_unix(path, options)?;
            vec![Bound { socket, address: address.clone(), origin, options, file: Some(file) }]
        }
        ListenAddress::Systemd(name) => take_passed(name.as_deref(), options)?,
    })
}

fn bind_tcp(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // An address is taken over from a socket that is closing.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn bind_unix(path: &Path, options: SocketOptions) -> io::Result<(Socket, SocketFile)> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file is there that is no socket"));
        }
        Ok(_) => match listens_behind(path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
            Ok(()) if options.shared => {}
            Ok(()) => return Err(io::ErrorKind::AddrInUse.into()),
        },
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let new = new_path(path);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    socket.bind(&SockAddr::unix(&new)?)?;
    let file = SocketFile { identity: identity(&new)?, path: new };
    fs::set_permissions(&file.path, fs::Permissions::from_mode(options.unix_mode))?;
    Ok((socket, file))
}

/// Connects to a socket without waiting: one whose queue is full has somebody behind it, who may not come to it for long.
fn listens_behind(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        connected => connected,
    }
}

/// Where a socket is made before it takes its place.
fn new_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

/// A socket that systemd passed on, and its name.
type Passed = (Option<String>, OwnedFd);

/// The sockets that systemd passed on, while nobody has taken them.
fn passed() -> &'static Mutex<Vec<Passed>> {
    static PASSED: OnceLock<Mutex<Vec<Passed>>> = OnceLock::new();
    PASSED.get_or_init(|| {
        let found = sd_listen_fds::get().unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "LISTEN_FDS cannot be read");
            Vec::new()
        });
        Mutex::new(found.into_iter().map(|(name, socket)| (name, socket.into_std())).collect())
    })
}

fn take_passed(name: Option<&str>, options: SocketOptions) -> io::Result<Vec<Bound>> {
    let is_meant = |found: &Option<String>| name.is_none() || found.as_deref() == name;
    let mut all = passed().lock().unwrap_or_else(PoisonError::into_inner);
    let (taken, left): (Vec<Passed>, Vec<Passed>) = all.drain(..).partition(|(found, _)| is_meant(found));
    *all = left;
    if taken.is_empty() {
        let what = match name {
            None => "systemd passed no socket on: start the service by its socket unit".to_owned(),
            Some(name) => format!("systemd passed no socket on whose FileDescriptorName= is {name}"),
        };
        return Err(io::Error::new(io::ErrorKind::NotFound, what));
    }
    taken.into_iter().map(|(_, descriptor)| adopt(descriptor, options)).collect()
}

fn adopt(descriptor: OwnedFd, options: SocketOptions) -> io::Result<Bound> {
    let socket = Socket::from(descriptor);
    let unfit = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
    if socket.r#type()? != Type::STREAM || !listens(&socket)? {
        return Err(unfit(
            "systemd passed something on that is no listening stream socket: use ListenStream=, and Accept=no",
        ));
    }
    socket.set_cloexec(true)?;
    socket.set_nonblocking(true)?;
    let local = socket.local_addr()?;
    let address = match (local.as_socket(), local.as_pathname()) {
        (Some(address), _) => ListenAddress::Tcp(address),
        (None, Some(path)) => ListenAddress::Unix(path.to_owned()),
        (None, None) => return Err(unfit("systemd passed a socket on that has neither an address nor a path")),
    };
    Ok(Bound { socket, address, origin: Origin::Passed, options, file: None })
}

#[cfg(target_os = "linux")]
fn listens(socket: &Socket) -> io::Result<bool> {
    socket.is_listener()
}

/// There is no systemd elsewhere, and nothing is passed on.
#[cfg(not(target_os = "linux"))]
fn listens(_: &Socket) -> io::Result<bool> {
    Ok(false)
}

/// How many sockets systemd passed on that nobody has taken.
#[must_use]
pub fn left_over() -> usize {
    passed().lock().unwrap_or_else(PoisonError::into_inner).len()
}

impl Bound {
    /// Where it is bound, with the port that the system chose.
    #[must_use]
    pub const fn address(&self) -> &ListenAddress {
        &self.address
    }

    /// Whether connections that come early are better off elsewhere: with the process that is to be replaced, or in a queue.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        self.origin != Origin::Own
    }

    /// Listens. Needs a runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn listen(mut self) -> io::Result<Listening> {
        let listener = self.open()?;
        Ok(self.listening(listener))
    }

    /// Listens, or may be tried again: a Unix socket whose file is gone is made anew.
    pub(super) fn try_listen(mut self) -> Result<Listening, (Self, io::Error)> {
        let listener = self.renew().and_then(|()| self.open());
        match listener {
            Ok(listener) => Ok(self.listening(listener)),
            Err(error) => Err((self, error)),
        }
    }

    fn open(&mut self) -> io::Result<Listener> {
        if self.origin != Origin::Passed {
            self.socket.listen(BACKLOG)?;
        }
        if let (ListenAddress::Unix(path), Some(file)) = (&self.address, &mut self.file) {
            fs::rename(&file.path, path)?;
            path.clone_into(&mut file.path);
        }
        let socket = self.socket.try_clone()?;
        Ok(match self.address {
            ListenAddress::Unix(_) => Listener::Unix(UnixListener::from_std(socket.into())?),
            ListenAddress::Tcp(_) | ListenAddress::Systemd(_) => {
                // Each connection has it from here. Answers go out at once; a client that does not care has lost nothing when this fails.
                let _ = socket.set_tcp_nodelay(true);
                Listener::Tcp(TcpListener::from_std(socket.into())?)
            }
        })
    }

    fn renew(&mut self) -> io::Result<()> {
        let ListenAddress::Unix(path) = &self.address else { return Ok(()) };
        if self.origin == Origin::Passed || self.file.as_ref().is_some_and(SocketFile::is_there) {
            return Ok(());
        }
        // First of all the old one: what takes its place may look like it.
        self.file = None;
        let (socket, file) = bind_unix(path, self.options)?;
        (self.socket, self.file) = (socket, Some(file));
        Ok(())
    }

    fn listening(self, listener: Listener) -> Listening {
        Listening { listener, address: self.address, origin: self.origin, _file: self.file }
    }
}

/// A socket that listens.
#[derive(Debug)]
pub struct Listening {
    listener: Listener,
    address: ListenAddress,
    origin: Origin,
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection as it was accepted.
#[derive(Debug)]
pub enum Accepted {
    /// From an address.
    Tcp(TcpStream, SocketAddr),
    /// From this machine.
    Unix(UnixStream),
}

impl Listening {
    /// Waits for a connection.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Cancel safety
    /// No connection is lost.
    pub async fn accept(&self) -> io::Result<Accepted> {
        Ok(match &self.listener {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Accepted::Tcp(stream, peer)
            }
            Listener::Unix(listener) => Accepted::Unix(listener.accept().await?.0),
        })
    }

    /// A connection that waits already, whether the runtime has heard of it or not.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::WouldBlock`]: there is none.
    pub fn accept_now(&self) -> io::Result<Accepted> {
        let (socket, peer) = SockRef::from(self).accept()?;
        socket.set_nonblocking(true)?;
        Ok(match (&self.listener, peer.as_socket()) {
            (Listener::Tcp(_), Some(peer)) => Accepted::Tcp(TcpStream::from_std(socket.into())?, peer),
            _ => Accepted::Unix(UnixStream::from_std(socket.into())?),
        })
    }

    /// Its address, if another process may have taken it over by `SO_REUSEPORT`.
    pub(super) const fn shared(&self) -> Option<SocketAddr> {
        match (&self.address, self.origin) {
            (ListenAddress::Tcp(address), Origin::Shared) => Some(*address),
            _ => None,
        }
    }

    /// Whether it goes on without this process.
    #[must_use]
    pub fn outlives(&self) -> bool {
        self.origin == Origin::Passed
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.listener {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}

/// The file of a Unix socket. Dropped, it is removed, unless another socket has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// Whether it is still ours.
    fn is_there(&self) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as StdUnixStream;

    use super::*;

    const OWN: SocketOptions = SocketOptions { shared: false, unix_mode: 0o660 };
    const SHARED: SocketOptions = SocketOptions { shared: true, ..OWN };

    fn listen(path: &Path, options: SocketOptions) -> io::Result<Listening> {
        bind(&ListenAddress::Unix(path.to_owned()), options)?.remove(0).listen()
    }

    #[tokio::test]
    async fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gate.sock");
        let first = listen(&path, OWN).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = listen(&path, OWN).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists(), "it is removed with its socket");

        // As a process leaves it that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let second = listen(&path, OWN).unwrap();
        let third = listen(&path, SHARED).unwrap();
        assert!(second.accept_now().is_ok(), "the third has looked whether somebody is there");
        let _client = StdUnixStream::connect(&path).unwrap();
        assert!(second.accept_now().is_err() && third.accept_now().is_ok(), "the third has taken over");
        drop(second);
        assert!(path.exists(), "what another has put there is left");
        drop(third);
        drop(bind(&ListenAddress::Unix(path.clone()), OWN).unwrap());
        let left = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(left, 0, "nothing is left behind");

        fs::write(&path, "precious").unwrap();
        assert_eq!(listen(&path, SHARED).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_socket_whose_queue_is_full_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gate.sock");
        let busy = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        busy.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        busy.listen(0).unwrap();
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
                socket.set_nonblocking(true).unwrap();
                let connected = socket.connect(&SockAddr::unix(&path).unwrap());
                (socket, connected.is_ok())
            })
            .collect();
        assert!(waiting.iter().any(|(_, connected)| !connected), "the queue is full");
        let (told, bound) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let result = bind(&ListenAddress::Unix(path), OWN).map(drop).map_err(|error| error.kind());
            let _ = told.send(result);
        });
        let result = bound.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(result.expect("it does not wait"), Err(io::ErrorKind::AddrInUse));
    }

    #[tokio::test]
    async fn only_shared_addresses_are_listened_on_twice() {
        let address = |port| ListenAddress::Tcp(([127, 0, 0, 1], port).into());
        let first = bind(&address(0), SHARED).unwrap().remove(0);
        let ListenAddress::Tcp(bound) = first.address().clone() else { unreachable!() };
        let _first = first.listen().unwrap();
        let _second = bind(&address(bound.port()), SHARED).unwrap().remove(0).listen().unwrap();
        assert_eq!(bind(&address(bound.port()), OWN).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn without_systemd_there_is_nothing_to_take() {
        let error = bind(&ListenAddress::Systemd(None), OWN).unwrap_err();
        assert!(error.to_string().contains("socket unit"), "{error}");
    }
}
