//! `regentfs diff`: the overlay against the base, or two points in time, as git would show it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;
use clap_complete::engine::ArgValueCompleter;

use super::exit::Usage;
use super::output::{Output, Style, count};
use super::repo::Repo;
use super::source::{self, Source};
use super::{Which, chosen, complete, repo};
use crate::control::protocol::Request;
use crate::diff::{Detail, DiffFilter, DiffRow, quote};
use crate::query::rows::bytes;
use crate::timeline::spec;
use crate::types::{hex, unhex};

/// What changed: between the repository on disk and now, or between two points in time; a patch as git would show it
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    steps: chosen::Steps,
    /// [FROM [TO]] or FROM..TO, then the files and directories that are wanted. A word that is a point in time (base, now, an id, a label,
    /// @{10 minutes ago}) is taken as one; put -- before paths that could be mistaken [default: base now]
    #[arg(value_name = "FROM TO PATH", add = ArgValueCompleter::new(complete::point_or_path))]
    words: Vec<OsString>,
    /// Only these files and directories
    #[arg(last = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// How a comparison is shown.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct How {
    /// Files with their numbers of changed lines, not the patch
    #[arg(long, conflicts_with = "name_only")]
    pub stat: bool,
    /// Only the names of changed files
    #[arg(long)]
    pub name_only: bool,
    /// Also what is in .git directories
    #[arg(long)]
    pub all: bool,
    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

impl How {
    fn detail(&self) -> Detail {
        match (self.stat, self.name_only) {
            (true, _) => Detail::Counts,
            (_, true) => Detail::Names,
            _ => Detail::Patch,
        }
    }
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let chosen = args.steps.chosen();
    let ((from, to), mut paths) = points(&args.words, &repo)?;
    paths.extend(args.paths.iter().cloned());
    let paths = paths.iter().map(|path| relative(path, &repo)).collect::<Result<_>>()?;
    let filter = DiffFilter { paths, from, to, chosen, ..DiffFilter::default() };
    show_filtered(&mut Output::paged(), &repo, &args.how, filter)
}

/// The older and the newer side of a comparison, as a user names them.
pub type Sides = (Option<String>, Option<String>);

/// Shows a comparison.
pub fn show(out: &mut Output, repo: &Repo, how: &How, (from, to): Sides, paths: Vec<String>) -> Result<()> {
    show_filtered(out, repo, how, DiffFilter { paths, from, to, ..DiffFilter::default() })
}

/// Shows what a filter admits.
pub fn show_filtered(out: &mut Output, repo: &Repo, how: &How, filter: DiffFilter) -> Result<()> {
    let detail = how.detail();
    let request = Request::Diff(DiffFilter { all: how.all, detail, ..filter });
    let mut rows = Vec::new();
    Source::of(repo)?.ask(&request, &mut |row: DiffRow| {
        match detail {
            _ if how.json => out.json(&row)?,
            Detail::Names => {
                let name = quote("", &bytes(&row.path, row.path_hex.as_ref()));
                out.line(&String::from_utf8_lossy(&name))?;
            }
            Detail::Counts => rows.push(row),
            Detail::Patch => patch(out, &row)?,
        }
        Ok(())
    })?;
    if !rows.is_empty() {
        stat(out, &rows)?;
    }
    Ok(out.flush()?)
}

