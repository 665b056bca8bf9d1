//! `regentfs export`: snapshots as patches, or as commits on a new branch of the repository on disk.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap_complete::engine::ArgValueCompleter;

use super::exit::Usage;
use super::output::{Output, Style, count, printable};
use super::{Which, chosen, complete, repo, source::Source};
use crate::control::protocol::{BytesRow, Export, FromRow, Request, Row};
use crate::timeline::rows::{BranchRow, ExportRow};
use crate::timeline::spec;
use crate::types::unhex;

/// History for git: one patch a snapshot, or one commit a snapshot on a new branch of the repository on disk
#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("as").required(true).args(["patch", "git_branch"]))]
pub struct Args {
    /// From where to where: FROM..TO, FROM.., ..TO, or FROM for FROM..now [default: base..now]
    #[arg(value_name = "FROM..TO", add = ArgValueCompleter::new(complete::range))]
    range: Option<String>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    steps: chosen::Steps,
    /// Patches as `git am` takes them
    #[arg(long)]
    patch: bool,
    /// Commits on a new branch of this name, after what is checked out in the repository on disk. Nothing else there changes, and no hook runs
    #[arg(long, value_name = "NAME")]
    git_branch: Option<String>,
    /// Where to write: a file for all patches, or a directory for one file each [default: standard output]
    #[arg(long, short, value_name = "FILE|DIR", conflicts_with = "git_branch")]
    output: Option<PathBuf>,
    /// All of the range in one patch, or one commit
    #[arg(long)]
    single: bool,
    /// Also files that git ignores
    #[arg(long)]
    all: bool,
    /// JSON: one object a patch; of a branch one object that says what was made, then one a commit
    #[arg(long)]
    json: bool,
}

/// The rows of an export.
#[derive(serde::Deserialize)]
#[serde(untagged)]
pub enum Rows {
    Branch(BranchRow),
    Export(ExportRow),
    Bytes(BytesRow),
}

impl FromRow for Rows {
    fn from_row(row: Row) -> Option<Rows> {
        match row {
            Row::Branch(row) => Some(Rows::Branch(row)),
            Row::Export(row) => Some(Rows::Export(row)),
            Row::Bytes(row) => Some(Rows::Bytes(row)),
            _ => None,
        }
    }
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    if args.json && args.patch && args.output.is_none() {
        return Err(Usage("--json says which patches there are: give a place for them with --output".to_owned()).into());
    }
    let (from, to) = spec::range(args.range.as_deref().unwrap_or_default());
    let request = Request::Export(Export {
        from: from.map(str::to_owned),
        to: to.map(str::to_owned),
        all: args.all,
        single: args.single,
        chosen: args.steps.chosen(),
        branch: args.git_branch.clone(),
    });
    let source = Source::of(&repo)?;
    let mut out = Output::new();
    if args.git_branch.is_some() {
        return branch(source, &request, args.json, &mut out);
    }
    let mut into = Into::new(args.output.as_deref())?;
    source.ask(&request, &mut |row: Rows| {
        match row {
            Rows::Export(row) => {
                let file = into.begin(&row)?;
                if args.json {
                    out.json(&row)?;
                } else if let Some(file) = file {
                    out.line(&file.display().to_string())?;
                }
            }
            Rows::Bytes(row) => {
                let bytes = unhex(&row.hex).ok_or_else(|| anyhow!("the daemon sent something that is no patch"))?;
                match &mut into {
                    Into::Out { .. } => out.raw(&bytes)?,
                    other => other.write(&bytes)?,
                }
            }
            Rows::Branch(_) => {}
        }
        Ok(())
    })?;
    out.flush()?;
    if !into.has_any() {
        eprintln!("regentfs: note: nothing changed there that git would store: there is no patch");
    }
    Ok(())
}

/// Where patches go.
enum Into {
    Out { any: bool },
    File { path: PathBuf, file: Option<fs::File> },
    Dir { path: PathBuf, file: Option<fs::File> },
}

impl Into {
    fn new(output: Option<&Path>) -> Result<Into> {
        let Some(path) = output else { return Ok(Into::Out { any: false }) };
        let path = path.to_owned();
        let named_so = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if named_so {
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(if path.is_dir() { Into::Dir { path, file: None } } else { Into::File { path, file: None } })
    }

    fn has_any(&self) -> bool {
        match self {
            Into::Out { any } => *any,
            Into::File { file, .. } | Into::Dir { file, .. } => file.is_some(),
        }
    }

    /// A patch begins; says where it goes if that is a file of its own.
    fn begin(&mut self, row: &ExportRow) -> Result<Option<PathBuf>> {
        match self {
            Into::Out { any } => *any = true,
            Into::File { path, file } => {
                if file.is_none() {
                    *file = Some(create(path)?);
                }
            }
            Into::Dir { path, file } => {
                let name = row.file.as_deref().and_then(|name| Path::new(name).file_name()).unwrap_or(OsStr::new("x"));
                let at = path.join(name);
                *file = Some(create(&at)?);
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Into::File { path, file: Some(file) } | Into::Dir { path, file: Some(file) } => {
                file.write_all(bytes).with_context(|| format!("cannot write {}", path.display()))
            }
            Into::Out { .. } | Into::File { .. } | Into::Dir { .. } => Ok(()),
        }
    }
}

fn create(path: &Path) -> Result<fs::File> {
    fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Asks for a branch and shows what it has.
pub fn branch(source: Source, request: &Request, json: bool, out: &mut Output) -> Result<()> {
    source.ask(request, &mut |row: Rows| {
        match row {
            Rows::Branch(row) if json => out.json(&row)?,
            Rows::Export(row) if json => out.json(&row)?,
            Rows::Branch(row) => {
                let after = row.parent.as_deref().map(|p| format!(", after {}", short(p))).unwrap_or_default();
                let commits = count(row.commits, "commit");
                let text = format!("branch {} with {commits}{after}, in the repository on disk", row.branch);
                out.line(&out.style(Style::Bold, &text))?;
            }
            Rows::Export(row) => {
                let commit = out.style(Style::Yellow, short(row.commit.as_deref().unwrap_or_default()));
                out.line(&format!("  {commit} {}", printable(&row.subject)))?;
            }
            Rows::Bytes(_) => {}
        }
        Ok(())
    })?;
    Ok(out.flush()?)
}

/// The beginning of an object's name.
fn short(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}
