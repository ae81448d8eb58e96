//! A gibibyte each way through a gate that stays small.

use std::{
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use aws_lc_rs::digest::{Context, SHA256};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::watch,
    time::timeout,
};

use super::{
    frames::{
        DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, RST_STREAM, WINDOW_UPDATE, block, frame, frame_head,
        setting,
    },
    process::{MIB, Process},
};
use crate::support::{eventually_within, upstream::RawUpstream};

/// What each of the bodies has.
const SIZE: u64 = 1024 * MIB as u64;

/// What the gate may hold, all the time.
const LIMIT: usize = 64 * MIB;

/// How long one of them may take: a build for debugging, on a machine with other work.
const PATIENCE: Duration = Duration::from_secs(300);

/// A piece whose length has no factor in common with any buffer's: whatever is lost, doubled or moved changes the whole.
static PIECE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 1_u32;
    let mut byte = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..1_000_003).map(|_| byte()).collect()
});

/// The body, in pieces of these many bytes at most.
fn pieces(size: u64, most: usize) -> impl Iterator<Item = &'static [u8]> {
    let mut left = size;
    PIECE.chunks(most).cycle().map_while(move |piece| {
        let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        left -= length as u64;
        (length > 0).then(|| &piece[..length])
    })
}

fn hexadecimal(digest: impl AsRef<[u8]>) -> String {
    use std::fmt::Write as _;
    digest.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// The digest of a body of this size.
fn expected(size: u64) -> String {
    let mut context = Context::new(&SHA256);
    pieces(size, MIB).for_each(|piece| context.update(piece));
    hexadecimal(context.finish())
}

/// How much a side has passed on.
type Count = Arc<AtomicU64>;

/// Sends bodies of `SIZE` (`GET`), with a length or in chunks; takes bodies and answers with their digest (`POST`), while
/// it may read.
struct Api {
    upstream: RawUpstream,
    sent: Count,
    may_read: watch::Sender<bool>,
}

impl Api {
    async fn start() -> Self {
        let sent = Count::default();
        let (may_read, reading) = watch::channel(true);
        let count = Arc::clone(&sent);
        let upstream = RawUpstream::start(move |stream, _| {
            let (sent, reading) = (Arc::clone(&count), reading.clone());
            async move {
                let mut stream = BufReader::with_capacity(256 * 1024, stream);
                while serve(&mut stream, &sent, reading.clone()).await.is_ok() {}
            }
        })
        .await;
        Self { upstream, sent, may_read }
    }
}

type Stream = BufReader<TcpStream>;

/// The header's lines, without their ends.
async fn head(stream: &mut Stream) -> std::io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if line == "\r\n" {
            return Ok(lines);
        }
        lines.push(line.trim_end().to_ascii_lowercase());
    }
}

fn length(head: &[String]) -> Option<u64> {
    head.iter().find_map(|line| line.strip_prefix("content-length: ")).map(|length| length.parse().unwrap())
}

async fn serve(stream: &mut Stream, sent: &AtomicU64, mut reading: watch::Receiver<bool>) -> std::io::Result<()> {
    let head = head(stream).await?;
    if head[0].starts_with("get /witness ") {
        return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    }
    if head[0].starts_with("post ") {
        let digest = read_body(stream, length(&head), &mut reading).await?;
        return stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\n{digest}").as_bytes()).await;
    }
    if head[0].starts_with("get /chunked ") {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        for piece in pieces(SIZE, 100_000) {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            stream.write_all(piece).await?;
            stream.write_all(b"\r\n").await?;
            sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
        }
        return stream.write_all(b"0\r\n\r\n").await;
    }
    stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes()).await?;
    for piece in pieces(SIZE, 256 * 1024) {
        stream.write_all(piece).await?;
        sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
    }
    Ok(())
}

/// Reads a body of this length, or chunks, to its end; its digest.
async fn read_body(
    stream: &mut Stream,
    length: Option<u64>,
    reading: &mut watch::Receiver<bool>,
) -> std::io::Result<String> {
    let mut context = Context::new(&SHA256);
    if let Some(length) = length {
        read_part(stream, length, &mut context, reading).await?;
    } else {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await?;
            let size = u64::from_str_radix(line.trim_end(), 16).map_err(std::io::Error::other)?;
            read_part(stream, size, &mut context, reading).await?;
            stream.read_line(&mut line).await?;
            if size == 0 {
                break;
            }
        }
    }
    Ok(hexadecimal(context.finish()))
}

async fn read_part(
    stream: &mut Stream,
    mut left: u64,
    context: &mut Context,
    reading: &mut watch::Receiver<bool>,
) -> std::io::Result<()> {
    while left > 0 {
        let _ = reading.wait_for(|may| *may).await;
        let bytes = stream.fill_buf().await?;
        if bytes.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let length = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        context.update(&bytes[..length]);
        stream.consume(length);
        left -= length as u64;
    }
    Ok(())
}

