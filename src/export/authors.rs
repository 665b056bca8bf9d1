//! Who is behind a change between two states: sessions and their steps, and what is known of the agents.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::lines::Delta;
use super::{Error, Result};
use crate::blame::Wrote;
use crate::overlay::Overlay;
use crate::overlay::view::View;
use crate::query::events::each_event;
use crate::query::prompts::Links;
use crate::query::steps::{Piece, Step, StepId, Steps, alters, session_id};
use crate::query::who::Kind;
use crate::store::lineage::Lineage;
use crate::store::said::Prompt;
use crate::timeline::parts::homes;
use crate::types::{ActorId, Epoch, Ino, Path, Seq, Timeline};

/// The steps and prompts of a store, with what each step changed.
pub struct Authors {
    steps: Steps,
    links: Links,
    pieces: BTreeMap<Epoch, BTreeMap<StepId, Piece>>,
    homes: BTreeMap<Epoch, Timeline>,
    /// The store's, so that names of sessions can be told from those of other stores.
    pub store: String,
}

/// What is known of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// `s7`.
    pub id: String,
    /// `agent`, `human` or `script`.
    pub by: &'static str,
    pub agent: Option<String>,
    pub version: Option<String>,
    pub model: Option<String>,
    /// As the agent calls it.
    pub name: Option<String>,
}

impl Authors {
    /// # Errors
    /// When the log cannot be read.
    pub fn new(overlay: &Overlay, steps: Steps, links: Links) -> Result<Authors> {
        let store = overlay.store();
        let mut pieces: BTreeMap<Epoch, BTreeMap<StepId, Piece>> = BTreeMap::new();
        each_event(store, Seq(0), &mut |event| {
            if event.note.errno.is_none()
                && alters(event.note.op)
                && let Some((id, _)) = steps.of_event(&event)
            {
                pieces.entry(event.epoch).or_default().entry(id).or_default().add(&event.note);
            }
            Ok(ControlFlow::Continue(()))
        })
        .map_err(Error::Query)?;
        Ok(Authors { steps, links, pieces, homes: homes(&*store.kv)?, store: store.format.id.clone() })
    }

    /// The step and the session that wrote a version; `None` where that is not known.
    pub fn of(&self, wrote: &Wrote) -> Option<(StepId, ActorId)> {
        let session = self.steps.who.place(wrote.by)?.session;
        Some((self.steps.of(wrote.by, wrote.epoch)?, session))
    }

    pub fn kind(&self, session: ActorId) -> Kind {
        self.steps.kind(session)
    }

    pub fn prompt(&self, step: StepId) -> Option<&Prompt> {
        self.links.of(step).map(|(_, prompt)| prompt)
    }

    pub fn session(&self, id: ActorId) -> Session {
        let kind = self.steps.kind(id);
        let said = self.links.of_session(id).1.cloned().unwrap_or_default();
        let told = |text: String| Some(text).filter(|text| !text.is_empty());
        Session {
            id: session_id(id),
            by: kind.name(),
            agent: match kind {
                Kind::Agent(agent) => Some(agent.id.to_owned()),
                Kind::Human | Kind::Script => None,
            },
            version: self.steps.who.version(id).or(told(said.version)),
            model: told(said.model),
            name: self.steps.who.session_name(id).or(told(said.session)),
        }
    }

    /// The steps between two states that changed any of these files, in the order in which they began.
    ///
    /// # Errors
    /// When a state cannot be read.
    pub fn between(&self, before: &View<'_>, after: &View<'_>, deltas: &[Delta]) -> Result<Vec<(StepId, ActorId)>> {
        let mut files: Vec<(&Path, Vec<Ino>)> = Vec::new();
        for delta in deltas {
            let old = delta.old_path.as_ref().unwrap_or(&delta.path);
            let nodes = [(before.find(old)?, old), (after.find(&delta.path)?, &delta.path)];
            files.extend(nodes.into_iter().map(|(node, path)| (path, node.map(|node| node.ino).into_iter().collect())));
        }
        let is_between = |epoch: Epoch| self.has(after.lineage(), epoch) && !self.has(before.lineage(), epoch);
        let mut found: Vec<&Step> = Vec::new();
        for (&epoch, steps) in self.pieces.iter().filter(|(epoch, _)| is_between(**epoch)) {
            for (&id, piece) in steps {
                let is_in = || files.iter().any(|(path, inodes)| piece.has(path, inodes));
                if let Some(step) = self.steps.get(id).filter(|step| step.epochs.contains(&epoch))
                    && !found.iter().any(|known| known.id == id)
                    && is_in()
                {
                    found.push(step);
                }
            }
        }
        found.sort_by_key(|step| (step.first, step.id));
        Ok(found.into_iter().map(|step| (step.id, step.session)).collect())
    }

    /// Whether an epoch lies on the way to a state.
    fn has(&self, state: &Arc<Lineage>, epoch: Epoch) -> bool {
        let Some(&timeline) = self.homes.get(&epoch) else { return false };
        state.segments().iter().any(|at| at.timeline == timeline && epoch <= at.epoch)
    }
}
