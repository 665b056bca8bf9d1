//! `regentfs completion`: what a shell has to know; and `regentfs __complete`, which it asks at every Tab.
//!
//! The words of the command line come from clap's own description of it. Names of snapshots and timelines come from the daemon or the store, if that
//! answers at once: nobody waits for a Tab, and nothing is said when it fails.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, bail};
use clap_complete::engine::{CompletionCandidate, PathCompleter, ValueCompleter};
use serde::de::DeserializeOwned;

use super::output::ago;
use super::source;
use super::{Which, repo};
use crate::control::client::Client;
use crate::control::protocol::{Request, SnapshotsFilter, TimelineRequest};
use crate::query::prompts::Links;
use crate::query::steps::Steps;
use crate::query::time::format;
use crate::query::{self, LogFilter, StepRow};
use crate::store::format::{FORMAT, Format};
use crate::store::{Store, history};
use crate::timeline::names::Names;
use crate::timeline::rows::{SnapshotRow, TimelineRow};
use crate::types::{Op, Timeline};

/// How long a daemon may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Snapshots without a label that are offered, the newest.
const OFFERED: usize = 50;

/// Print what makes a shell complete regentfs's words; for bash: source <(regentfs completion bash)
#[derive(clap::Args, Debug)]
pub struct Args {
    shell: Shell,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// What a shell asks.
#[derive(clap::Args, Debug)]
pub struct AskArgs {
    /// Which of the words is to be completed
    index: usize,
    /// The command line, with the program's name
    #[arg(last = true)]
    words: Vec<OsString>,
}

const BASH: &str = r#"_regentfs() {
    local value help IFS=$' \t\n'
    COMPREPLY=()
    while IFS=$'\t' read -r value help; do
        case $value in
        *[!A-Za-z0-9_./:=,@%+-]*) value=$(printf '%q' "$value") ;;
        esac
        COMPREPLY+=("$value")
    done < <("${COMP_WORDS[0]}" __complete "$COMP_CWORD" -- "${COMP_WORDS[@]}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/=.] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -o bashdefault -o default -F _regentfs regentfs
complete -o nosort -o bashdefault -o default -F _regentfs regentfs 2>/dev/null || true
"#;

const ZSH: &str = r#"#compdef regentfs
_regentfs() {
    local value help
    local -a found
    while IFS=$'\t' read -r value help; do
        found+=("${value//:/\\:}${help:+:$help}")
    done < <("${words[1]}" __complete $((CURRENT - 1)) -- "${words[@]}" 2>/dev/null)
    if (( ${#found} )); then
        _describe -V regentfs found
    else
        _files
    fi
}
if [[ $funcstack[1] == _regentfs ]]; then
    _regentfs "$@"
else
    compdef _regentfs regentfs
fi
"#;

const FISH: &str = r#"function __regentfs_complete
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    $words[1] __complete (count $words) -- $words "$current" 2>/dev/null
end
complete --command regentfs --exclusive --keep-order --arguments '(__regentfs_complete)'
"#;

pub fn run(args: &Args) -> Result<()> {
    let script = match args.shell {
        Shell::Bash => BASH,
        Shell::Zsh => ZSH,
        Shell::Fish => FISH,
    };
    Ok(std::io::stdout().write_all(script.as_bytes())?)
}

/// What the command line says about the repository, for those who complete it.
static ABOUT: OnceLock<(Option<PathBuf>, Option<PathBuf>)> = OnceLock::new();

/// Answers a shell: a word a line, and behind a tab what it is.
pub fn answer(args: &AskArgs, command: &mut clap::Command) -> Result<()> {
    let option = |name: &str| {
        let mut words = args.words.iter();
        words.by_ref().find(|word| *word == name)?;
        words.next().map(PathBuf::from)
    };
    let _ = ABOUT.set((option("--repo"), option("--store")));
    let mut words = args.words.clone();
    words.resize(words.len().max(args.index + 1), OsString::new());
    let dir = std::env::current_dir().ok();
    let begins = words.get(args.index).is_some_and(|word| word.as_encoded_bytes().starts_with(b"-"));
    let mut all = clap_complete::engine::complete(command, words, args.index, dir.as_deref()).unwrap_or_default();
    let is_option = |found: &CompletionCandidate| found.get_value().as_encoded_bytes().starts_with(b"-");
    // Options are for who begins one, unless there is nothing else to say.
    if !begins && !all.iter().all(is_option) {
        all.retain(|found| !is_option(found));
    }
    let mut out = std::io::stdout().lock();
    for found in all {
        out.write_all(found.get_value().as_encoded_bytes())?;
        if let Some(help) = found.get_help().map(ToString::to_string) {
            let first: String = help.lines().next().unwrap_or_default().chars().filter(|c| *c != '\t').collect();
            write!(out, "\t{first}")?;
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Who knows the names, of the repository that the command line is about.
enum Knows {
    Daemon(Client),
    Store(Box<Store>),
}

impl Knows {
    fn find() -> Result<Knows> {
        let (repo, store) = ABOUT.get().cloned().unwrap_or_default();
        let repo = repo::discover(Which { repo }.repo.as_deref(), store.as_deref())?;
        if let Some(client) = Client::connect(&repo.store)? {
            client.patience(PATIENCE)?;
            return Ok(Knows::Daemon(client.about(repo.about.as_deref())));
        }
        // An old store is left alone until somebody does more than press Tab.
        if Format::load(&repo.store)?.format != FORMAT {
            bail!("an old store");
        }
        Ok(Knows::Store(Box::new(source::open_store(&repo)?)))
    }

    fn ask<R: DeserializeOwned>(client: Client, request: &Request) -> Result<Vec<R>> {
        let mut rows = Vec::new();
        client.ask(request, &mut |row: R| {
            rows.push(row);
            ControlFlow::Continue(())
        })?;
        Ok(rows)
    }
}

fn snapshots() -> Result<Vec<SnapshotRow>> {
    match Knows::find()? {
        Knows::Daemon(client) => {
            let filter = SnapshotsFilter { all: true, brief: true, ..SnapshotsFilter::default() };
            Knows::ask(client, &Request::Snapshots(filter))
        }
        Knows::Store(store) => {
            let names = Names::load(&store, Timeline::MAIN)?;
            let row = |s: history::Snapshot| SnapshotRow {
                id: names.id(s.epoch),
                label: s.label,
                note: s.note,
                time: format(s.time),
                ..SnapshotRow::default()
            };
            Ok(history::snapshots(&*store.kv)?.into_iter().map(row).collect())
        }
    }
}

/// The names of the timelines, and what they forked from if that is known.
fn timelines() -> Result<Vec<(String, String)>> {
    Ok(match Knows::find()? {
        Knows::Daemon(client) => Knows::ask(client, &Request::Timeline(TimelineRequest::List))?
            .into_iter()
            .map(|row: TimelineRow| {
                let from = row.parent.map(|parent| format!("forked from {parent}")).unwrap_or_default();
                (row.name, if row.current { "in place".to_owned() } else { from })
            })
            .collect(),
        Knows::Store(store) => {
            history::living(&*store.kv)?.into_iter().map(|record| (record.name, "a timeline".to_owned())).collect()
        }
    })
}

/// Timelines.
pub fn timeline(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let all = timelines().unwrap_or_default();
    all.into_iter()
        .filter(|(name, _)| name.starts_with(current))
        .map(|(name, what)| CompletionCandidate::new(name).help((!what.is_empty()).then(|| what.into())))
        .collect()
}

/// Where a timeline can begin.
pub fn snapshot_or_timeline(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = snapshot(current);
    found.extend(timeline(current));
    found
}

/// Points in time.
pub fn snapshot(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let rows = snapshots().unwrap_or_default();
    let labelled = rows.iter().rev().filter_map(|row| Some((row.label.clone()?, row.id.clone(), row)));
    let ids = rows.iter().rev().take(OFFERED).map(|row| {
        let what = row.label.clone().unwrap_or_else(|| row.note.clone());
        (row.id.clone(), what, row)
    });
    let mut found: Vec<CompletionCandidate> = labelled
        .chain(ids)
        .filter(|(value, ..)| value.starts_with(current))
        .map(|(value, what, row)| {
            CompletionCandidate::new(value).help(Some(format!("{} {what}", ago(&row.time)).into()))
        })
        .collect();
    for (value, what) in [("base", "the repository on disk"), ("now", "the present")] {
        if value.starts_with(current) {
            found.push(CompletionCandidate::new(value).help(Some(what.into())));
        }
    }
    found
}

/// Steps, the newest first.
pub fn step(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    let filter = LogFilter { newest: OFFERED, ..LogFilter::default() };
    let rows = match Knows::find() {
        Ok(Knows::Daemon(client)) => Knows::ask(client, &Request::Log(filter)).unwrap_or_default(),
        Ok(Knows::Store(store)) => {
            let mut rows: Vec<StepRow> = Vec::new();
            if let Ok(steps) = Steps::load(&store) {
                let _ = query::log(&steps, &Links::default(), &filter, &|_| None, &mut |row| {
                    rows.push(row);
                    ControlFlow::Continue(())
                });
            }
            rows
        }
        Err(_) => Vec::new(),
    };
    rows.into_iter()
        .filter(|row| row.step.starts_with(current))
        .map(|row| CompletionCandidate::new(&row.step).help(Some(super::log::what(&row).into())))
        .collect()
}

/// One point in time, or two with dots between them.
pub fn range(current: &OsStr) -> Vec<CompletionCandidate> {
    let Some((from, to)) = current.to_str().and_then(|text| text.split_once("..")) else { return snapshot(current) };
    snapshot(OsStr::new(to)).into_iter().map(|found| found.add_prefix(format!("{from}.."))).collect()
}

/// What `diff` takes: points in time, and files.
pub fn point_or_path(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut found = range(current);
    found.extend(PathCompleter::any().complete(current));
    found
}

/// Operations of the record, several with commas.
pub fn operation(current: &OsStr) -> Vec<CompletionCandidate> {
    let text = current.to_str().unwrap_or_default();
    let (before, last) = text.rsplit_once(',').map_or(("", text), |(before, last)| (before, last));
    let prefix = if before.is_empty() { String::new() } else { format!("{before},") };
    let all = Op::ALL.iter().map(|op| op.name()).filter(|name| name.starts_with(last));
    all.map(|name| CompletionCandidate::new(format!("{prefix}{name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_follow_commas() {
        let found = |text: &str| {
            operation(OsStr::new(text)).iter().map(|c| c.get_value().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(found("rew"), ["rewind"]);
        assert_eq!(found("open,rew"), ["open,rewind"]);
        assert!(found("").len() > 10 && found("x").is_empty());
    }
}
