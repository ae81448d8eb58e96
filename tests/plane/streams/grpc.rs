//! gRPC of all four kinds, with a real client and a real server, with TLS and without.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, stream};
use serde_json::json;
use tokio::net::TcpListener;
use tonic::{
    Code, Request, Status, Streaming,
    client::Grpc as Caller,
    codegen::{Service, http::uri::PathAndQuery},
    metadata::MetadataValue,
    server::{
        ClientStreamingService, Grpc as Server, NamedService, ServerStreamingService, StreamingService, UnaryService,
    },
    transport::{Certificate, Channel, ClientTlsConfig},
};
use tonic_prost::ProstCodec;

use super::*;
use crate::secure::Secure;

/// The one message: a line of text.
#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(string, tag = "1")]
    text: String,
}

fn line(text: impl Into<String>) -> Line {
    Line { text: text.into() }
}

type Lines = Pin<Box<dyn Stream<Item = Result<Line, Status>> + Send>>;
type Later<T> = Pin<Box<dyn Future<Output = Result<tonic::Response<T>, Status>> + Send>>;

/// What the server got of a call: the user, and the deadline.
#[derive(Clone, Default)]
struct Desk(Arc<Mutex<Vec<Noted>>>);

/// The user, and the deadline.
type Noted = (String, Option<String>);

impl Desk {
    fn note<T>(&self, request: &Request<T>) {
        let text = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        self.0.lock().unwrap().push((text("x-forwarded-user").unwrap_or_default(), text("grpc-timeout")));
    }

    fn last(&self) -> Noted {
        self.0.lock().unwrap().last().unwrap().clone()
    }
}

impl UnaryService<Line> for Desk {
    type Response = Line;
    type Future = Later<Line>;

    fn call(&mut self, request: Request<Line>) -> Self::Future {
        self.note(&request);
        Box::pin(async move {
            match request.into_inner().text.as_str() {
                "fail" => {
                    Err(Status::with_details(Code::FailedPrecondition, "not now", Bytes::from_static(b"\x01why")))
                }
                "hang" => std::future::pending().await,
                text => Ok(tonic::Response::new(line(format!("you said {text}")))),
            }
        })
    }
}

impl ServerStreamingService<Line> for Desk {
    type Response = Line;
    type ResponseStream = Lines;
    type Future = Later<Lines>;

    fn call(&mut self, request: Request<Line>) -> Self::Future {
        self.note(&request);
        let lines: Lines = if request.get_ref().text == "forever" {
            Box::pin(stream::iter([Ok(line("begin"))]).chain(stream::pending()))
        } else {
            Box::pin(stream::iter((0..50).map(|number| Ok(line(number.to_string())))))
        };
        Box::pin(async { Ok(tonic::Response::new(lines)) })
    }
}

impl ClientStreamingService<Line> for Desk {
    type Response = Line;
    type Future = Later<Line>;

    fn call(&mut self, request: Request<Streaming<Line>>) -> Self::Future {
        Box::pin(async move {
            let mut lines = request.into_inner();
            let mut count = 0;
            while lines.message().await?.is_some() {
                count += 1;
            }
            Ok(tonic::Response::new(line(count.to_string())))
        })
    }
}

impl StreamingService<Line> for Desk {
    type Response = Line;
    type ResponseStream = Lines;
    type Future = Later<Lines>;

    fn call(&mut self, request: Request<Streaming<Line>>) -> Self::Future {
        Box::pin(async move {
            let lines: Lines =
                Box::pin(request.into_inner().map(|said| said.map(|said| line(said.text.to_uppercase()))));
            Ok(tonic::Response::new(lines))
        })
    }
}

/// The service as generated code would have it.
#[derive(Clone)]
struct Route(Desk);

impl NamedService for Route {
    const NAME: &'static str = "test.Desk";
}

