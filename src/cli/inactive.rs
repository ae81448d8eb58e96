//! `portcullis inactive`

mod remote;
mod show;
mod undo;
mod words;

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand, ValueEnum};

pub(super) use self::undo::unblock;
use self::{remote::Remote as RemoteRecords, show::Shown, undo::Undo};
use super::{
    Format, Outcome,
    admin::{Gate, Remote, by},
    load, progress, runtime,
    serve::wait_for_signal,
};
use crate::{
    clock::{Clock, Timestamp},
    config::{
        Config,
        inactive::{percent, time},
    },
    http_client::HttpClient,
    inactive::{
        InactiveError, Tools,
        find::Question,
        progress::Progress,
        report::{Line, Report, Summary, UserLine},
        run::{Outcomes, Run, new_name},
        settings::InactiveSettings,
    },
    management::{access::Extent, listing::Way, observer::Observer, tenant::Tenant, users::Users},
    token::claims::IssuerName,
};

/// `portcullis inactive`
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  portcullis inactive --for 90d                                  lists them; changes nothing\n  portcullis inactive --for 90d --output csv > inactive.csv\n  portcullis inactive --for 90d --block                          shows what would be done\n  portcullis inactive --for 90d --block --apply --report run.ndjson\n  portcullis inactive undo run.ndjson --apply\n\nDefaults come from `[inactive]` of the configuration. See docs/inactive-users.md before a first run."
)]
pub(super) struct Inactive {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    find: Find,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Takes back what a run did, by its report
    #[command(after_help = "Example:\n  portcullis inactive undo run.ndjson --apply")]
    Undo(Undo),
}