/// Takes the points in time off the front of a command's words; the rest are paths.
///
/// # Errors
/// When a word is neither a point in time nor a path that is there.
fn points(words: &[OsString], repo: &Repo) -> Result<(Sides, Vec<PathBuf>)> {
    let path = |word: &OsString| PathBuf::from(word);
    let Some(first) = words.first() else { return Ok(((None, None), Vec::new())) };
    let names = source::names(repo)?;
    let climbs = Path::new(first).components().any(|part| part == Component::ParentDir);
    if let Some((from, to)) = first.to_str().filter(|_| !climbs).and_then(|word| word.split_once("..")) {
        let side = |text: &str| -> Result<Option<String>> {
            match text {
                "" => Ok(None),
                text if spec::is_like_id(text) => Ok(Some(text.to_owned())),
                text => names.check(text).map(|()| Some(text.to_owned())),
            }
        };
        // A path may have two dots in it; one that is there is meant.
        if !is_there(first, repo) {
            return Ok(((side(from)?, side(to)?), words.iter().skip(1).map(path).collect()));
        }
    }
    let mut found = Vec::new();
    for word in words.iter().take(2) {
        match word.to_str() {
            Some(text) if names.has(text) => found.push(text.to_owned()),
            Some(_) if is_there(word, repo) => break,
            // An id of old, perhaps: who knows all of them will say it.
            Some(text) if spec::is_like_id(text) => found.push(text.to_owned()),
            // Neither: a path that is gone, or a name that is wrong. What looks like a path is one.
            Some(text) if !text.contains('/') && !text.contains('.') => names.check(text)?,
            _ => break,
        }
    }
    let rest = words.iter().skip(found.len()).map(path).collect();
    let mut found = found.into_iter();
    Ok(((found.next(), found.next()), rest))
}

/// Whether a word names a file that is there, as [`relative`] understands it.
fn is_there(word: &OsString, repo: &Repo) -> bool {
    let bytes = relative(Path::new(word), repo).ok().and_then(|hex| unhex(&hex));
    bytes.is_some_and(|bytes| repo.root.join(OsStr::from_bytes(&bytes)).symlink_metadata().is_ok())
}

/// A path as the filter takes it: relative to the root, in hexadecimal. Relative ones start at the current directory when that
/// is inside the repository, and at the root otherwise.
pub fn relative(path: &Path, repo: &Repo) -> Result<String> {
    let mut roots = super::source::mountpoints(repo);
    roots.push(repo.root.clone());
    let below = |path: &Path| roots.iter().find_map(|root| path.strip_prefix(root).ok().map(Path::to_owned));
    let start = std::env::current_dir().ok().and_then(|cwd| below(&cwd)).unwrap_or_default();
    let joined = if path.is_absolute() {
        below(path).ok_or_else(|| Usage(format!("{} is not in {}", path.display(), repo.root.display())))?
    } else {
        start.join(path)
    };
    let mut parts: Vec<&[u8]> = Vec::new();
    for component in joined.components() {
        match component {
            Component::Normal(name) => parts.push(name.as_bytes()),
            Component::ParentDir if parts.pop().is_none() => {
                return Err(Usage(format!("{} is not in {}", path.display(), repo.root.display())).into());
            }
            Component::ParentDir | Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Ok(hex(&parts.join(&b'/')))
}

fn patch(out: &mut Output, row: &DiffRow) -> std::io::Result<()> {
    let text = match (&row.text, &row.text_hex) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(hex)) => unhex(hex).unwrap_or_default(),
        (None, None) => Vec::new(),
    };
    if !out.has_color() {
        return out.raw(&text);
    }
    let mut in_hunk = false;
    for line in text.split_inclusive(|&b| b == b'\n') {
        if line.starts_with(b"diff --git ") {
            in_hunk = false;
        } else if line.starts_with(b"@@") {
            in_hunk = true;
        }
        let style = match (in_hunk, line.first()) {
            (false, _) => Style::Bold,
            (true, Some(b'@')) => Style::Cyan,
            (true, Some(b'+')) => Style::Green,
            (true, Some(b'-')) => Style::Red,
            (true, _) => Style::Plain,
        };
        let (body, end) = match line.strip_suffix(b"\n") {
            Some(body) => (body, &b"\n"[..]),
            None => (line, &b""[..]),
        };
        // Bytes as they are: only what surrounds them is text.
        let around = out.style(style, "\u{0}");
        let (before, after) = around.split_once('\u{0}').unwrap_or_default();
        for part in [before.as_bytes(), body, after.as_bytes(), end] {
            out.raw(part)?;
        }
    }
    Ok(())
}

/// Where to put the bars of `--stat` when there is no terminal, as in git.
const WIDTH: usize = 80;

