use std::convert::Infallible;

use h2::client::SendRequest;
use http_body_util::{BodyExt as _, Full};
use prometheus_client::metrics::gauge::Gauge;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// A client of a connection whose requests this serves. What they are to be ended by is never.
async fn client<F>(service: impl Fn(Box<Request<Incoming>>) -> F + Send + Sync + 'static) -> SendRequest<Bytes>
where
    F: Future<Output = &'static str> + Send + 'static,
{
    let (near, far) = tokio::io::duplex(64 * 1024);
    let progress = Progress::new(Gauge::default());
    let requests = Arc::clone(&progress);
    let service = move |request, _| {
        let (serving, over) = requests.serve_stream();
        let content = service(request);
        let answer = || async move {
            let content = Full::from(content.await).map_err(|never: Infallible| match never {});
            drop(serving);
            Response::new(content)
        };
        (answer, over)
    };
    let settings = Settings { max_header_size: 16 * 1024, idle_timeout: LONG, ping_timeout: LONG };
    tokio::spawn(serve(Box::new(far), settings, progress, service, Box::pin(std::future::pending())));
    let (requests, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    requests.ready().await.unwrap()
}

async fn get(client: &mut SendRequest<Bytes>, path: &str) -> Result<Bytes, h2::Error> {
    let request = Request::get(format!("http://a{path}")).body(()).unwrap();
    let mut content = client.send_request(request, true)?.0.await?.into_body();
    let data = content.data().await.transpose()?.unwrap_or_default();
    Ok(data)
}

#[tokio::test]
async fn a_panic_ends_the_request_it_was_about_and_no_other() {
    let (go, waits) = tokio::sync::watch::channel(false);
    let mut client = client(move |request| {
        let mut waits = waits.clone();
        async move {
            assert_ne!(request.uri().path(), "/panic", "as it is meant to");
            waits.wait_for(|go| *go).await.unwrap();
            "served"
        }
    })
    .await;
    let mut other = client.clone();
    let waiting = tokio::spawn(async move { get(&mut other, "/").await });
    let error = get(&mut client, "/panic").await.unwrap_err();
    assert!(error.is_reset(), "{error}");
    go.send(true).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), "served");
    assert_eq!(get(&mut client, "/").await.unwrap(), "served");
}

/// One stream has all the connection's attention for a while, and the others theirs.
#[tokio::test]
async fn many_requests_are_served_beside_each_other() {
    let client = client(async |request: Box<Request<Incoming>>| {
        for _ in 0..request.uri().path().len() {
            tokio::task::yield_now().await;
        }
        "served"
    })
    .await;
    let mut all = tokio::task::JoinSet::new();
    for number in 0..150 {
        let mut client = client.clone();
        all.spawn(async move { get(&mut client, &format!("/{}", "x".repeat(number))).await });
    }
    while let Some(served) = all.join_next().await {
        assert_eq!(served.unwrap().unwrap(), "served");
    }
}

/// The size of what serves a request that is answered by this.
pub(in crate::server) fn of_stream<C, A, F, B>(_: impl Fn(C) -> A) -> usize
where
    A: FnOnce() -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    fn of<C, S>(_: impl Fn(C) -> S) -> usize {
        size_of::<Stream<S>>()
    }
    of(|(exchange, answer): (Exchange, A)| exchange.serve(answer))
}
