//! Certificates that change while the gate runs.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use portcullis::server::tls::{CertificateFiles, TlsSettings};

use super::{OPEN, ask, connect, exchange, metrics, resumed, shown, warnings};
use crate::{
    authority::{Authority, Identity},
    support::{eventually, gate::TestGate},
};

/// Puts an identity where `tls.crt` and `tls.key` lead to, as Kubernetes does: by one link that is exchanged.
fn mount(directory: &Path, authority: &Authority, identity: &Identity, version: &str) {
    let [certificate, key] = authority.write(version, identity);
    let data = directory.join(format!("..{version}"));
    fs::create_dir(&data).unwrap();
    fs::copy(certificate, data.join("tls.crt")).unwrap();
    fs::copy(key, data.join("tls.key")).unwrap();
    symlink(data.file_name().unwrap(), directory.join("..new")).unwrap();
    fs::rename(directory.join("..new"), directory.join("..data")).unwrap();
    for file in ["tls.crt", "tls.key"] {
        let _ = symlink(format!("..data/{file}"), directory.join(file));
    }
}

fn settings(directory: &Path, more: &str) -> String {
    let (certificate, key) = (directory.join("tls.crt"), directory.join("tls.key"));
    format!(
        "[listener.tls]\ncertificate_file = \"{}\"\nkey_file = \"{}\"\n{more}\n{OPEN}",
        certificate.display(),
        key.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_get_the_new_certificate_and_none_is_dropped() {
    let authority = Authority::new("test");
    let [old, new] = ["api.example", "api.example"].map(|name| authority.certify(&[name]));
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), &authority, &old, "1");
    let gate = TestGate::start(&settings(directory.path(), "")).await;
    let (address, client) = (gate.address(), Arc::new(authority.client(&[], None)));
    let mut kept = connect(address, "api.example", &client).await.unwrap();
    ask(&mut kept).await;

    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load: Vec<_> = (0..4)
        .map(|_| {
            let (stop, served, authority) = (Arc::clone(&stop), Arc::clone(&served), authority.client(&[], None));
            tokio::spawn(async move {
                let client = Arc::new(authority);
                while !stop.load(Ordering::Relaxed) {
                    let stream = connect(address, "api.example", &client).await.unwrap();
                    assert!(exchange(stream).await.unwrap().ends_with("ok"));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    eventually("there is load", async || served.load(Ordering::Relaxed) > 20).await;
    mount(directory.path(), &authority, &new, "2");
    let fresh = Arc::new(authority.client(&[], None));
    eventually("the new certificate is served", async || {
        shown(&connect(address, "api.example", &fresh).await.unwrap()) == new.certificate()
    })
    .await;
    let before = served.load(Ordering::Relaxed);
    eventually("the load goes on", async || served.load(Ordering::Relaxed) > before + 20).await;
    stop.store(true, Ordering::Relaxed);
    for task in load {
        task.await.expect("no connection was dropped");
    }
    assert_eq!(shown(&kept), old.certificate());
    ask(&mut kept).await;
    // A session that began before goes on after.
    let stream = connect(address, "api.example", &client).await.unwrap();
    assert!(resumed(&stream));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_changes_nothing_and_is_told() {
    let authority = Authority::new("test");
    let [old, new] = ["api.example", "api.example"].map(|name| authority.certify(&[name]));
    let [certificate, key] = authority.write("api", &old);
    let [new_certificate, new_key] = authority.write("new", &new);
    let text = format!("[listener.tls]\ncertificate_file = {certificate:?}\nkey_file = {key:?}\n{OPEN}");
    let gate = TestGate::start(&text).await;
    let client = Arc::new(authority.client(&[], None));
    let served = async || shown(&connect(gate.address(), "api.example", &client).await.unwrap());
    assert_eq!(warnings(&gate).await, Vec::<String>::new());

    for (name, damage, told) in [
        ("half of a pair", fs::read(&new_certificate).unwrap(), "holds another key than the certificate in"),
        ("rubbish", b"rubbish".to_vec(), "holds no certificate in PEM"),
        ("nothing", Vec::new(), "holds no certificate in PEM"),
    ] {
        fs::write(&certificate, damage).unwrap();
        eventually(&format!("{name} is told"), async || {
            matches!(&warnings(&gate).await[..], [warning] if warning.contains(told) && warning.contains("in use"))
        })
        .await;
        assert_eq!(metrics(&gate).await["portcullis_tls_certificate_held_back"], 1, "{name}");
        assert_eq!(served().await, old.certificate(), "{name}");
    }
    fs::copy(&new_key, &key).unwrap();
    fs::copy(&new_certificate, &certificate).unwrap();
    eventually("the new one is served", async || served().await == new.certificate()).await;
    assert_eq!(warnings(&gate).await, Vec::<String>::new());
    assert_eq!(metrics(&gate).await["portcullis_tls_certificate_held_back"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_an_authority_that_is_gone_are_not_resumed() {
    let (authority, first, second) = (Authority::new("test"), Authority::new("first"), Authority::new("second"));
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), &authority, &authority.certify(&["api.example"]), "1");
    let clients = directory.path().join("clients.pem");
    fs::copy(first.file(), &clients).unwrap();
    let gate = TestGate::start(&settings(directory.path(), &format!("client_ca_file = {clients:?}"))).await;
    let identity = first.certify(&["alice"]);
    let client = Arc::new(authority.client(&[], Some(&identity)));
    let ask = async || {
        let stream = connect(gate.address(), "api.example", &client).await?;
        let was_resumed = resumed(&stream);
        exchange(stream).await.map(|_| was_resumed)
    };
    assert!(!ask().await.unwrap());
    assert!(ask().await.unwrap());
    fs::copy(second.file(), directory.path().join("new")).unwrap();
    fs::rename(directory.path().join("new"), &clients).unwrap();
    eventually("the first authority is forgotten", async || ask().await.is_err()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_take_the_place_of_those_before() {
    let authority = Authority::new("test");
    let [old, new] = ["api.example", "api.example"].map(|name| authority.certify(&[name]));
    let directory = tempfile::tempdir().unwrap();
    mount(directory.path(), &authority, &old, "1");
    let gate = TestGate::start(&settings(directory.path(), "")).await;
    let tls = gate.instance().tls().unwrap();
    let [certificate, key] = authority.write("new", &new).map(PathBuf::from);
    let of = |certificate: &Path| TlsSettings {
        certificates: vec![CertificateFiles { certificate: certificate.to_owned(), key: key.clone() }],
        clients: None,
    };
    let client = Arc::new(authority.client(&[], None));
    let served = async || shown(&connect(gate.address(), "api.example", &client).await.unwrap());
    let fault = tls.replace(of(&directory.path().join("tls.crt"))).unwrap_err();
    assert_eq!(fault.path, key);
    assert_eq!(served().await, old.certificate());
    tls.replace(of(&certificate)).unwrap();
    assert_eq!(served().await, new.certificate());
    // From now on it is the new files that are followed.
    mount(directory.path(), &authority, &authority.certify(&["api.example"]), "2");
    let newer = authority.certify(&["api.example"]);
    authority.write("new", &newer);
    eventually("the new files are followed", async || served().await == newer.certificate()).await;
}
