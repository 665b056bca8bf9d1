//! `regentfs bisect`: the first state in which a command fails, and whose step that was.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;

use super::child::Minder;
use super::exit::{Interrupted, Silent, Usage};
use super::log;
use super::output::{Output, Style, ago, count, printable};
use super::pager;
use super::repo::Repo;
use super::scratch::{Fork, Views};
use super::source::{self, Source};
use super::{Which, complete, repo};
use crate::control::protocol::{Between, CandidateRow, Request};
use crate::query::{LogFilter, StepRow};

/// The exit code of a command that cannot judge a state.
const SKIP: i32 = 125;
/// What a shell says of a command that is no program, or is not there.
const CANNOT_RUN: [i32; 2] = [126, 127];

/// Find the first state in which a command fails, between one in which it does not and one in which it does.
///
/// Each state that is looked at is mounted for the command in a place of its own, where it may write; what is mounted otherwise stays as it is. Exit
/// code 0 means that all is well, 125 that this state cannot be judged, any other that it fails.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A state in which the command succeeds: a snapshot, base, @{10 minutes ago}
    #[arg(add = ArgValueCompleter::new(complete::snapshot))]
    start: String,
    /// A later one in which it fails: a snapshot, now
    #[arg(add = ArgValueCompleter::new(complete::snapshot))]
    end: String,
    /// The command, run in the directory that the current one is in each state; REGENTFS_BISECT is the snapshot
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    which: Which,
    /// Show what the command says, on standard error
    #[arg(long, short)]
    verbose: bool,
    /// One JSON object at the end
    #[arg(long)]
    json: bool,
}

/// What a command said of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// One state, with those after it that are the same.
#[derive(Clone, Debug)]
struct Candidate {
    /// `None` for the present.
    id: Option<String>,
    what: String,
    time: String,
}

/// The search itself, over states by number: the first passes, the last fails.
struct Search {
    good: usize,
    bad: usize,
    skipped: Vec<usize>,
}

impl Search {
    /// The state to look at next: the one nearest to the middle.
    fn next(&self) -> Option<usize> {
        let middle = self.good + (self.bad - self.good) / 2;
        let open = (self.good + 1..self.bad).filter(|at| !self.skipped.contains(at));
        open.min_by_key(|at| at.abs_diff(middle))
    }

    fn learn(&mut self, at: usize, verdict: Verdict) {
        match verdict {
            Verdict::Passed => self.good = at,
            Verdict::Failed => self.bad = at,
            Verdict::Skipped => self.skipped.push(at),
        }
    }
}

/// A try, as `--json` shows it.
#[derive(Serialize)]
struct TryRow {
    snapshot: String,
    result: &'static str,
    exit: Option<i32>,
    signal: Option<i32>,
}

/// What was found (docs/JSON.md).
#[derive(Serialize)]
struct FoundRow {
    first_bad: Option<String>,
    last_good: String,
    time: Option<String>,
    what: Option<String>,
    steps: Vec<StepRow>,
    suspects: Vec<String>,
    tries: Vec<TryRow>,
}