fn stat(out: &mut Output, rows: &[DiffRow]) -> std::io::Result<()> {
    let names: Vec<String> = rows.iter().map(name).collect();
    let changed = |row: &DiffRow| row.added.unwrap_or(0) + row.deleted.unwrap_or(0);
    let most = rows.iter().map(changed).max().unwrap_or(0);
    let digits = most.to_string().len().max(if rows.iter().any(|r| r.binary == Some(true)) { 3 } else { 1 });
    let width = out.width.unwrap_or(WIDTH);
    let name_width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    let bar = width.saturating_sub(name_width + digits + 5).max(10) as u64;
    for (row, name) in rows.iter().zip(&names) {
        let pad = " ".repeat(name_width - name.chars().count());
        if row.binary == Some(true) {
            let sizes = format!("{} -> {} bytes", row.old_size.unwrap_or(0), row.new_size.unwrap_or(0));
            out.line(&format!(" {name}{pad} | {:>digits$} {sizes}", "Bin"))?;
            continue;
        }
        let scaled = |n: u64| match (n, most > bar) {
            (0, _) => 0,
            (n, true) => (n * bar / most).max(1),
            (n, false) => n,
        };
        let mark = |sign: &str, n: Option<u64>| sign.repeat(usize::try_from(scaled(n.unwrap_or(0))).unwrap_or(0));
        let plus = out.style(Style::Green, &mark("+", row.added));
        let minus = out.style(Style::Red, &mark("-", row.deleted));
        let line = format!(" {name}{pad} | {:>digits$} {plus}{minus}", changed(row));
        out.line(line.trim_end())?;
    }
    let sum = |part: fn(&DiffRow) -> Option<u64>| rows.iter().filter_map(part).sum::<u64>();
    let (added, deleted) = (sum(|r| r.added), sum(|r| r.deleted));
    let mut total = format!(" {} changed", count(rows.len() as u64, "file"));
    if added > 0 || deleted == 0 {
        total.push_str(&format!(", {}(+)", count(added, "insertion")));
    }
    if deleted > 0 || added == 0 {
        total.push_str(&format!(", {}(-)", count(deleted, "deletion")));
    }
    out.line(&total)
}

/// The name in `--stat`; of a rename both, with what they share written once: `src/{a => b}/c`.
fn name(row: &DiffRow) -> String {
    let quoted = |path: &str, hex: Option<&String>| String::from_utf8_lossy(&quote("", &bytes(path, hex))).into_owned();
    let new = quoted(&row.path, row.path_hex.as_ref());
    let Some(old) = &row.old_path else { return new };
    let old = quoted(old, row.old_path_hex.as_ref());
    if old.starts_with('"') || new.starts_with('"') {
        return format!("{old} => {new}");
    }
    let same = |(a, b): &(&str, &str)| a == b;
    let (a, b): (Vec<&str>, Vec<&str>) = (old.split('/').collect(), new.split('/').collect());
    let shorter = a.len().min(b.len()) - 1;
    let head = a.iter().copied().zip(b.iter().copied()).take(shorter).take_while(same).count();
    let tail =
        a.iter().copied().rev().zip(b.iter().copied().rev()).take(a.len().min(b.len()) - head).take_while(same).count();
    if head + tail == 0 {
        return format!("{old} => {new}");
    }
    let part = |list: &[&str], from: usize, to: usize| list.get(from..to).unwrap_or_default().join("/");
    let (from, to) = (part(&a, head, a.len() - tail), part(&b, head, b.len() - tail));
    let front = part(&a, 0, head) + if head > 0 { "/" } else { "" };
    let back = if tail > 0 { "/".to_owned() } else { String::new() } + &part(&a, a.len() - tail, a.len());
    format!("{front}{{{from} => {to}}}{back}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_renames() {
        for (old, new, shown) in [
            ("a", "b", "a => b"),
            ("src/a", "src/b", "src/{a => b}"),
            ("a/x/c", "a/y/c", "a/{x => y}/c"),
            ("a/c", "b/c", "{a => b}/c"),
            ("c", "b/c", "{ => b}/c"),
            ("a/b/c", "a/c", "a/{b => }/c"),
        ] {
            let row = DiffRow { path: new.to_owned(), old_path: Some(old.to_owned()), ..DiffRow::default() };
            assert_eq!(name(&row), shown);
        }
    }
}
