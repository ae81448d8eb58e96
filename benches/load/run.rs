//! Scenario by scenario: new proxies, a warm-up, and rounds in which they take turns.

use std::{
    fs,
    path::Path,
    process::{self, Command, Stdio},
    sync::{Arc, PoisonError},
    time::Duration,
};

use anyhow::{Context, ensure};
use futures_util::future::try_join_all;
use http::HeaderValue;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::{Instant, sleep};

use crate::{
    client::{Requests, TLS},
    generator::Clients,
    plan::{IDLE_SECONDS, Plan, SPARE_TOKENS},
    proxy::{Kind, Proxy, Setup},
    report::{Report, Round, Row},
    scenario::Scenario,
    tokens::{self, Issuer},
    upstream,
};

/// The core of generator and upstream.
const OWN_CORE: &str = "1";

/// How many connections are opened to see what one takes.
const IDLE_CONNECTIONS: usize = 2000;

/// How many logouts are asked for at once.
const LOGOUTS: usize = 32;

struct Bench<'a> {
    plan: &'a Plan,
    upstream: std::net::SocketAddr,
    rsa: Signed,
    /// Where a scenario wants it.
    ec: Option<Signed>,
}

struct Signed {
    issuer: Arc<Issuer>,
    tokens: Vec<HeaderValue>,
}

impl Signed {
    async fn new(issuer: Issuer, count: usize) -> anyhow::Result<Self> {
        let issuer = Arc::new(issuer);
        let tokens = issuer.sign(count).await?;
        Ok(Self { issuer, tokens })
    }
}

/// Runs the plan and prints what came of it. Whether every answer was as expected.
pub(crate) async fn run(plan: &Plan) -> anyhow::Result<bool> {
    let rsa = Signed::new(Issuer::new()?, plan.tokens()).await?;
    let ec = if plan.scenarios.contains(&Scenario::Es256New) {
        Some(Signed::new(Issuer::es256()?, SPARE_TOKENS + plan.tokens_of(Scenario::Es256New)).await?)
    } else {
        None
    };
    if plan.pinned {
        pin_self()?;
    }
    let bench = Bench { plan, upstream: upstream::start().await?, rsa, ec };
    let mut report = Report::new(plan, bench.rsa.tokens[0].len() - "Bearer ".len());
    report.begin();
    for scenario in &plan.scenarios {
        bench.measure(*scenario, &mut report).await.with_context(|| format!("scenario {}", scenario.name()))?;
    }
    report.end()
}

