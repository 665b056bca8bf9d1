//! Which steps somebody means: by session, by name, by who is behind them, and all but some.
//!
//! Knows the record and nothing of states.

use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

use super::log::{find_session, find_step};
use super::steps::{StepId, Steps, session_of};
use super::{QueryError, Result};
use crate::types::ActorId;

/// What somebody may be, as in `--json`.
pub const KINDS: [&str; 3] = ["human", "agent", "script"];

/// Steps as a user names them. The first three add up; without any of them everything is meant, but for what is excepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Chosen {
    pub sessions: Vec<String>,
    pub steps: Vec<String>,
    /// One of [`KINDS`].
    pub by: Vec<String>,
    /// Steps and sessions.
    pub except: Vec<String>,
}

impl Chosen {
    /// Nothing was said about steps.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && self.steps.is_empty() && self.by.is_empty() && self.except.is_empty()
    }

    /// For people.
    pub fn name(&self) -> String {
        let by = self.by.iter().map(|by| format!("by {by}"));
        let mut names: Vec<String> = self.sessions.iter().chain(&self.steps).cloned().chain(by).collect();
        if names.is_empty() {
            names.push("everything".to_owned());
        }
        match self.except.as_slice() {
            [] => names.join(", "),
            except => format!("{} except {}", names.join(", "), except.join(", ")),
        }
    }

    /// What [`Chosen::name`] made a name of.
    pub fn parse(name: &str) -> Option<Chosen> {
        let list = |text: &str| text.split(", ").map(str::to_owned).collect::<Vec<_>>();
        let (with, except) = name.split_once(" except ").unwrap_or((name, ""));
        let mut chosen = Chosen { except: list(except), ..Chosen::default() };
        chosen.except.retain(|name| !name.is_empty());
        for name in list(with).into_iter().filter(|name| name != "everything") {
            match name.strip_prefix("by ") {
                Some(by) => chosen.by.push(by.to_owned()),
                None if session_of(&name).is_some() => chosen.sessions.push(name),
                None => chosen.steps.push(name),
            }
        }
        let steps = chosen.steps.iter().chain(&chosen.except);
        let known = |name: &String| name.parse::<StepId>().is_ok() || session_of(name).is_some();
        (!chosen.is_empty() && steps.into_iter().all(known) && chosen.by.iter().all(|by| KINDS.contains(&by.as_str())))
            .then_some(chosen)
    }

    /// # Errors
    /// When there is no such session or step, or no such kind of writer.
    pub fn resolve<'s>(&self, steps: &'s Steps) -> Result<Choice<'s>> {
        let mut choice = Choice {
            steps,
            all: self.sessions.is_empty() && self.steps.is_empty() && self.by.is_empty(),
            with: Names::default(),
            by: self.by.clone(),
            except: Names::default(),
        };
        if let Some(unknown) = self.by.iter().find(|by| !KINDS.contains(&by.as_str())) {
            return Err(QueryError::Filter(format!("{unknown:?} is nobody: give one of {}", KINDS.join(", "))));
        }
        for name in &self.sessions {
            choice.with.sessions.insert(find_session(steps, name)?);
        }
        for name in &self.steps {
            choice.with.steps.insert(find_step(steps, name)?.id);
        }
        for name in &self.except {
            if session_of(name).is_some() {
                choice.except.sessions.insert(find_session(steps, name)?);
            } else {
                choice.except.steps.insert(find_step(steps, name)?.id);
            }
        }
        Ok(choice)
    }
}

#[derive(Default)]
struct Names {
    sessions: FxHashSet<ActorId>,
    steps: FxHashSet<StepId>,
}

impl Names {
    fn has(&self, step: StepId, session: ActorId) -> bool {
        self.steps.contains(&step) || self.sessions.contains(&session)
    }
}

/// The same with all names looked up.
pub struct Choice<'s> {
    steps: &'s Steps,
    all: bool,
    with: Names,
    by: Vec<String>,
    except: Names,
}

impl Choice<'_> {
    /// Whether it is everything but some steps: then what belongs to no step is meant as well.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Whether what a step of a session did is meant; `None` for what belongs to no step.
    pub fn has(&self, writer: Option<(StepId, ActorId)>) -> bool {
        let Some((step, session)) = writer else { return self.all };
        let by = || self.by.iter().any(|by| by == self.steps.kind(session).name());
        (self.all || self.with.has(step, session) || by()) && !self.except.has(step, session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_chosen_has_a_name() {
        let list = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect::<Vec<_>>();
        let chosen = |sessions: &[&str], steps: &[&str], by: &[&str], except: &[&str]| Chosen {
            sessions: list(sessions),
            steps: list(steps),
            by: list(by),
            except: list(except),
        };
        assert!(Chosen::default().is_empty());
        for (one, name) in [
            (chosen(&["s7"], &["c3"], &["human"], &["c9"]), "s7, c3, by human except c9"),
            (chosen(&[], &[], &[], &["c9", "s2"]), "everything except c9, s2"),
            (chosen(&[], &[], &["agent"], &[]), "by agent"),
        ] {
            assert_eq!((one.name().as_str(), Chosen::parse(name)), (name, Some(one)));
        }
        for no in ["", "everything", "12 paths", "src/main.rs", "by nobody", "s7 except ", "s7 except x"] {
            assert!(Chosen::parse(no).is_none_or(|some| some.name() != no), "{no}");
        }
    }
}
