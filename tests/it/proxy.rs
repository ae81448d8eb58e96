//! The way through the gate, over real sockets.

use crate::support::gate::TestGate;

#[tokio::test(flavor = "multi_thread")]
async fn a_request_goes_through() {
    let gate = TestGate::start("").await;
    let reply = gate.get("/orders?limit=1", &gate.good_token()).await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, "ok"));
    let got = gate.upstream.last();
    assert_eq!(got.target, "/orders?limit=1");
    assert_eq!(got.values("x-forwarded-user"), ["auth0|alice"]);
    assert_eq!(gate.get("/", "").await.code(), "missing_token");
}