impl Service<http::Request<tonic::body::Body>> for Route {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let desk = self.0.clone();
        Box::pin(async move {
            let mut server = Server::new(ProstCodec::<Line, Line>::default());
            Ok(match request.uri().path() {
                "/test.Desk/Unary" => server.unary(desk, request).await,
                "/test.Desk/List" => server.server_streaming(desk, request).await,
                "/test.Desk/Count" => server.client_streaming(desk, request).await,
                "/test.Desk/Chat" => server.streaming(desk, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

/// A server, and a gate in front of it with these settings of its route, with TLS or without.
async fn start(world: &World, secure: Option<&Secure>, settings: &str) -> (Desk, Gate) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let desk = Desk::default();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let routes = tonic::transport::Server::builder().serve_with_incoming(Route(desk.clone()), incoming);
    tokio::spawn(routes);
    let route = format!(
        "[[routes]]\nname = \"grpc\"\npath = \"/test.Desk\"\nprotocol = \"http2\"\nupstream = \"http://{address}\"\n{settings}"
    );
    let setup = secure.into_iter().flat_map(Secure::variables);
    let setup = setup.fold(world.gate().route(&route), |setup, (name, value)| setup.with(name, value));
    (desk, setup.start().await)
}

/// A client with a token.
struct Client {
    caller: Caller<Channel>,
    token: String,
}

impl Client {
    async fn connect(gate: &Gate, secure: Option<&Secure>, token: String) -> Self {
        let scheme = if secure.is_some() { "https" } else { "http" };
        let mut endpoint = Channel::from_shared(format!("{scheme}://{}", gate.address)).unwrap();
        if let Some(secure) = secure {
            // The library agrees on HTTP/2 by ALPN, or does not connect.
            let authority = Certificate::from_pem(std::fs::read(secure.authority_file()).unwrap());
            let tls = ClientTlsConfig::new().ca_certificate(authority).domain_name("api.example");
            endpoint = endpoint.tls_config(tls).unwrap();
        }
        Self { caller: Caller::new(endpoint.connect().await.unwrap()), token }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if !self.token.is_empty() {
            let token: MetadataValue<_> = format!("Bearer {}", self.token).parse().unwrap();
            request.metadata_mut().insert("authorization", token);
        }
        request
    }

    async fn ready(&mut self) {
        self.caller.ready().await.unwrap();
    }

    async fn unary(&mut self, request: Request<Line>) -> Result<String, Status> {
        self.ready().await;
        let path = PathAndQuery::from_static("/test.Desk/Unary");
        let answer = self.caller.unary(request, path, ProstCodec::<Line, Line>::default()).await?;
        Ok(answer.into_inner().text)
    }

    async fn list(&mut self, text: &str) -> Result<Streaming<Line>, Status> {
        self.ready().await;
        let (request, path) = (self.request(line(text)), PathAndQuery::from_static("/test.Desk/List"));
        Ok(self.caller.server_streaming(request, path, ProstCodec::default()).await?.into_inner())
    }
}

fn code_of(status: &Status) -> (Code, &str) {
    // The details carry the code too, as `google.rpc.ErrorInfo`.
    if status.code() == Code::Unauthenticated {
        let details = String::from_utf8_lossy(status.details()).into_owned();
        assert!(details.contains("google.rpc.ErrorInfo") && details.contains(status.message()), "{details}");
    }
    (status.code(), status.message())
}

/// Runs a test in the clear and with TLS.
async fn both_ways(test: impl AsyncFn(Option<&Secure>)) {
    let secure = Secure::new();
    for secure in [None, Some(&secure)] {
        println!("with TLS: {}", secure.is_some());
        test(secure).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_all_four_kinds_pass() {
    both_ways(async |secure| calls_of_all_four_kinds_pass_by(secure).await).await;
}

async fn calls_of_all_four_kinds_pass_by(secure: Option<&Secure>) {
    let world = World::embedded().await;
    let (desk, gate) = start(&world, secure, "").await;
    let mut client = Client::connect(&gate, secure, world.token(ALICE, json!({}))).await;
    let request = client.request(line("hello"));
    assert_eq!(client.unary(request).await.unwrap(), "you said hello");
    assert_eq!(desk.last().0, ALICE);
    // What the server says of a failure arrives, details included.
    let request = client.request(line("fail"));
    let status = client.unary(request).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message(), status.details()),
        (Code::FailedPrecondition, "not now", &b"\x01why"[..])
    );

    let lines: Vec<_> = client.list("all").await.unwrap().map(|said| said.unwrap().text).collect().await;
    assert_eq!(lines, (0..50).map(|number| number.to_string()).collect::<Vec<_>>());

    client.ready().await;
    let request = client.request(stream::iter((0..100).map(|number| line(number.to_string()))));
    let path = PathAndQuery::from_static("/test.Desk/Count");
    let count = client.caller.client_streaming(request, path, ProstCodec::<Line, Line>::default()).await.unwrap();
    assert_eq!(count.into_inner().text, "100");

    client.ready().await;
    let (say, said) = mpsc::channel::<Line>(1);
    let said = stream::unfold(said, |mut said| async { said.recv().await.map(|line| (line, said)) });
    let request = client.request(said);
    let path = PathAndQuery::from_static("/test.Desk/Chat");
    let chat = client.caller.streaming(request, path, ProstCodec::<Line, Line>::default()).await.unwrap();
    let mut chat = chat.into_inner();
    for word in ["one", "two", "three"] {
        say.send(line(word)).await.unwrap();
        assert_eq!(timeout(PATIENCE, chat.message()).await.unwrap().unwrap(), Some(line(word.to_uppercase())));
    }
    drop(say);
    assert_eq!(timeout(PATIENCE, chat.message()).await.unwrap().unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_failures_of_the_gate_are_grpc_statuses() {
    both_ways(async |secure| refusals_and_failures_of_the_gate_are_grpc_statuses_by(secure).await).await;
}

async fn refusals_and_failures_of_the_gate_are_grpc_statuses_by(secure: Option<&Secure>) {
    let world = World::embedded().await;
    let (_, gate) = start(&world, secure, "scopes = [\"orders\"]\nresponse_timeout = \"500ms\"").await;
    let good = json!({ "scope": "orders" });
    for (token, code, message) in [
        (String::new(), Code::Unauthenticated, "missing_token"),
        (world.token(ALICE, json!({ "exp": 1 })), Code::Unauthenticated, "token_expired"),
        (world.token(ALICE, json!({ "scope": "openid" })), Code::PermissionDenied, "insufficient_scope"),
    ] {
        let mut client = Client::connect(&gate, secure, token).await;
        let request = client.request(line("hello"));
        assert_eq!(code_of(&client.unary(request).await.unwrap_err()), (code, message));
    }
    // Time limits of the gate.
    let mut client = Client::connect(&gate, secure, world.token(ALICE, good)).await;
    let request = client.request(line("hang"));
    let status = timeout(PATIENCE, client.unary(request)).await.unwrap().unwrap_err();
    assert_eq!(code_of(&status), (Code::DeadlineExceeded, "upstream_timeout"));
}

/// `grpc-timeout` reaches the server, and a client that gave up ends its call there.
#[tokio::test(flavor = "multi_thread")]
async fn deadlines_pass() {
    both_ways(async |secure| deadlines_pass_by(secure).await).await;
}

async fn deadlines_pass_by(secure: Option<&Secure>) {
    let world = World::embedded().await;
    let (desk, gate) = start(&world, secure, "").await;
    let mut client = Client::connect(&gate, secure, world.token(ALICE, json!({}))).await;
    let mut request = client.request(line("hang"));
    request.set_timeout(Duration::from_millis(700));
    let status = timeout(PATIENCE, client.unary(request)).await.unwrap().unwrap_err();
    assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
    assert!(desk.last().1.is_some_and(|deadline| deadline.starts_with("700")), "{:?}", desk.last().1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_with_its_session() {
    both_ways(async |secure| a_call_ends_with_its_session_by(secure).await).await;
}

async fn a_call_ends_with_its_session_by(secure: Option<&Secure>) {
    let world = World::embedded().await;
    let (_, gate) = start(&world, secure, "").await;
    let mut alice = Client::connect(&gate, secure, world.token(ALICE, json!({}))).await;
    let mut bob = Client::connect(&gate, secure, world.token(BOB, json!({}))).await;
    let (mut alices, mut bobs) = (alice.list("forever").await.unwrap(), bob.list("forever").await.unwrap());
    for call in [&mut alices, &mut bobs] {
        assert_eq!(call.message().await.unwrap(), Some(line("begin")));
    }
    // One that is not answered yet.
    let request = alice.request(line("hang"));
    let waiting = tokio::spawn(async move { alice.unary(request).await });
    eventually("they are streams", async || open_on(&gate, "grpc").await > 2.5).await;
    block(&gate, ALICE).await;
    let status = timeout(PATIENCE, alices.message()).await.unwrap().unwrap_err();
    assert_eq!(code_of(&status), (Code::Unauthenticated, "user_blocked"));
    let status = timeout(PATIENCE, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(code_of(&status), (Code::Unauthenticated, "user_blocked"));
    assert!(timeout(Duration::from_millis(300), bobs.message()).await.is_err(), "it goes on");
}
