//! The upstream: answers with 1 KiB, or with 16 KiB where the path says so. Content it takes as a whole before.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The end of paths that are answered with much.
pub(crate) const LARGE: &str = "/large";

/// The end of paths that much is sent to.
pub(crate) const UPLOAD: &str = "/upload";

static ANSWER: [u8; 16 * 1024] = [b'x'; 16 * 1024];

/// The length of its answer.
pub(crate) fn length(path: &str) -> usize {
    if path.ends_with(LARGE) { ANSWER.len() } else { 1024 }
}

/// What is sent there.
pub(crate) fn content(path: &str) -> Bytes {
    Bytes::from_static(if path.ends_with(UPLOAD) { &ANSWER } else { &[] })
}

/// Starts it on a free port.
pub(crate) async fn start() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Small answers go out at once; without it they only come later.
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                // A proxy that breaks off counts as an error where its answer is missed.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    });
    Ok(address)
}

/// Starts it in a thread of its own, which ends with the process.
#[allow(dead_code, reason = "the load bench has one thread for everything")]
pub(crate) fn start_apart() -> anyhow::Result<SocketAddr> {
    let (sender, address) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let _ = sender.send(start().await?);
            std::future::pending::<anyhow::Result<()>>().await
        })
    });
    address.recv().context("the upstream does not start")
}

async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let length = length(request.uri().path());
    if !request.body().is_end_stream() {
        request.into_body().collect().await?;
    }
    let mut response = Response::new(Full::new(Bytes::from_static(&ANSWER[..length])));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}
