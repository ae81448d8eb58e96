//! Notes by which compiler the program was made.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = Command::new(compiler).arg("--version").output();
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    // "rustc 1.89.0 (29483883e 2025-08-04)"
    let version = told.split_whitespace().nth(1).unwrap_or_default();
    println!("cargo::rustc-env=PORTCULLIS_RUSTC={version}");
}
