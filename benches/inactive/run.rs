//! A run against inactive users of a large tenant: all users are looked at, and some blocked. The tenant is a process of its own, so that
//! its work does not count as the gate's.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use portcullis::{
    activity::{ActivitySettings, Recorder, upkeep::UpkeepSettings},
    clock::{Clock, Timestamp},
    http_client::HttpClient,
    inactive::{
        Tools,
        exclusion::Exclusions,
        find::Question,
        progress::{Progress, Step},
        records::Direct,
        report::UserLine,
        run::{Outcomes, Run},
    },
    management::{
        listing::Listing,
        observer::Observer,
        pace::RateShare,
        tenant::{Tenant, TenantSettings},
        users::Users,
    },
    marker::{
        Retention,
        cache::{MarkerCache, MarkerSettings},
        ledger::Ledger,
    },
    store::Watcher,
    token::claims::{IssuerName, Subject},
};
use tokio::time::Instant;

use crate::{
    auth0::{Auth0, CLIENT_ID, CLIENT_SECRET, Population},
    cost::Watch,
    place::Place,
    plan::Plan,
};

const DAY: Duration = Duration::from_secs(86_400);

/// Every so manieth user was seen here too.
const SEEN: u64 = 10;

/// How many are recorded at once.
const BATCH: usize = 5000;

/// Serves a tenant with so many users until nobody wants it any more.
pub(crate) async fn serve_tenant(users: u64) -> anyhow::Result<()> {
    let tenant = Auth0::start().await?;
    tenant.populate(Population::of(users));
    tenant.set_export_time(Duration::from_millis(100));
    tenant.keep_calls(0);
    println!("{}", tenant.base());
    std::io::stdout().flush()?;
    // Whoever started it holds the other end.
    tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new())).await??;
    Ok(())
}

/// The process of a tenant. Dropped, it ends.
struct Served {
    child: Child,
    _input: ChildStdin,
    base: String,
}

impl Served {
    fn start(users: u64) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--tenant", &users.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().context("no input")?;
        let mut base = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut base)?;
        Ok(Self { child, _input: input, base: base.trim().to_owned() })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Remembers how much memory was in use at most.
#[derive(Default, Debug)]
struct Looked {
    users: AtomicU64,
    most: AtomicU64,
}

impl Observer for Looked {}

impl Progress for Looked {
    fn begin(&self, step: Step, _: Option<u64>) {
        eprintln!("  {}", step.as_str());
    }

    fn advance(&self, users: u64) {
        self.users.fetch_add(users, Ordering::Relaxed);
        self.most.fetch_max(resident().unwrap_or_default(), Ordering::Relaxed);
    }
}

/// Memory that this process has in use, in bytes.
fn resident() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel tells no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

pub(crate) async fn run(plan: &Plan, place: Place) -> anyhow::Result<()> {
    let clock = Clock::System;
    let issuer: IssuerName = "bench".try_into()?;
    let tenant = Served::start(plan.subjects)?;
    let cache = Arc::new(MarkerCache::new(MarkerSettings::default()));
    let (store, notes) = place.open_with_notes(Arc::clone(&cache) as Arc<dyn Watcher>).await?;

    let population = Population::of(plan.subjects);
    let mut batch = Vec::new();
    for number in (0..plan.subjects).step_by(usize::try_from(SEEN)?) {
        // Half of them lately, half of them long ago.
        let days = if number % (2 * SEEN) == 0 { 3 } else { 200 };
        let id = population.id(number).as_str().try_into()?;
        batch.push((Subject { issuer: issuer.clone(), id }, clock.now().minus(DAY * days)));
        if batch.len() == BATCH || number + SEEN >= plan.subjects {
            store.record_activity(&std::mem::take(&mut batch)).await?;
        }
    }

    let retention = Retention { max_token_lifetime: DAY, clock_skew: Duration::from_secs(1), session: 30 * DAY };
    let ledger = Ledger::new(Arc::clone(&store), cache, retention, Duration::from_secs(10), clock.clone());
    let (activity, upkeep) = (ActivitySettings::default(), UpkeepSettings::default());
    let recorder = Arc::new(Recorder::new(activity, clock.clone()));
    let records = Arc::new(Direct::new(ledger, recorder, notes, activity, upkeep, clock.clone()));
    let looked = Arc::new(Looked::default());
    let settings = TenantSettings {
        base: tenant.base.parse()?,
        client_id: CLIENT_ID.into(),
        client_secret: CLIENT_SECRET.into(),
        audience: format!("{}/api/v2/", tenant.base).into(),
        rate_share: RateShare::percent(100),
    };
    let management = Tenant::new(settings, HttpClient::new()?, clock.clone());
    let users = Users::new(management, Arc::clone(&looked) as Arc<dyn Observer>);
    let progress = Arc::clone(&looked) as Arc<dyn Progress>;
    let tools = Tools { records, users: Some(users), progress, clock: clock.clone() };
    let question = Question {
        issuer: issuer.clone(),
        since: clock.now().minus(90 * DAY),
        recorded_since: Some(Timestamp::from_secs(0)),
        login_lifetime: None,
        last_active_lifetime: None,
        exclusions: Exclusions::default(),
        listing: Listing::default(),
    };

    let before = resident()?;
    let watch = Watch::start(place.server())?;
    let found = tools.find(&question).await?;
    println!("{}", watch.stop(plan.subjects)?.show("user looked at"));
    let counts = &found.counts;
    ensure!(counts.known == plan.subjects, "{} users instead of {}", counts.known, plan.subjects);
    ensure!(counts.inactive > plan.subjects / 20 && counts.uncertain == 0, "{counts:?}");
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "  {} are inactive; memory {} MiB before, {} MiB at most",
        counts.inactive,
        mib(before),
        mib(looked.most.load(Ordering::Relaxed))
    );

    let begun = Instant::now();
    let (mut after, mut read) = (None, 0_u64);
    loop {
        let page = found.page(true, after.as_ref(), 1000).await?;
        let Some(last) = page.last() else { break };
        (after, read) = (Some(last.clone()), read + page.len() as u64);
    }
    ensure!(read == counts.inactive, "{read} in pages, {} counted", counts.inactive);
    println!("  the plan, read in pages of 1,000: {:.2?}", begun.elapsed());

    let mut run = Run::begin(tools.clone(), question, "bench", "bench").await?;
    let watch = Watch::start(place.server())?;
    let mut told = 0;
    let mut sink = |_: &UserLine| {
        told += 1;
        Ok(())
    };
    let mut outcomes = Outcomes::new();
    run.block(&found, Some(plan.block), None, &mut outcomes, &mut sink).await?;
    println!("{}", watch.stop(plan.block)?.show("user blocked"));
    ensure!(told == plan.block && outcomes.get("blocked") == Some(&plan.block), "{outcomes:?}");
    run.end(true).await?;
    store.close().await;
    Ok(())
}