#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
struct Find {
    /// How long users have to have been inactive, such as 90d; from the configuration unless given
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    inactive_for: Option<Duration>,
    /// The issuer's short name; needed when there are several
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Only users of this connection of the issuer
    #[arg(long, value_name = "NAME")]
    connection: Option<String>,
    /// Leave out a user by the id, or all whose ids are so, with `*` for anything; can be given several times
    #[arg(long, value_name = "USER")]
    exclude: Vec<String>,
    /// Leave out the users that stand in a file, one in each line
    #[arg(long, value_name = "FILE")]
    exclude_file: Vec<PathBuf>,
    /// Leave out the members of this role at the issuer; can be given several times
    #[arg(long, value_name = "ROLE")]
    exclude_role: Vec<String>,
    /// Look at machine clients too, `…@clients`, which are left out otherwise
    #[arg(long)]
    include_clients: bool,
    /// At most so many, the longest inactive first
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// Write a report, a JSON object in each line; a run is taken back by it. With --apply, one is written to
    /// inactive-ISSUER-RUN.ndjson unless told otherwise
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write no report: the run cannot be taken back
    #[arg(long, requires = "apply", conflicts_with = "report")]
    no_report: bool,
    /// How long anybody can go on at most without logging in again: then an old `last_login` proves inactivity too
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    login_lifetime: Option<Duration>,
    /// How often at least the tenant writes `app_metadata.last_active` of whoever is active: then it proves inactivity too
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    last_active_lifetime: Option<Duration>,
    /// Vouch for complete recording since then, whatever the gate knows of it: a day, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    recorded_since: Option<Timestamp>,
    /// Search for users instead of having them exported: for small tenants
    #[arg(long)]
    search: bool,
    /// Do not ask the issuer: look at what is recorded here, and block here only
    #[arg(long)]
    markers_only: bool,
    /// Say whom it would block, at the issuer and here; with --apply, block them
    #[arg(long)]
    block: bool,
    /// Block them; without it, nothing is changed
    #[arg(long, requires = "block")]
    apply: bool,
    /// Do not ask before blocking; without a terminal nobody is asked
    #[arg(long)]
    yes: bool,
    /// Block nobody if it would be more than so many; 1000 unless configured
    #[arg(long, value_name = "NUMBER", requires = "block")]
    max: Option<u64>,
    /// Block nobody if it would be more than such a share of all users; 5% unless configured
    #[arg(long, value_name = "PERCENT", requires = "block", value_parser = share)]
    max_share: Option<f64>,
    /// What to revoke at the issuer of those who are blocked
    #[arg(long, value_enum, value_name = "WHAT", requires = "block")]
    revoke: Option<Revoke>,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Revoke {
    /// Nothing
    None,
    /// Their sessions
    Session,
    /// Their refresh tokens
    RefreshTokens,
    /// Both
    All,
}

impl Revoke {
    const fn extent(self) -> Option<Extent> {
        match self {
            Self::None => None,
            Self::Session => Some(Extent::Session),
            Self::RefreshTokens => Some(Extent::RefreshTokens),
            Self::All => Some(Extent::All),
        }
    }
}

fn moment(text: &str) -> Result<Timestamp, String> {
    time(text).ok_or_else(|| "write a day such as 2026-01-31, or a time such as 2026-01-31T12:00:00Z".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    percent(text).ok_or_else(|| "write a share such as 5%".to_owned())
}

/// A gate, and the issuer's users.
struct Site {
    tools: Tools,
    issuer: IssuerName,
    settings: InactiveSettings,
}

impl Inactive {
    pub(super) fn run(self, path: &Path, format: Format) -> anyhow::Result<Outcome> {
        let config = load(path)?;
        let runtime = runtime()?;
        let outcome = runtime.block_on(async {
            match self.action {
                Some(Action::Undo(undo)) => {
                    let gate = undo.remote.gate(path)?;
                    undo.play(&config, gate, format).await
                }
                None => {
                    let gate = self.find.remote.gate(path)?;
                    self.find.play(&config, gate, format).await
                }
            }
        });
        // Nobody waits for an answer that is not wanted any more.
        runtime.shutdown_background();
        outcome
    }

    /// The same with a gate that is known.
    pub(super) async fn play(self, config: &Config, gate: Gate, format: Format) -> anyhow::Result<Outcome> {
        match self.action {
            Some(Action::Undo(undo)) => undo.play(config, gate, format).await,
            None => self.find.play(config, gate, format).await,
        }
    }
}

/// What a run works with: the gate's store, and the issuer unless it is not to be asked.
fn site(settings: InactiveSettings, issuer: IssuerName, gate: Gate, ask_issuer: bool) -> anyhow::Result<Site> {
    let clock = Clock::System;
    let progress = Arc::new(progress::Shown::new(clock.clone()));
    let tenant = settings.tenants.get(&issuer).filter(|_| ask_issuer).cloned();
    let users = match tenant {
        Some(tenant) => {
            let tenant = Tenant::new(tenant, HttpClient::new()?, clock.clone());
            Some(Users::new(tenant, Arc::clone(&progress) as Arc<dyn Observer>))
        }
        None => None,
    };
    let progress = progress as Arc<dyn Progress>;
    Ok(Site { tools: Tools { records: Arc::new(RemoteRecords(gate)), users, progress, clock }, issuer, settings })
}

async fn issuer_of(gate: &Gate, given: Option<&str>) -> anyhow::Result<IssuerName> {
    let name = gate.issuer(given).await?;
    IssuerName::try_from(&*name).map_err(|fault| anyhow!("the issuer's name {fault}"))
}

impl Site {
    /// Refuses what would fail later, as far as the issuer tells: credentials, and what they are for.
    async fn check_scopes(&self, needed: &[&str]) -> anyhow::Result<()> {
        let Some(users) = &self.tools.users else { return Ok(()) };
        users.tenant().log_in().await.context("the issuer's Management API cannot be used")?;
        let lacking = users.tenant().lacks(needed);
        if lacking.is_empty() {
            return Ok(());
        }
        bail!("the application may not do this: in the tenant, grant it {} on the Management API", lacking.join(", "));
    }
}

impl Find {
    async fn play(&self, config: &Config, gate: Gate, format: Format) -> anyhow::Result<Outcome> {
        let settings = self.settings(&config.inactive)?;
        let issuer = issuer_of(&gate, self.issuer.as_deref()).await?;
        let inactive_for = settings.inactive_for.ok_or_else(|| {
            anyhow!("how long users have to have been inactive is not known: give --for, such as --for 90d")
        })?;
        let site = site(settings, issuer, gate, !self.markers_only)?;
        self.check_needs(&site)?;
        let mut needed = vec!["read:users"];
        if self.apply {
            needed.push("update:users");
            match site.settings.revoke {
                Some(Extent::Session) => needed.push("delete:sessions"),
                Some(Extent::RefreshTokens) => needed.push("delete:refresh_tokens"),
                Some(Extent::All) => needed.extend(["delete:sessions", "delete:refresh_tokens"]),
                None => {}
            }
        }
        if !site.settings.exclude_roles.is_empty() {
            needed.push("read:roles");
        }
        if site.settings.connection.is_some() && site.settings.way == Way::Export {
            needed.push("read:connections");
        }
        site.check_scopes(&needed).await?;
        let now = site.tools.clock.now();
        let mut question = site.settings.question(site.issuer.clone(), inactive_for, now);
        site.tools.exclude_roles(&mut question, &site.settings.exclude_roles).await?;
        if self.apply {
            let asked = site.settings.asked(inactive_for);
            return self.apply(site, question, &asked, format).await;
        }
        self.look(&site, &question, format).await
    }

    /// The configuration's settings, and the command line's over them.
    fn settings(&self, configured: &InactiveSettings) -> anyhow::Result<InactiveSettings> {
        let mut settings = configured.clone();
        settings.inactive_for = self.inactive_for.or(settings.inactive_for);
        settings.login_lifetime = self.login_lifetime.or(settings.login_lifetime);
        settings.last_active_lifetime = self.last_active_lifetime.or(settings.last_active_lifetime);
        settings.recorded_since = self.recorded_since.or(settings.recorded_since);
        settings.connection = self.connection.as_deref().map(Into::into).or(settings.connection);
        settings.limit = self.limit.or(settings.limit);
        settings.exclusions.machines |= self.include_clients;
        if self.search {
            settings.way = Way::Search;
        }
        for user in &self.exclude {
            settings.exclusions.add(user);
        }
        for file in &self.exclude_file {
            let text = fs::read_to_string(file).with_context(|| format!("`{}` cannot be read", file.display()))?;
            settings.exclusions.add_lines(&text);
        }
        settings.exclude_roles.extend(self.exclude_role.iter().map(|role| role.as_str().into()));
        settings.brakes.max = self.max.unwrap_or(settings.brakes.max);
        settings.brakes.max_share = self.max_share.unwrap_or(settings.brakes.max_share);
        if let Some(revoke) = self.revoke {
            settings.revoke = revoke.extent();
        }
        Ok(settings)
    }

    fn check_needs(&self, site: &Site) -> anyhow::Result<()> {
        if site.tools.users.is_some() {
            return Ok(());
        }
        let issuer = &site.issuer;
        let needs = [
            ("--connection", site.settings.connection.is_some()),
            ("--exclude-role", !site.settings.exclude_roles.is_empty()),
            ("--revoke", site.settings.revoke.is_some() && self.block),
            ("--search", self.search),
        ];
        for (what, needed) in needs {
            if needed {
                bail!(
                    "{what} needs the issuer's Management API; set `management.client_id` and its secret at [issuers.{issuer}]"
                );
            }
        }
        if !self.markers_only {
            warn(&format!(
                "issuer {issuer} has no Management API in the configuration: only users that were admitted here are known, and they \
                 are blocked here only\n"
            ));
        }
        Ok(())
    }

    /// Without changing anything.
    async fn look(&self, site: &Site, question: &Question, format: Format) -> anyhow::Result<Outcome> {
        let (tools, settings) = (&site.tools, &site.settings);
        let started = tools.clock.now();
        let mode = if self.block { "dry_run" } else { "report" };
        let header = tools.header(question, &new_name(started), started, mode, &by()).await?;
        let mut report = self.report.as_deref().map(|path| Report::open(path, &header, &[])).transpose()?;
        let plan = tools.find(question).await?;
        let mut shown = Shown::new(format, !self.block);
        shown.begin(&header)?;
        tools
            .report(&plan, settings.limit, true, &mut |line: &UserLine| {
                shown.user(line).map_err(InactiveError::Output)?;
                write(report.as_mut(), &Line::User(line.clone()))
            })
            .await?;
        let summary = Summary::new(&plan.counts, &Outcomes::new(), tools.clock.now());
        write(report.as_mut(), &Line::Summary(summary.clone()))?;
        let mut words = words::found(&plan, &question.issuer, tools.users.is_some());
        if self.block {
            let planned = settings.limit.unwrap_or(u64::MAX).min(plan.counts.inactive);
            let _ = write!(words, "\n{planned} would be blocked; nothing was changed, --apply does it");
            if let Err(braked) = settings.brakes.check(planned, plan.counts.known) {
                let _ = write!(words, "\nit would be refused: {braked}");
            }
        }
        shown.end(&summary, &words)?;
        Ok(Outcome::Done)
    }

    async fn apply(&self, site: Site, question: Question, asked: &str, format: Format) -> anyhow::Result<Outcome> {
        let owner = format!("{}:{}", by(), new_name(site.tools.clock.now()));
        let mut run = Run::begin(site.tools.clone(), question, asked, &owner).await?;
        let result = tokio::select! {
            result = self.work(&site, &mut run, format) => result,
            signal = wait_for_signal() => {
                signal?;
                Err(anyhow!("interrupted; start again, and it goes on where it was"))
            }
        };
        // Refused by brakes or by people, it goes on when it is asked for again, with the same export.
        let ended = run.end(matches!(result, Ok(Some(_)))).await;
        let outcome = result?;
        ended?;
        Ok(outcome.unwrap_or(Outcome::No))
    }

    /// `None`: whoever was asked did not agree.
    async fn work(&self, site: &Site, run: &mut Run, format: Format) -> anyhow::Result<Option<Outcome>> {
        let Site { tools, settings, issuer } = site;
        let header = run.header(&by()).await?;
        let mut shown = Shown::new(format, false);
        if run.resumed {
            let before = run.blocked_before();
            shown
                .say(&format!("run {} goes on; it had blocked {before} users before it was interrupted", run.name()))?;
        }
        let unfinished = run.unfinished();
        // What was blocked is taken back by it.
        let path = match &self.report {
            Some(path) => Some(path.clone()),
            None if self.no_report => None,
            None => Some(PathBuf::from(format!("inactive-{issuer}-{}.ndjson", run.name()))),
        };
        let mut report = path.as_deref().map(|path| Report::open(path, &header, &unfinished)).transpose()?;
        shown.begin(&header)?;
        let mut outcomes = Outcomes::new();
        {
            let mut sink = |line: &UserLine| {
                shown.user(line).map_err(InactiveError::Output)?;
                write(report.as_mut(), &Line::User(line.clone()))
            };
            run.repair(&mut outcomes, &mut sink).await?;
        }
        let plan = run.find().await?;
        let words = words::found(&plan, issuer, tools.users.is_some());
        let planned = run.planned(&plan, settings.limit);
        let braked = run.check(&plan, settings.limit, &settings.brakes);
        if format == Format::Text {
            shown.say(&words)?;
        }
        let refused = match braked {
            Err(braked) => Some(InactiveError::Braked(braked)),
            Ok(()) if planned > 0 && !self.agreed(planned, tools.users.is_some()).await? => {
                shown.say(&words::told(&outcomes, None, "nobody was blocked"))?;
                return Ok(None);
            }
            Ok(()) => {
                let mut sink = |line: &UserLine| {
                    shown.user(line).map_err(InactiveError::Output)?;
                    write(report.as_mut(), &Line::User(line.clone()))
                };
                let blocked = run.block(&plan, settings.limit, settings.revoke, &mut outcomes, &mut sink).await;
                if blocked.is_err() {
                    shown.say(&words::told(&outcomes, path.as_deref(), "nobody was blocked"))?;
                }
                blocked?;
                None
            }
        };
        let summary = Summary::new(&plan.counts, &outcomes, tools.clock.now());
        if refused.is_none() {
            write(report.as_mut(), &Line::Summary(summary.clone()))?;
        }
        if let Some(report) = &report {
            report.sync()?;
        }
        shown.end(&summary, &words::told(&outcomes, path.as_deref(), "nobody was blocked"))?;
        match refused {
            Some(refused) => Err(refused.into()),
            None if outcomes.contains_key("failed") || outcomes.contains_key("unfinished") => Ok(Some(Outcome::No)),
            None => Ok(Some(Outcome::Done)),
        }
    }

    /// Whether whoever sits at the terminal agrees; without one, or with --yes, nobody is asked.
    #[expect(clippy::print_stdout, reason = "it is a question to people")]
    async fn agreed(&self, planned: u64, at_issuer: bool) -> anyhow::Result<bool> {
        if self.yes || !io::stdin().is_terminal() {
            return Ok(true);
        }
        let place = if at_issuer { "at the issuer and here" } else { "here" };
        let question = format!("Block {planned} users {place}? [y/N] ");
        if io::stderr().is_terminal() {
            warn(&question);
        } else if io::stdout().is_terminal() {
            print!("{question}");
            io::stdout().flush()?;
        } else {
            bail!("nobody can be asked whether {planned} users are to be blocked; say so with --yes");
        }
        let answer = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            io::stdin().lock().read_line(&mut answer).map(|_| answer)
        });
        Ok(matches!(answer.await??.trim(), "y" | "Y" | "yes"))
    }
}

/// Words beside the output. Whoever has closed that misses them, and nothing else.
fn warn(words: &str) {
    let mut out = io::stderr().lock();
    let _ = out.write_all(words.as_bytes()).and_then(|()| out.flush());
}

fn write(report: Option<&mut Report>, line: &Line) -> Result<(), InactiveError> {
    Ok(report.map_or(Ok(()), |report| report.write(line))?)
}