/// All that a try needs.
struct Bisect<'a> {
    args: &'a Args,
    repo: Repo,
    /// Of the current directory, below the root.
    below: PathBuf,
    minder: Minder,
    views: Views,
    out: Output,
    /// By snapshot: who did what.
    steps: HashMap<String, Vec<StepRow>>,
    candidates: Vec<Candidate>,
    /// The timeline that was made of the present, so that it does not move any more.
    present: Option<Fork>,
    tries: Vec<TryRow>,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let candidates = candidates(&repo, args)?;
    if candidates.len() < 2 {
        let why = format!("nothing was changed between {} and {}: there is nothing to look for", args.start, args.end);
        return Err(Usage(why).into());
    }
    let below = below(&repo);
    let minder = Minder::watch().context("cannot watch for signals")?;
    let mut views = Views::new(&repo, &minder, "bisect")?;
    // Before anything is mounted: it is the present of what this command is about.
    let present = match candidates.last() {
        Some(Candidate { id: None, .. }) => Some(views.fork(None)?),
        _ => None,
    };
    let steps = steps(&repo)?;
    let (out, tries) = (Output::new(), Vec::new());
    let mut bisect = Bisect { args, repo, below, minder, views, out, steps, candidates, present, tries };
    let found = bisect.search();
    let Bisect { views, minder, .. } = bisect;
    let left = views.close();
    match (found, left) {
        (Ok(()), left) => left,
        // Whatever went wrong then went wrong because of that.
        (Err(_), Ok(())) if minder.is_asked() => Err(anyhow!("nothing is left of it").context(Interrupted)),
        (Err(_), Err(left)) if minder.is_asked() => Err(left.context(Interrupted)),
        (Err(error), left) => {
            if let Err(left) = left {
                pager::remark(&format!("regentfs: {left:#}"));
            }
            Err(error)
        }
    }
}

/// The states to look at, the older end first, without those that are the same as the one before.
fn candidates(repo: &Repo, args: &Args) -> Result<Vec<Candidate>> {
    let mut found: Vec<Candidate> = Vec::new();
    let request = Request::Candidates(Between { from: args.start.clone(), to: args.end.clone() });
    Source::of(repo)?.ask(&request, &mut |row: CandidateRow| {
        if !row.same {
            found.push(Candidate { id: row.snapshot, what: row.what, time: row.time });
        }
        Ok(())
    })?;
    Ok(found)
}

/// The steps that changed something, by the snapshot that each ended in.
fn steps(repo: &Repo) -> Result<HashMap<String, Vec<StepRow>>> {
    let mut steps: HashMap<String, Vec<StepRow>> = HashMap::new();
    Source::of(repo)?.ask(&Request::Log(LogFilter::default()), &mut |row: StepRow| {
        if let Some(id) = row.snapshot.clone() {
            steps.entry(id).or_default().push(row);
        }
        Ok(())
    })?;
    Ok(steps)
}

/// The current directory below the root of the repository; nothing when it is elsewhere.
fn below(repo: &Repo) -> PathBuf {
    let Ok(here) = std::env::current_dir() else { return PathBuf::new() };
    let mut roots = source::mountpoints(repo);
    roots.push(repo.root.clone());
    roots.iter().find_map(|root| here.strip_prefix(root).ok()).map(Path::to_owned).unwrap_or_default()
}

