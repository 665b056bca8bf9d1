//! What agents were told to do, held against what the record says they did.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::model::{Model, Stop, Turn, call_id, script_of};
use crate::common::json::text;
use crate::common::{MountedRepo, leave_to_root, plain_user};

/// What a call comes to.
#[derive(Clone, Debug)]
pub enum Did {
    /// What a shell is given, and how it ends: the exit code, or a signal as a negative number.
    Ran(String, i32),
    /// The file that it gives another content.
    Wrote(String),
    Nothing,
}

/// A call of a tool that the model makes.
#[derive(Clone, Debug)]
pub struct Call {
    pub id: String,
    pub did: Did,
    /// All paths that it changes, sorted.
    pub changes: Vec<String>,
    /// Its changes come when it is over, by what it left running.
    pub leaves: bool,
}

/// A conversation behind one prompt: what the model says, and what has to come of it.
pub struct Script<'r> {
    pub name: &'static str,
    /// Whose prompt it goes back to: its own, or that of the conversation that a subagent works for.
    pub asked_by: &'static str,
    root: &'r Path,
    turns: Vec<Turn>,
    pub calls: Vec<Call>,
    /// The next call is made together with the last one.
    together: bool,
    stop: Option<Stop>,
}

impl<'r> Script<'r> {
    pub fn new(name: &'static str, root: &'r Path) -> Script<'r> {
        Script { name, asked_by: name, root, turns: Vec::new(), calls: Vec::new(), together: false, stop: None }
    }

    /// What a subagent does for another one's prompt.
    pub fn below(name: &'static str, above: &'static str, root: &'r Path) -> Script<'r> {
        Script { asked_by: above, ..Script::new(name, root) }
    }

    /// What the user types.
    pub fn prompt(&self) -> String {
        format!("Please do what is to be done. [[{}]]", self.name)
    }

    fn call(&mut self, tool: &'static str, input: Value, did: Did, changes: &[&str]) -> String {
        let mut turn = Turn::tool(tool, input);
        if let Some(stop) = self.stop.take() {
            turn = turn.after(&stop);
        }
        match self.turns.pop_if(|_| std::mem::take(&mut self.together)) {
            Some(last) => self.turns.push(last.and(turn)),
            None => self.turns.push(turn),
        }
        let nth = self.turns.last().map_or(0, |turn| turn.says.len() - 1);
        let id = call_id(self.name, self.turns.len() - 1, nth);
        let mut changes: Vec<String> = changes.iter().map(|&path| path.to_owned()).collect();
        changes.sort();
        self.calls.push(Call { id: id.clone(), did, changes, leaves: false });
        id
    }

    /// The next call comes in the same turn as the last one.
    pub fn and(&mut self) -> &mut Script<'r> {
        self.together = true;
        self
    }

    /// The last call's changes come by what it leaves running.
    pub fn leaves(&mut self) {
        self.calls.last_mut().expect("a call").leaves = true;
    }

    /// The last call's step has more in it than that.
    pub fn changes_also(&mut self, paths: &[&str]) {
        let call = self.calls.last_mut().expect("a call");
        call.changes.extend(paths.iter().map(|&path| path.to_owned()));
        call.changes.sort();
    }

    /// Before the next turn the test does something.
    pub fn stop(&mut self) -> Stop {
        self.stop.insert(Stop::default()).clone()
    }

    pub fn bash(&mut self, command: &str, exit: i32, changes: &[&str]) -> String {
        let input = json!({"command": command, "description": "A command"});
        self.call("Bash", input, Did::Ran(command.to_owned(), exit), changes)
    }

    /// One with a secret in it, which is shown otherwise.
    pub fn secret(&mut self, command: &str, shown: &str, changes: &[&str]) -> String {
        let input = json!({"command": command, "description": "A command"});
        self.call("Bash", input, Did::Ran(shown.to_owned(), 0), changes)
    }

    /// One that the agent does not wait for.
    pub fn background(&mut self, command: &str, changes: &[&str]) -> String {
        let input = json!({"command": command, "description": "A command", "run_in_background": true});
        self.call("Bash", input, Did::Ran(command.to_owned(), 0), changes)
    }

    pub fn read(&mut self, path: &str) -> String {
        self.call("Read", json!({"file_path": self.root.join(path)}), Did::Nothing, &[])
    }

    pub fn write(&mut self, path: &str, content: &str) -> String {
        let input = json!({"file_path": self.root.join(path), "content": content});
        self.call("Write", input, Did::Wrote(path.to_owned()), &[path])
    }

    pub fn edit(&mut self, path: &str, old: &str, new: &str) -> String {
        let input = json!({"file_path": self.root.join(path), "old_string": old, "new_string": new});
        self.call("Edit", input, Did::Wrote(path.to_owned()), &[path])
    }

    pub fn other(&mut self, tool: &'static str, input: Value) -> String {
        self.call(tool, input, Did::Nothing, &[])
    }

    /// Makes the model follow it.
    pub fn give(&self, model: &Model) {
        let mut turns = self.turns.clone();
        turns.push(Turn::text("Done."));
        model.script(self.name, turns);
    }
}

