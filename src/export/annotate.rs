//! Who wrote the lines of commits and ranges: as trailers of the commits, as git's notes, as records of Agent Trace.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::chain::{Chain, Range};
use super::git::{Author, Base, Repo};
use super::lines::{self, Delta};
use super::place::Reference;
use super::{Error, Exporter, Result, notes, trace, trailers};
use crate::overlay::view::View;
use crate::query::steps::StepId;
use crate::store::lineage::Lineage;
use crate::timeline::names::Names;
use crate::types::{ActorId, At, Epoch};

/// A commit that is a state of history, and of what it is made.
#[derive(Clone, Debug)]
pub struct Worked {
    pub commit: String,
    pub state: Arc<Lineage>,
    /// How people call it.
    pub snapshot: Option<String>,
    pub deltas: Vec<Delta>,
    pub steps: Vec<(StepId, ActorId)>,
}

/// What became of notes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// What the reference is now; `None` if there are no notes at all.
    pub tip: Option<String>,
    pub added: u64,
    /// Commits that had a note already: it stays as it is.
    pub kept: u64,
}

impl Exporter<'_> {
    /// Of what the way between two states is made; the commit is not known yet.
    pub(super) fn worked(&self, (before, after): (&View<'_>, &View<'_>), deltas: Vec<Delta>) -> Result<Worked> {
        let steps = self.authors.map_or(Ok(Vec::new()), |authors| authors.between(before, after, &deltas))?;
        let state = after.lineage().clone();
        Ok(Worked { commit: String::new(), state, snapshot: None, deltas, steps })
    }

    /// What a commit tells of its steps.
    pub(super) fn told(&self, steps: &[(StepId, ActorId)]) -> Vec<trailers::Told> {
        let Some(authors) = self.authors else { return Vec::new() };
        let mut sessions = HashMap::new();
        let told = |&(step, session): &(StepId, ActorId)| trailers::Told {
            step: step.to_string(),
            session: sessions.entry(session).or_insert_with(|| authors.session(session)).clone(),
            prompt: authors.prompt(step).map(|prompt| prompt.text.clone()),
        };
        steps.iter().map(told).collect()
    }

    /// Makes notes for commits that have none yet. Second what the reference is to be, if it is to move.
    pub(super) fn note(
        &self,
        base: &Base,
        repo: &Repo,
        commits: &[Worked],
        remarks: &mut Vec<String>,
    ) -> Result<(Noted, Option<Reference>)> {
        let was = base.refs.iter().find(|(name, _)| name == notes::REFERENCE).map(|(_, id)| id.clone());
        let below = format!("{}/", notes::REFERENCE);
        if let Some((name, _)) = base.refs.iter().find(|(name, _)| name.starts_with(&below) || name == "refs/notes") {
            return Err(Error::BesideNotes(name.clone()));
        }
        let mut noted = Noted { tip: was.clone(), ..Noted::default() };
        let mut known = HashSet::new();
        if let Some(was) = &was {
            repo.git("look at the notes", &["update-ref", notes::REFERENCE, was], b"")?;
            let list = repo.line("look at the notes", &["notes", "--ref", notes::REFERENCE, "list"], b"")?;
            known.extend(list.lines().filter_map(|line| line.split_once(' ')).map(|(_, commit)| commit.to_owned()));
        }
        let Some(authors) = self.authors else { return Ok((noted, None)) };
        let human = (base.author.name != Author::default().name).then(|| signature(&base.author));
        let mut new = Vec::new();
        for (done, worked) in commits.iter().enumerate() {
            (self.progress)(done as u64, commits.len() as u64);
            self.still_wanted()?;
            if known.contains(&worked.commit) {
                noted.kept += 1;
                continue;
            }
            let view = View::new(self.overlay(), worked.state.clone());
            let files = lines::written(repo, &view, &worked.deltas, remarks)?;
            let made = notes::note(authors, &worked.commit, human.as_deref(), (&files, &worked.steps), remarks);
            new.extend(made.map(|note| (worked.commit.clone(), note)));
        }
        noted.added = new.len() as u64;
        if new.is_empty() {
            return Ok((noted, None));
        }
        let input = notes::import(&signature(&base.author), self.now.secs, was.as_deref(), &new);
        // One pack is made of everything afterwards.
        let how = ["-c", "fastimport.unpackLimit=2000000000", "fast-import", "--quiet", "--done"];
        repo.git("write the notes", &how, &input)?;
        let tip = repo.line("find the notes", &["rev-parse", "--verify", notes::REFERENCE], b"")?;
        noted.tip = Some(tip.clone());
        Ok((noted, Some(Reference::notes(&tip, was.as_deref()))))
    }

    /// Adds notes to the commits of a branch that was exported before. Second, remarks for people.
    ///
    /// # Errors
    /// [`Error::NoBranch`]; [`Error::NotExported`]; what git, log and base say.
    pub fn annotate(&self, branch: &str, names: &Names) -> Result<(Noted, Vec<String>)> {
        let scratch = self.scratch()?;
        let base = self.base(&scratch)?.ok_or(Error::NotGit)?;
        let repo = Repo::new(scratch.path(), Some(&base))?;
        if !base.has_files_for_refs() {
            return Err(Error::Reftable);
        }
        let commits = self.exported(&base, &repo, branch, names)?;
        let mut remarks = Vec::new();
        let (noted, reference) = self.note(&base, &repo, &commits, &mut remarks)?;
        if let Some(reference) = reference {
            let references = [reference];
            self.pack(&scratch, &repo, String::new(), &references)?;
            self.still_wanted()?;
            self.place(&repo, &references, &base)?;
        }
        Ok((noted, remarks))
    }

    /// Records of the commits of a branch that was exported before, the first one first. Second, remarks for people.
    ///
    /// # Errors
    /// As [`Exporter::annotate`].
    pub fn traces(&self, branch: &str, names: &Names) -> Result<(Vec<Value>, Vec<String>)> {
        let scratch = self.scratch()?;
        let base = self.base(&scratch)?.ok_or(Error::NotGit)?;
        let repo = Repo::new(scratch.path(), Some(&base))?;
        let (mut records, mut remarks) = (Vec::new(), Vec::new());
        for worked in self.exported(&base, &repo, branch, names)? {
            self.still_wanted()?;
            let name = |id: &Option<String>| id.clone().unwrap_or_else(|| "now".to_owned());
            let mut about = trace::About { to: name(&worked.snapshot), ..self.about() };
            about.revision = Some(worked.commit.clone());
            records.extend(self.record(&repo, &about, &worked, &mut remarks)?);
        }
        Ok((records, remarks))
    }

    /// One record of all that differs between the ends of a range. Second, remarks for people.
    ///
    /// # Errors
    /// What git, log and base say.
    pub fn trace(&self, range: &Range<'_>) -> Result<(Option<Value>, Vec<String>)> {
        let overlay = self.overlay();
        let chain = Chain::new(overlay, range, self.now)?;
        let scratch = self.scratch()?;
        let base = self.base_to_read(&scratch)?;
        let repo = Repo::new(scratch.path(), base.as_ref())?;
        let mut stage = self.stage_touched(&repo, base.as_ref(), &chain)?;
        let before = stage.tree()?;
        let (from, Some(last)) = (View::new(overlay, chain.start.clone()), chain.links.last()) else {
            return Ok((None, Vec::new()));
        };
        let to = View::new(overlay, last.state.clone());
        stage.go(&from, &to)?;
        let worked = self.worked((&from, &to), lines::deltas(&repo, &before, &stage.tree()?)?)?;
        let to = last.snapshot.clone().unwrap_or_else(|| "now".to_owned());
        let about = trace::About { from: chain.start_name.clone(), to, ..self.about() };
        let mut remarks = std::mem::take(&mut stage.notes);
        let record = self.record(&repo, &about, &worked, &mut remarks)?;
        Ok((record, remarks))
    }

    fn about(&self) -> trace::About {
        trace::About { now: self.now, ..trace::About::default() }
    }

    /// `None` where nobody's lines are new.
    fn record(
        &self,
        repo: &Repo,
        about: &trace::About,
        worked: &Worked,
        remarks: &mut Vec<String>,
    ) -> Result<Option<Value>> {
        let Some(authors) = self.authors else { return Ok(None) };
        let view = View::new(self.overlay(), worked.state.clone());
        let mut files = lines::written(repo, &view, &worked.deltas, remarks)?;
        files.retain(|file| {
            let is_text = std::str::from_utf8(file.path.as_bytes()).is_ok();
            if !is_text {
                remarks.push(format!("JSON cannot name {}: its lines are left out", file.path));
            }
            is_text
        });
        Ok((!files.is_empty()).then(|| trace::record(authors, about, &files)))
    }

    /// The commits of a branch that say of which snapshot they are, with a store that knows it.
    fn exported(&self, base: &Base, repo: &Repo, branch: &str, names: &Names) -> Result<Vec<Worked>> {
        let full = format!("refs/heads/{branch}");
        let tip = base.refs.iter().find(|(name, _)| *name == full).map(|(_, id)| id);
        let tip = tip.ok_or_else(|| Error::NoBranch(branch.to_owned()))?;
        let format = "--format=%H%x09%P%x09%(trailers:key=Regentfs-Snapshot,valueonly,separator=%x20)";
        let log =
            repo.line("look at the branch", &["log", "--reverse", "--grep=^Regentfs-Snapshot: ", format, tip], b"")?;
        let (kv, overlay) = (&*self.overlay().store().kv, self.overlay());
        let state = |epoch: Epoch| -> Result<Option<Arc<Lineage>>> {
            let Some(of) = names.candidates.iter().find(|c| c.epoch == epoch) else { return Ok(None) };
            Ok(Some(Arc::new(Lineage::of(kv, At { timeline: of.timeline, epoch })?)))
        };
        let mut states: HashMap<String, Arc<Lineage>> = HashMap::new();
        let mut found = Vec::new();
        for line in log.lines() {
            let [commit, parents, snapshot] = line.split('\t').collect::<Vec<_>>()[..] else { continue };
            let Some(of) = names.candidates.iter().find(|c| c.id == snapshot.trim()) else { continue };
            let Some(after) = state(of.epoch)? else { continue };
            let parent = parents.split(' ').next().filter(|parent| !parent.is_empty());
            let before = match parent.and_then(|parent| states.get(parent)) {
                Some(before) => before.clone(),
                None => match state(of.previous)? {
                    Some(before) => before,
                    None => Arc::new(Lineage::of(kv, At::BASE)?),
                },
            };
            let nothing;
            let parent = match parent {
                Some(parent) => parent,
                None => {
                    nothing = repo.line("begin", &["hash-object", "-t", "tree", "--stdin"], b"")?;
                    &nothing
                }
            };
            let deltas = lines::deltas(repo, parent, commit)?;
            let views = (View::new(overlay, before), View::new(overlay, after.clone()));
            let worked = self.worked((&views.0, &views.1), deltas)?;
            found.push(Worked { commit: commit.to_owned(), snapshot: Some(of.id.clone()), ..worked });
            states.insert(commit.to_owned(), after);
        }
        if found.is_empty() {
            return Err(Error::NotExported(branch.to_owned()));
        }
        Ok(found)
    }
}

/// As git writes somebody.
fn signature(author: &Author) -> String {
    let clean = |text: &str| text.replace(['<', '>', '\n', '\r', '\0'], "").trim().to_owned();
    format!("{} <{}>", clean(&author.name), clean(&author.email))
}