impl Bisect<'_> {
    fn search(&mut self) -> Result<()> {
        let last = self.candidates.len() - 1;
        for (at, name, wanted) in [(0, &self.args.start, Verdict::Passed), (last, &self.args.end, Verdict::Failed)] {
            let said = match self.try_one(at)? {
                verdict if verdict == wanted => continue,
                Verdict::Passed => "the command succeeds in it, so it did not begin to fail before",
                Verdict::Failed => "the command fails in it already: begin at an earlier state",
                Verdict::Skipped => "the command cannot judge it: choose another state",
            };
            return Err(Usage(format!("{name}: {said}")).into());
        }
        let mut search = Search { good: 0, bad: last, skipped: Vec::new() };
        while let Some(at) = search.next() {
            let verdict = self.try_one(at)?;
            search.learn(at, verdict);
        }
        self.tell(&search)
    }

    fn candidate(&self, at: usize) -> Result<&Candidate> {
        self.candidates.get(at).context("a state that is not there")
    }

    /// Runs the command in a state.
    fn try_one(&mut self, at: usize) -> Result<Verdict> {
        if self.minder.is_asked() {
            return Err(Interrupted.into());
        }
        let candidate = self.candidate(at)?.clone();
        let fork = match (&candidate.id, self.present.take()) {
            (Some(id), present) => {
                self.present = present;
                self.views.fork(Some(id))?
            }
            (None, Some(present)) => present,
            (None, None) => bail!("the present was looked at already"),
        };
        if let Some(found) = self.candidates.get_mut(at) {
            found.id = Some(fork.at.clone());
        }
        let status = self.run_in(&fork);
        // Also after an error; what could not be done then is tried once more at the end, and told.
        let hidden = self.views.hide(&fork);
        let status = status?;
        hidden?;
        if self.minder.is_asked() {
            return Err(Interrupted.into());
        }
        let verdict = self.judge(status)?;
        self.say(&fork.at, &candidate, verdict, status)?;
        let result = match verdict {
            Verdict::Passed => "ok",
            Verdict::Failed => "failed",
            Verdict::Skipped => "skipped",
        };
        self.tries.push(TryRow { snapshot: fork.at, result, exit: status.code(), signal: status.signal() });
        Ok(verdict)
    }

    fn run_in(&mut self, fork: &Fork) -> Result<ExitStatus> {
        let view = self.views.show(fork)?;
        let mut dir = view.at.join(&self.below);
        if !dir.is_dir() {
            dir = view.at.clone();
        }
        let (program, arguments) = self.args.command.split_first().context("no command")?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&dir).env("PWD", &dir).env("REGENTFS_BISECT", &fork.at);
        // Every try finds the same there.
        command.stdin(Stdio::null());
        if self.args.verbose {
            command.stdout(File::from(std::io::stderr().as_fd().try_clone_to_owned()?));
        } else {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        let status = self.minder.run(&mut command).with_context(|| {
            let program = program.display();
            format!("{program} cannot be run in {}: a path is looked up there, a name in PATH", fork.at)
        })?;
        if !view.is_there() {
            bail!("{} was taken away while the command ran in it", view.at.display());
        }
        Ok(status)
    }

    /// # Errors
    /// When the command could not do its work, or somebody ended it: that says nothing about the state.
    fn judge(&self, status: ExitStatus) -> Result<Verdict> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM};
        let hidden = if self.args.verbose { "" } else { "; --verbose shows what it says" };
        match (status.code(), status.signal()) {
            (Some(0), _) => Ok(Verdict::Passed),
            (Some(SKIP), _) => Ok(Verdict::Skipped),
            (Some(code), _) if CANNOT_RUN.contains(&code) => {
                bail!("the command cannot be run (exit {code}), which says nothing about a state{hidden}")
            }
            (None, Some(signal)) if [SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGTERM].contains(&signal) => {
                bail!("the command was ended by signal {signal}, which says nothing about a state")
            }
            _ => Ok(Verdict::Failed),
        }
    }

    /// Who did it, or what it was.
    fn what(&self, id: &str, candidate: &Candidate) -> String {
        match self.steps.get(id).map(Vec::as_slice) {
            Some([one]) => log::what(one),
            Some([one, more @ ..]) => format!("{} and {} more", log::what(one), more.len()),
            Some([]) | None => candidate.what.clone(),
        }
    }

    fn say(&mut self, id: &str, candidate: &Candidate, verdict: Verdict, status: ExitStatus) -> Result<()> {
        if self.args.json {
            return Ok(());
        }
        let (style, result) = match (verdict, status.code(), status.signal()) {
            (Verdict::Passed, ..) => (Style::Green, "ok".to_owned()),
            (Verdict::Skipped, ..) => (Style::Dim, "skipped".to_owned()),
            (Verdict::Failed, Some(code), _) => (Style::Red, format!("failed (exit {code})")),
            (Verdict::Failed, None, signal) => (Style::Red, format!("failed (signal {})", signal.unwrap_or_default())),
        };
        let (when, what) = (ago(&candidate.time), printable(&self.what(id, candidate)));
        let line =
            format!("{}  {when:>10}  {what}: {}", self.out.style(Style::Yellow, id), self.out.style(style, &result));
        self.out.line(&line)?;
        Ok(self.out.flush()?)
    }

    fn tell(&mut self, search: &Search) -> Result<()> {
        let id = |at: usize| -> Result<String> { Ok(self.candidate(at)?.id.clone().unwrap_or_default()) };
        let last_good = id(search.good)?;
        let suspects: Vec<String> = (search.good + 1..=search.bad).map(id).collect::<Result<_>>()?;
        let tries = std::mem::take(&mut self.tries);
        let [first_bad] = suspects.as_slice() else {
            let found = FoundRow {
                first_bad: None,
                last_good,
                time: None,
                what: None,
                steps: Vec::new(),
                suspects: suspects.clone(),
                tries,
            };
            if self.args.json {
                self.out.json(&found)?;
            } else {
                let states = count(suspects.len() as u64, "snapshot");
                self.out.line(&format!("the first that fails is one of {states}: {}", suspects.join(", ")))?;
                self.out.line("the others could not be judged (exit 125)")?;
            }
            self.out.flush()?;
            return Err(Silent(1).into());
        };
        let candidate = self.candidate(search.bad)?.clone();
        // The step that it was may have been sealed only by now.
        if !self.steps.contains_key(first_bad) {
            self.steps = steps(&self.repo)?;
        }
        let steps = self.steps.get(first_bad).cloned().unwrap_or_default();
        if self.args.json {
            let (time, what) = (Some(candidate.time), Some(candidate.what));
            let first_bad = Some(first_bad.clone());
            let found = FoundRow { first_bad, last_good, time, what, steps, suspects: Vec::new(), tries };
            self.out.json(&found)?;
            return Ok(self.out.flush()?);
        }
        let (when, what) = (ago(&candidate.time), printable(&candidate.what));
        let id = self.out.style(Style::Yellow, first_bad);
        self.out.line("")?;
        self.out.line(&format!("first failing snapshot: {id}  {when}  {what}"))?;
        for step in &steps {
            let who = step.agent.as_deref().unwrap_or(&step.by);
            let did = printable(&log::what(step));
            self.out.line(&format!("{:<10}{} of {} ({})", "Step:", step.step, step.session, printable(who)))?;
            self.out.line(&format!("{:<10}{did}", if step.kind == "command" { "Command:" } else { "Did:" }))?;
            if let Some(prompt) = prompt(step) {
                self.out.line(&format!("{:<10}{}", "Prompt:", printable(&prompt)))?;
            }
        }
        self.out.line(&format!("what it changed: regentfs show {first_bad}"))?;
        Ok(self.out.flush()?)
    }
}