/// What the record says of all scripts.
#[derive(Default)]
pub struct Judged {
    /// The step of each call that has one of its own.
    pub steps: BTreeMap<String, Value>,
    pub right: usize,
    /// Its step has the right prompt, but is known as another call's of that as well, or as none's.
    pub shared: usize,
    pub unlinked: Vec<String>,
    pub missing: Vec<Call>,
    pub wrong: Vec<String>,
    pub commands: usize,
    pub edits: usize,
}

impl Judged {
    pub fn step(&self, call: &str) -> &Value {
        self.steps.get(call).unwrap_or_else(|| panic!("no step of {call}: {}", self.faults()))
    }

    /// The one of two calls that has a step.
    pub fn either<'c>(&self, one: &'c str, other: &'c str) -> &'c str {
        if self.steps.contains_key(one) { one } else { other }
    }

    /// Prints the figures past libtest's capture.
    pub fn tell(&self, what: &str) {
        let line = format!(
            "{what}: {} commands and {} edits asked for; right prompt {} ({} of them without a step of their own), unlinked {}, missing {}, wrong {}",
            self.commands,
            self.edits,
            self.right + self.shared,
            self.shared,
            self.unlinked.len(),
            self.missing.len(),
            self.wrong.len()
        );
        say(&line);
    }

    /// Nothing is wrong or missing, and of a hundred calls at least 99 are linked.
    pub fn assert_right(&self, repo: &MountedRepo) {
        let may_miss = |call: &&Call| !sees_forks(repo) && (call.changes.is_empty() || call.leaves);
        let unseen = self.missing.iter().filter(may_miss).count();
        let all = self.commands + self.edits - unseen;
        let enough = (self.right + self.shared) * 100 >= all * 99;
        assert!(enough && self.wrong.is_empty() && self.missing.len() == unseen, "{}", self.faults());
    }

    fn faults(&self) -> String {
        format!("wrong {:#?}\nmissing {:#?}\nunlinked {:#?}", self.wrong, self.missing, self.unlinked)
    }
}

/// Whether the daemon is told of forks. Without that, commands that touch nothing are not seen, and who started what lost its parent is not known.
pub fn sees_forks(repo: &MountedRepo) -> bool {
    let refused = || {
        std::fs::read_to_string(repo.store().join("daemon.log")).is_ok_and(|log| log.contains("no process connector"))
    };
    let sees = std::env::var_os("REGENTFS_NO_CONNECTOR").is_none() && !(plain_user() && refused());
    if !sees && plain_user() {
        leave_to_root(
            "commands of agents that touch nothing, and what they leave running: there is no process connector",
        );
    }
    sees
}

/// Prints a line past libtest's capture.
pub fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Whether a step is what a call comes to.
fn fits(step: &Value, did: &Did) -> bool {
    match did {
        Did::Ran(command, end) => {
            let ended = if *end < 0 { step["signal"] == -*end } else { step["exit"] == *end };
            text(step, "kind") == "command" && step["command"] == command.as_str() && ended
        }
        Did::Wrote(path) => text(step, "kind") == "edit" && paths(step).contains(&path.as_str()),
        Did::Nothing => false,
    }
}