/// Downloads over HTTP/1.1; the digest.
async fn download_http1(address: SocketAddr, path: &str, reading: watch::Receiver<bool>) -> String {
    let mut reading = reading;
    let mut stream = BufReader::with_capacity(256 * 1024, TcpStream::connect(address).await.unwrap());
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
    let head = head(&mut stream).await.unwrap();
    assert!(head[0].starts_with("http/1.1 200 "), "{head:?}");
    assert_eq!(length(&head).is_some(), path != "/chunked", "{head:?}");
    read_body(&mut stream, length(&head), &mut reading).await.unwrap()
}

/// Uploads over HTTP/1.1, and counts; what the upstream answers.
async fn upload_http1(address: SocketAddr, chunked: bool, sent: Count) -> String {
    let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
    let framing = if chunked { "transfer-encoding: chunked".to_owned() } else { format!("content-length: {SIZE}") };
    stream.write_all(format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}\r\n\r\n").as_bytes()).await.unwrap();
    for piece in pieces(SIZE, 256 * 1024) {
        if chunked {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
        }
        stream.write_all(piece).await.unwrap();
        if chunked {
            stream.write_all(b"\r\n").await.unwrap();
        }
        sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
    }
    if chunked {
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    }
    let head = head(&mut stream).await.unwrap();
    assert!(head[0].starts_with("http/1.1 200 "), "{head:?}");
    let mut body = vec![0; usize::try_from(length(&head).unwrap()).unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    String::from_utf8(body).unwrap()
}

/// As much as HTTP/2 allows.
const WIDEST: u32 = 0x7fff_ffff;

/// Reads the next frame into `payload`: kind, flags, stream.
async fn next_frame(stream: &mut (impl AsyncReadExt + Unpin), payload: &mut Vec<u8>) -> (u8, u8, u32) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let (length, kind, flags, id) = frame_head(&head);
    payload.resize(length, 0);
    stream.read_exact(payload).await.unwrap();
    assert!(!matches!(kind, GOAWAY | RST_STREAM), "{kind}: {payload:?}");
    (kind, flags, id)
}

/// Downloads over HTTP/2, with windows as wide as they can be; the digest.
async fn download_http2(address: SocketAddr, path: &str, mut reading: watch::Receiver<bool>) -> String {
    let mut connection = Http2::with_settings(address, &setting(4, WIDEST)).await;
    let widened = frame(WINDOW_UPDATE, 0, 0, &(WIDEST - 65_535).to_be_bytes());
    connection.send([widened, super::frames::get(1, path)].concat()).await;
    let mut stream = BufReader::with_capacity(256 * 1024, connection.stream);
    let (mut payload, mut context) = (Vec::new(), Context::new(&SHA256));
    loop {
        let _ = reading.wait_for(|may| *may).await;
        let (kind, flags, id) = next_frame(&mut stream, &mut payload).await;
        if kind == DATA {
            context.update(&payload);
        }
        if id == 1 && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return hexadecimal(context.finish());
        }
    }
}

/// Uploads over HTTP/2, as fast as the gate's windows allow, and counts; what the upstream answers.
async fn upload_http2(address: SocketAddr, with_length: bool, sent: Count) -> String {
    let (settings, rest, stream) = Http2::connect(address).await.settle().await;
    let increment = |payload: &[u8]| i64::from(u32::from_be_bytes(payload.try_into().unwrap()));
    let initial = settings.chunks(6).find(|setting| setting[1] == 4).map_or(65_535, |setting| increment(&setting[2..]));
    let size = SIZE.to_string();
    let mut fields: Vec<(&[u8], &[u8])> =
        vec![(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"a")];
    if with_length {
        fields.push((b"content-length", size.as_bytes()));
    }
    let (read, mut write) = stream.into_split();
    write.write_all(&frame(HEADERS, END_HEADERS, 1, &block(fields))).await.unwrap();
    // What may be sent: over the connection, and of the stream.
    let (windows, mut open) = watch::channel((65_535_i64, initial));
    let reader = tokio::spawn(async move {
        let mut stream = BufReader::new(std::io::Cursor::new(rest).chain(read));
        let (mut payload, mut answer) = (Vec::new(), Vec::new());
        loop {
            let (kind, flags, id) = next_frame(&mut stream, &mut payload).await;
            match kind {
                WINDOW_UPDATE if id == 0 => windows.send_modify(|windows| windows.0 += increment(&payload)),
                WINDOW_UPDATE => windows.send_modify(|windows| windows.1 += increment(&payload)),
                DATA if id == 1 => answer.extend(&payload),
                _ => {}
            }
            if id == 1 && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                return String::from_utf8(answer).unwrap();
            }
        }
    });
    let mut used = (0_i64, 0_i64);
    for piece in pieces(SIZE, 16_384) {
        let length = i64::try_from(piece.len()).unwrap();
        used = (used.0 + length, used.1 + length);
        open.wait_for(|windows| windows.0 >= used.0 && windows.1 >= used.1).await.unwrap();
        let head = frame(DATA, 0, 1, &[]);
        let length = u32::try_from(piece.len()).unwrap().to_be_bytes();
        write.write_all(&[&length[1..], &head[3..], piece].concat()).await.unwrap();
        sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
    }
    write.write_all(&frame(DATA, END_STREAM, 1, &[])).await.unwrap();
    reader.await.unwrap()
}