/// What the agent was asked to do, where the row says it.
fn prompt(step: &StepRow) -> Option<String> {
    let row = serde_json::to_value(step).ok()?;
    row.get("prompt")?.as_str().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks for the first bad one of so many states; says what was found and after how many tries.
    fn searched(states: usize, first_bad: usize, skipped: &[usize]) -> ((usize, usize), usize) {
        let mut search = Search { good: 0, bad: states - 1, skipped: Vec::new() };
        let mut tries = 0;
        while let Some(at) = search.next() {
            tries += 1;
            let verdict = match at {
                at if skipped.contains(&at) => Verdict::Skipped,
                at if at >= first_bad => Verdict::Failed,
                _ => Verdict::Passed,
            };
            search.learn(at, verdict);
        }
        ((search.good, search.bad), tries)
    }

    #[test]
    fn the_border_is_found_in_few_tries() {
        for states in 2..70_usize {
            for first_bad in 1..states {
                let (found, tries) = searched(states, first_bad, &[]);
                assert_eq!(found, (first_bad - 1, first_bad), "{states} states");
                assert!(tries <= (states - 1).next_power_of_two().ilog2() as usize, "{states}, {first_bad}: {tries}");
            }
        }
    }

    #[test]
    fn what_cannot_be_judged_is_gone_around() {
        assert_eq!(searched(10, 6, &[4, 5]).0, (3, 6), "one of three");
        assert_eq!(searched(10, 3, &[4, 5]).0, (2, 3));
        assert_eq!(searched(10, 8, &[4, 5]).0, (7, 8));
        assert_eq!(searched(4, 2, &[1, 2]).0, (0, 3));
    }
}
