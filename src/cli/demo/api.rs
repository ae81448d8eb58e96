//! An API that answers with what it was asked.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

pub(super) async fn serve(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            // A client that breaks off is none of our business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(echo)).await;
        });
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let shown = |name: &str| !matches!(name, "authorization" | "cookie");
    let fields = request.headers().iter().filter(|(name, _)| shown(name.as_str()));
    let fields = fields.map(|(name, value)| (name.to_string(), json!(String::from_utf8_lossy(value.as_bytes()))));
    let answer = json!({
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "user": request.headers().get("x-forwarded-user").map(|user| String::from_utf8_lossy(user.as_bytes())),
        "headers": fields.collect::<serde_json::Map<_, _>>(),
    });
    let mut response = Response::new(Full::from(format!("{answer:#}\n")));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}