/// Waits until nothing moves any more.
async fn stands_still(count: &AtomicU64) -> u64 {
    let (mut before, mut since) = (0, Instant::now());
    eventually_within(PATIENCE, "everything stands still", async || {
        let now = count.load(Ordering::SeqCst);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        now > 0 && since.elapsed() > Duration::from_millis(500)
    })
    .await;
    before
}

/// A body each way, over each version in front, with a length and without: the digest is right, and the gate stays small.
#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_each_way_through_a_small_gate() {
    let api = Api::start().await;
    let gate = Process::start("", &api.upstream.route("auth = \"none\"\nbody_idle_timeout = \"60s\"")).await;
    let address = gate.address();
    let right = expected(SIZE);
    let (_held, go) = watch::channel(true);
    let mut report = Vec::new();
    for case in ["down", "down chunked", "up", "up chunked"] {
        for version in [1, 2] {
            let begun = Instant::now();
            let (go, sent) = (go.clone(), Count::default());
            let body = async move {
                match (case, version) {
                    ("down", 1) => download_http1(address, "/sized", go).await,
                    ("down chunked", 1) => download_http1(address, "/chunked", go).await,
                    ("down", _) => download_http2(address, "/sized", go).await,
                    ("down chunked", _) => download_http2(address, "/chunked", go).await,
                    ("up", 1) => upload_http1(address, false, sent).await,
                    ("up chunked", 1) => upload_http1(address, true, sent).await,
                    ("up", _) => upload_http2(address, true, sent).await,
                    _ => upload_http2(address, false, sent).await,
                }
            };
            let digest =
                timeout(PATIENCE, body).await.unwrap_or_else(|_| panic!("{case}, HTTP/{version}: not in time"));
            assert_eq!(digest, right, "{case}, HTTP/{version}");
            let peak = gate.peak();
            report.push(format!("{case}, HTTP/{version}: {:?}, {} MiB at most", begun.elapsed(), peak / MIB));
            println!("{}", report.last().unwrap());
            assert!(peak < LIMIT, "{}", report.join("\n"));
        }
    }
}

/// Whoever does not read holds the other side up, and nothing piles up in between; then it goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stands_still_fills_no_memory() {
    let api = Api::start().await;
    let gate = Process::start("", &api.upstream.route("auth = \"none\"\nbody_idle_timeout = \"60s\"")).await;
    let address = gate.address();
    for version in [1, 2] {
        let (may_read, reading) = watch::channel(false);
        let before = api.sent.load(Ordering::SeqCst);
        let download = tokio::spawn(async move {
            if version == 1 {
                download_http1(address, "/sized", reading).await
            } else {
                download_http2(address, "/sized", reading).await
            }
        });
        let sent = stands_still(&api.sent).await - before;
        assert!(sent < SIZE / 8, "{sent} bytes were taken for a client that reads none");
        println!("down, HTTP/{version}: {} MiB taken, {} MiB held", sent >> 20, gate.memory() / MIB);
        assert!(gate.peak() < LIMIT, "{} MiB", gate.peak() / MIB);
        may_read.send_replace(true);
        let digest = timeout(PATIENCE, download).await.expect("the rest comes in time").unwrap();
        assert_eq!(digest, expected(SIZE));

        api.may_read.send_replace(false);
        let sent = Count::default();
        let count = Arc::clone(&sent);
        let upload = tokio::spawn(async move {
            if version == 1 {
                upload_http1(address, false, count).await
            } else {
                upload_http2(address, true, count).await
            }
        });
        let taken = stands_still(&sent).await;
        assert!(taken < SIZE / 8, "{taken} bytes were taken for an upstream that reads none");
        println!("up, HTTP/{version}: {} MiB taken, {} MiB held", taken >> 20, gate.memory() / MIB);
        assert!(gate.peak() < LIMIT, "{} MiB", gate.peak() / MIB);
        api.may_read.send_replace(true);
        let digest = timeout(PATIENCE, upload).await.expect("the rest comes in time").unwrap();
        assert_eq!(digest, expected(SIZE));
    }
}