pub fn paths(step: &Value) -> Vec<&str> {
    step["paths"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Judges a log, which is of these conversations and whatever else.
pub fn judge(log: &[Value], scripts: &[&Script]) -> Judged {
    let mut judged = Judged::default();
    let calls: BTreeMap<&str, &Call> =
        scripts.iter().flat_map(|script| &script.calls).map(|call| (call.id.as_str(), call)).collect();
    let asks = |step: &Value, name: &str| {
        let by = scripts.iter().find(|script| script.name == name).map_or(name, |script| script.asked_by);
        step["prompt"].as_str().is_some_and(|prompt| prompt.contains(&format!("[[{by}]]")))
    };
    for step in log.iter().filter(|step| !step["prompt"].is_null() || !step["link"].is_null()) {
        let call = step["link"]["call"].as_str();
        let right = match call.map(|id| (id, calls.get(id))) {
            Some((id, Some(call))) => {
                fits(step, &call.did) && asks(step, script_of(id).unwrap_or_default()) && step["agent"] == "claude-code"
            }
            Some((_, None)) => false,
            // Only which conversation it was is known.
            None => scripts.iter().any(|script| asks(step, script.name)),
        };
        match call {
            _ if !right => judged.wrong.push(step.to_string()),
            Some(id) if judged.steps.insert(id.to_owned(), step.clone()).is_some() => {
                judged.wrong.push(format!("two steps of {id}: {step}"));
            }
            Some(_) | None => {}
        }
    }
    for (id, call) in calls {
        let script = script_of(id).unwrap_or_default();
        match &call.did {
            Did::Nothing => continue,
            Did::Ran(..) => judged.commands += 1,
            Did::Wrote(_) => judged.edits += 1,
        }
        let mut like: Vec<&Value> = log.iter().filter(|step| fits(step, &call.did)).collect();
        // Those that are another call's are not this one's, but for edits that came at once.
        like.retain(|step| !matches!(call.did, Did::Ran(..)) || step["link"]["call"].is_null());
        if judged.steps.contains_key(id) {
            judged.right += 1;
        } else if like.iter().any(|step| asks(step, script)) {
            judged.shared += 1;
        } else if like.is_empty() {
            judged.missing.push(call.clone());
        } else {
            judged.unlinked.push(format!("{call:?} as {like:?}"));
        }
    }
    judged
}

/// What a step changed, as paths, both names of what it renamed; sorted.
pub fn changed(repo: &MountedRepo, step: &str) -> Vec<String> {
    let rows = repo.json(&["show", step]);
    let mut found = BTreeSet::new();
    for row in rows.iter().filter(|row| row["status"].is_string()) {
        found.insert(text(row, "path").to_owned());
        found.extend(row["old_path"].as_str().map(str::to_owned));
    }
    found.into_iter().collect()
}

/// Who wrote each line of a file: of what call it is or, where it is of none, `base`, `human` and so on.
pub fn blamed(repo: &MountedRepo, judged: &Judged, path: &str) -> Vec<(String, String)> {
    let of_step = |step: &str| judged.steps.iter().find(|(_, row)| text(row, "step") == step).map(|(id, _)| id.clone());
    let rows = repo.json(&["blame", repo.join(path).to_str().expect("UTF-8")]);
    let who = |row: &Value| row["step"].as_str().and_then(of_step).unwrap_or_else(|| text(row, "by").to_owned());
    rows.iter().map(|row| (text(row, "text").to_owned(), who(row))).collect()
}

/// Compares [`blamed`] of a file with what it has to be; returns how many lines that are.
pub fn assert_blamed(repo: &MountedRepo, judged: &Judged, path: &str, expected: &[(&str, &str)]) -> usize {
    let found = blamed(repo, judged, path);
    let expected: Vec<(String, String)> =
        expected.iter().map(|(line, who)| ((*line).to_owned(), (*who).to_owned())).collect();
    assert_eq!(found, expected, "{path}: {:#?}", repo.json(&["blame", repo.join(path).to_str().expect("UTF-8")]));
    found.len()
}

/// Each step shows exactly what its call changes; returns how many.
pub fn assert_changes(repo: &MountedRepo, judged: &Judged, scripts: &[&Script]) -> usize {
    let mut count = 0;
    for call in scripts.iter().flat_map(|script| &script.calls) {
        let Some(step) = judged.steps.get(&call.id) else { continue };
        assert_eq!(changed(repo, text(step, "step")), call.changes, "{call:?}: {step:#}");
        count += 1;
    }
    count
}

/// All steps of a conversation are of the session of this process; returns that session.
pub fn assert_session<'s>(sessions: &'s [Value], judged: &Judged, script: &Script, pid: u32) -> &'s Value {
    let session = sessions.iter().find(|session| session["pid"] == pid);
    let session = session.unwrap_or_else(|| panic!("no session of process {pid}: {sessions:#?}"));
    for (_, step) in judged.steps.iter().filter(|(id, _)| script_of(id) == Some(script.name)) {
        assert_eq!(step["session"], session["session"], "{step:#}");
    }
    session
}
