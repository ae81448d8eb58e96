//! The targets of `tests/it/fuzz/targets.rs` under libFuzzer:
//!
//! ```sh
//! cargo install cargo-fuzz
//! cargo fuzz run -s none token            # any toolchain; with nightly, leave out `-s none` for the address sanitizer
//! cargo fuzz run -s none token -- -max_total_time=60
//! ```
//!
//! What is found belongs into the seeds there, where the tests try it from then on.

#[path = "../../tests/it/fuzz/targets.rs"]
#[allow(dead_code, reason = "the list of targets is for the tests")]
mod targets;

#[path = "../../tests/plane/hygiene/differential.rs"]
mod differential;
#[path = "../../tests/plane/hygiene/strict.rs"]
mod strict;

thread_local! {
    static GATE: differential::Differential = differential::Differential::start();
}

/// The bytes as what a connection sends, through a gate. `tests/plane/hygiene/mutations.rs` tries it in the tests.
pub fn requests(data: &[u8]) {
    GATE.with(|gate| gate.check(data));
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        $(
            /// One input.
            pub fn $name(data: &[u8]) {
                targets::$name(data);
            }
        )*
    };
}
targets!(
    token,
    marker_value,
    config,
    canonical_path,
    credential,
    jwks,
    logout_token,
    revocation,
    log_stream,
    user_event,
    sse,
    security_event,
    return_url,
    user,
    export,
    websocket,
    response,
    request,
    http2_frames,
);
