//! Taking back: `portcullis inactive undo`, and `portcullis unblock --issuer-too`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::{issuer_of, show::Shown, site, words, write};
use crate::{
    cli::{
        Format, Outcome,
        admin::{Gate, Remote, by},
        print,
    },
    config::Config,
    inactive::{
        InactiveError,
        plan::Counts,
        report::{Header, Line, Lines, Report, Summary, UserLine},
        run::new_name,
        undo::{TAKEN_BACK, Undone},
    },
};

/// `portcullis inactive undo`
#[derive(Args, Debug)]
pub(super) struct Undo {
    /// The report of the run
    #[arg(value_name = "REPORT")]
    file: PathBuf,
    /// Unblock them; without it, nothing is changed
    #[arg(long)]
    apply: bool,
    /// Write a report of this too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

impl Undo {
    pub(super) async fn play(&self, config: &Config, gate: Gate, format: Format) -> anyhow::Result<Outcome> {
        let Some(Line::Run(header)) = Lines::open(&self.file)?.next().transpose()? else {
            bail!("`{}` is not the report of a run", self.file.display());
        };
        if header.mode != "block" {
            bail!("`{}` is of a run that blocked nobody ({})", self.file.display(), header.mode);
        }
        let issuer = issuer_of(&gate, Some(&header.issuer)).await?;
        let site = site(config.inactive.clone(), issuer, gate, header.issuer_asked)?;
        if header.issuer_asked && site.tools.users.is_none() {
            bail!(
                "the run blocked users at the issuer too, and the configuration has no Management API for `{}`",
                header.issuer
            );
        }
        let blocked = |line: Result<Line, _>| match line {
            Ok(Line::User(line)) => TAKEN_BACK.contains(&&*line.outcome).then_some(Ok(line)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
        if !self.apply {
            let mut count = 0_u64;
            for line in Lines::open(&self.file)?.filter_map(blocked) {
                line?;
                count += 1;
            }
            print::text(&format!(
                "{count} users that run {} blocked would be unblocked; nothing was changed, --apply does it",
                header.run
            ))?;
            return Ok(Outcome::Done);
        }
        site.check_scopes(&["read:users", "update:users"]).await?;
        let now = site.tools.clock.now();
        let own = Header {
            run: new_name(now),
            mode: "undo".to_owned(),
            started: now.to_string(),
            by: by(),
            ..header.clone()
        };
        let mut report = self.report.as_deref().map(|path| Report::open(path, &own, &[])).transpose()?;
        let mut shown = Shown::new(format, false);
        shown.begin(&own)?;
        let lines = Lines::open(&self.file)?.filter_map(blocked);
        let outcomes = site
            .tools
            .undo(&site.issuer, &header, lines, &by(), &mut |line: &UserLine| {
                shown.user(line).map_err(InactiveError::Output)?;
                write(report.as_mut(), &Line::User(line.clone()))
            })
            .await?;
        let summary = Summary::new(&Counts::default(), &outcomes, site.tools.clock.now());
        write(report.as_mut(), &Line::Summary(summary.clone()))?;
        shown.end(&summary, &words::told(&outcomes, self.report.as_deref(), "nobody was unblocked"))?;
        Ok(if outcomes.contains_key("failed") { Outcome::No } else { Outcome::Done })
    }
}

/// Unblocks a user at the issuer and here.
pub(in crate::cli) async fn unblock(
    config: &Config,
    gate: Gate,
    issuer: Option<&str>,
    user: &str,
    reason: Option<&str>,
) -> anyhow::Result<&'static str> {
    let issuer = issuer_of(&gate, issuer).await?;
    let site = site(config.inactive.clone(), issuer, gate, true)?;
    let issuer = &site.issuer;
    if site.tools.users.is_none() {
        bail!(
            "--issuer-too needs the issuer's Management API; set `management.client_id` and its secret at [issuers.{issuer}]"
        );
    }
    site.check_scopes(&["read:users", "update:users"]).await?;
    let undone = site.tools.unblock(issuer, user, &by(), reason.unwrap_or("unblocked")).await?;
    match undone {
        Undone::Failed(error) => bail!("{error}"),
        undone => Ok(undone.as_str()),
    }
}