impl Bench<'_> {
    async fn measure(&self, scenario: Scenario, report: &mut Report<'_>) -> anyhow::Result<()> {
        // Goes after the proxies that write into it.
        let directory = tempfile::tempdir()?;
        let setup = Setup {
            directory: directory.path().to_path_buf(),
            upstream: self.upstream,
            gates: &self.plan.gates,
            pinned: self.plan.pinned,
            workers: self.plan.workers,
            busy_poll: self.plan.busy_poll.as_deref(),
            algorithm: if scenario == Scenario::Es256New { "ES256" } else { "RS256" },
            manner: scenario.manner(),
        };
        let issuer = &self.signed(scenario).issuer;
        fs::write(setup.directory.join("jwks.json"), issuer.jwks().to_string())?;
        fs::write(setup.directory.join("key.pem"), issuer.pem()?)?;
        certify(&setup.directory)?;
        let tokens = self.tokens_of(scenario)?;
        let mut rows = Vec::new();
        for kind in self.plan.proxies() {
            let proxy = Proxy::start(kind, &setup).await?;
            self.prepare(scenario, &proxy, &tokens).await?;
            rows.push(Row::new(proxy));
        }
        if !self.plan.smoke {
            measure_idle(&mut rows).await?;
        }
        for number in 0..self.plan.rounds {
            for row in &mut rows {
                eprintln!(
                    "{:<14} round {} of {}: {}",
                    scenario.name(),
                    number + 1,
                    self.plan.rounds,
                    row.kind().name()
                );
                let round = self.round(scenario, row, &tokens, number).await?;
                row.rounds.push(round);
            }
        }
        for row in &mut rows {
            row.memory = row.proxy.memory()?;
            if !self.plan.smoke {
                row.connection = self.measure_connection(scenario, &row.proxy, &tokens).await?;
            }
        }
        report.add(scenario, &rows);
        Ok(())
    }

    /// By how much a kept-alive connection that had one request makes the process grow, in bytes.
    async fn measure_connection(
        &self,
        scenario: Scenario,
        proxy: &Proxy,
        tokens: &Arc<[HeaderValue]>,
    ) -> anyhow::Result<u64> {
        let before = proxy.memory()?;
        let spare = Arc::new(requests(scenario, proxy, &self.spare(scenario, tokens)));
        let clients = Clients::connect(IDLE_CONNECTIONS, &spare).await?;
        let grown = proxy.memory()?.saturating_sub(before);
        drop(clients);
        Ok(grown / IDLE_CONNECTIONS as u64)
    }

    async fn round(
        &self,
        scenario: Scenario,
        row: &Row,
        tokens: &Arc<[HeaderValue]>,
        number: usize,
    ) -> anyhow::Result<Round> {
        let (rate, count) = (self.plan.rate(scenario), self.plan.requests(scenario));
        let spare = requests(scenario, &row.proxy, &self.spare(scenario, tokens));
        // Where tokens repeat, a round goes on where the one before ended.
        let measured = Requests { first: number * count, ..requests(scenario, &row.proxy, tokens) };
        let clients = Clients::connect(self.plan.connections, &Arc::new(spare)).await?;
        let (cpu, begun) = (row.proxy.cpu_time()?, Instant::now());
        let tally = clients.keep_pace(&Arc::new(measured), count, rate).await?;
        let used =
            row.proxy.cpu_time()?.saturating_sub(cpu).saturating_sub(row.idle.mul_f64(begun.elapsed().as_secs_f64()));
        Ok(Round { count, cpu: used.div_f64(count as f64), tally })
    }

    /// What has to be there before: users logged out, tokens seen.
    async fn prepare(&self, scenario: Scenario, proxy: &Proxy, tokens: &Arc<[HeaderValue]>) -> anyhow::Result<()> {
        if scenario == Scenario::Revoked && matches!(proxy.kind, Kind::Gate(_)) {
            let subjects: Vec<String> = (0..tokens.len()).map(|n| tokens::subject(SPARE_TOKENS + n)).collect();
            for some in subjects.chunks(LOGOUTS) {
                try_join_all(some.iter().map(|subject| proxy.log_out(subject))).await?;
            }
        }
        let spare = Arc::new(requests(scenario, proxy, &self.spare(scenario, tokens)));
        let clients = Clients::connect(self.plan.connections, &spare).await?;
        let seen = match (scenario, proxy.kind) {
            (
                Scenario::Repeated1k
                | Scenario::Repeated50k
                | Scenario::Revoked
                | Scenario::Large
                | Scenario::Upload
                | Scenario::NewConnection
                | Scenario::Tls
                | Scenario::Http2,
                Kind::Gate(_),
            ) => tokens,
            // Connections to the upstream, buffers and branch predictors.
            _ => &self.spare(scenario, tokens),
        };
        let count = seen.len().max(if self.plan.smoke { 100 } else { 2000 });
        clients.hurry(&Arc::new(requests(scenario, proxy, seen)), count).await?;
        Ok(())
    }

    fn signed(&self, scenario: Scenario) -> &Signed {
        match &self.ec {
            Some(ec) if scenario == Scenario::Es256New => ec,
            _ => &self.rsa,
        }
    }

    fn tokens_of(&self, scenario: Scenario) -> anyhow::Result<Arc<[HeaderValue]>> {
        let tokens = self.signed(scenario).tokens.iter().skip(SPARE_TOKENS).take(self.plan.tokens_of(scenario));
        match scenario {
            Scenario::NoToken => Ok([].into()),
            Scenario::BadSignature => tokens.map(tokens::with_bad_signature).collect(),
            _ => Ok(tokens.cloned().collect()),
        }
    }

    /// Tokens that get the scenario's answer and are not among those that are measured, where that matters.
    fn spare(&self, scenario: Scenario, tokens: &Arc<[HeaderValue]>) -> Arc<[HeaderValue]> {
        match scenario {
            Scenario::AllNew | Scenario::Es256New => self.signed(scenario).tokens[..SPARE_TOKENS].into(),
            _ => Arc::clone(tokens),
        }
    }
}

fn requests(scenario: Scenario, proxy: &Proxy, tokens: &Arc<[HeaderValue]>) -> Requests {
    Requests {
        address: proxy.address(scenario.manner()),
        path: scenario.path(),
        tokens: Arc::clone(tokens),
        first: 0,
        expected: scenario.expected(proxy.kind),
        manner: scenario.manner(),
    }
}

/// What each proxy uses in a second without requests: the least of several, as the first may still have what the warm-up left
/// to do.
async fn measure_idle(rows: &mut [Row]) -> anyhow::Result<()> {
    for row in rows.iter_mut() {
        row.idle = Duration::MAX;
    }
    for _ in 0..IDLE_SECONDS {
        let before = rows.iter().map(|row| row.proxy.cpu_time()).collect::<anyhow::Result<Vec<_>>>()?;
        sleep(Duration::from_secs(1)).await;
        for (row, before) in rows.iter_mut().zip(before) {
            row.idle = row.idle.min(row.proxy.cpu_time()?.saturating_sub(before));
        }
    }
    Ok(())
}

/// A certificate for all proxies, which the generator trusts.
fn certify(directory: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = CertificateParams::new(vec!["api.example".to_owned()])?.self_signed(&key)?;
    let (certificate_pem, key_pem) = (certificate.pem(), key.serialize_pem());
    fs::write(directory.join("certificate.pem"), &certificate_pem)?;
    fs::write(directory.join("certificate.key"), &key_pem)?;
    fs::write(directory.join("both.pem"), certificate_pem + &key_pem)?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone())?;
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    *TLS.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(config).into());
    Ok(())
}

/// All threads of this process, and those to come.
fn pin_self() -> anyhow::Result<()> {
    let status = Command::new("taskset")
        .args(["-a", "-c", "-p", OWN_CORE, &process::id().to_string()])
        .stdout(Stdio::null())
        .status()
        .context("taskset does not start; `--unpinned` does without it")?;
    ensure!(status.success(), "taskset failed: {status}");
    Ok(())
}
