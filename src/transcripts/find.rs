//! Where each agent keeps its transcripts, and which of them were changed lately.
//!
//! It looks at names and times, never into a file. It follows symbolic links to the directories it begins with, and none below.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Homes, Source, files};
use crate::types::Time;

/// The most directory entries that are looked at for one agent.
const MOST_ENTRIES: usize = 200_000;
/// The most transcripts that are given.
const MOST_SOURCES: usize = 1024;

/// Transcripts that were changed at or after `since` (by mtime), newest first, at most 1024. Agents that are not known have none, and what
/// cannot be listed is left out.
pub fn find(homes: &Homes, agents: &[&str], since: Time) -> Vec<Source> {
    let mut found = Vec::new();
    for agent in super::KNOWN.iter().filter(|known| agents.contains(known)) {
        let mut search = Search { agent, since, left: MOST_ENTRIES, found: &mut found };
        match *agent {
            "claude-code" => search.claude(homes),
            "codex" => search.codex(homes),
            "gemini-cli" => search.gemini(homes),
            "opencode" => search.opencode(homes),
            "cursor-cli" => search.cursor(homes),
            _ => search.copilot(homes),
        }
    }
    found.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.path.cmp(&b.path)));
    found.dedup_by(|a, b| a.path == b.path);
    found.truncate(MOST_SOURCES);
    found
}

/// The search for one agent's transcripts.
struct Search<'a> {
    agent: &'static str,
    since: Time,
    left: usize,
    found: &'a mut Vec<Source>,
}

impl Search<'_> {
    fn claude(&mut self, homes: &Homes) {
        let config = homes.variable("XDG_CONFIG_HOME").map_or_else(|| homes.home.join(".config"), Path::to_owned);
        let given = homes.variable("CLAUDE_CONFIG_DIR").map(Path::to_owned);
        let roots = given.into_iter().chain([homes.home.join(".claude"), config.join("claude")]);
        for root in roots {
            self.walk(&root.join("projects"), 6, &|path, depth| {
                let below = path.components().any(|part| part.as_os_str() == "subagents");
                ends(path, ".jsonl") && (depth == 2 || below && begins(path, "agent-"))
            });
        }
    }

    fn codex(&mut self, homes: &Homes) {
        let root = homes.variable("CODEX_HOME").map_or_else(|| homes.home.join(".codex"), Path::to_owned);
        let first = self.found.len();
        let wanted =
            |path: &Path, _: usize| begins(path, "rollout-") && (ends(path, ".jsonl") || ends(path, ".jsonl.zst"));
        self.walk(&root.join("sessions"), 4, &wanted);
        self.walk(&root.join("archived_sessions"), 4, &wanted);
        // While Codex goes over from one to the other, both are there.
        let plain: Vec<PathBuf> = self.found.iter().skip(first).map(|source| source.path.clone()).collect();
        self.found.retain(|source| !ends(&source.path, ".zst") || !plain.contains(&source.path.with_extension("")));
    }

    fn gemini(&mut self, homes: &Homes) {
        let home = homes.variable("GEMINI_CLI_HOME").unwrap_or(&homes.home);
        self.walk(&home.join(".gemini").join("tmp"), 4, &|path, depth| {
            let in_chats = path.components().any(|part| part.as_os_str() == "chats");
            in_chats && (ends(path, ".jsonl") || depth == 3 && begins(path, "session-") && ends(path, ".json"))
        });
    }

    fn opencode(&mut self, homes: &Homes) {
        let data = homes.variable("XDG_DATA_HOME").map_or_else(|| homes.home.join(".local/share"), Path::to_owned);
        let root = data.join("opencode");
        let mut has_database = false;
        for path in self.list(&root) {
            if begins(&path, "opencode") && ends(&path, ".db") {
                has_database = true;
                let mut log = path.clone().into_os_string();
                log.push("-wal");
                self.add(&path, &[&path, Path::new(&log)]);
            }
        }
        // They were taken over into the database.
        if has_database {
            return;
        }
        for path in self.list(&root.join("storage").join("message")) {
            if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                self.add(&path, &[&path]);
            }
        }
    }

    fn cursor(&mut self, homes: &Homes) {
        let root = homes.variable("CURSOR_CONFIG_DIR").map_or_else(|| homes.home.join(".cursor"), Path::to_owned);
        self.walk(&root.join("projects"), 8, &|path, _| ends(path, ".jsonl"));
    }

    fn copilot(&mut self, homes: &Homes) {
        let given = homes.variable("COPILOT_HOME").map(Path::to_owned);
        let config = homes.variable("XDG_CONFIG_HOME").map(|config| config.join(".copilot"));
        for root in given.into_iter().chain(config).chain([homes.home.join(".copilot")]) {
            self.walk(&root.join("session-state"), 2, &|path, depth| {
                depth == 1 && ends(path, ".jsonl") || path.file_name() == Some(OsStr::new("events.jsonl"))
            });
        }
    }

    /// Adds a transcript if one of the files that it is kept in is new enough.
    fn add(&mut self, path: &Path, kept_in: &[&Path]) {
        let times = kept_in.iter().filter_map(|path| fs::symlink_metadata(path).ok());
        let Some(modified) = times.map(|metadata| files::modified(&metadata)).max() else { return };
        if modified >= self.since
            && let Some(source) = Source::at(self.agent, path)
        {
            self.found.push(Source { modified, since: self.since, ..source });
        }
    }

    fn list(&mut self, dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten().take(self.left).flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        self.left = self.left.saturating_sub(paths.len());
        paths.sort();
        paths
    }

    /// Adds the wanted files down to a depth; those in the directory itself have depth 1.
    fn walk(&mut self, root: &Path, deepest: usize, wanted: &dyn Fn(&Path, usize) -> bool) {
        let mut pending = vec![(root.to_owned(), 1)];
        while let Some((dir, depth)) = pending.pop() {
            // In order of names, so that the last (by date, where names are dates) are looked at first.
            for path in self.list(&dir) {
                let below = path.strip_prefix(root).unwrap_or(&path);
                let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
                if metadata.is_dir() && depth < deepest {
                    pending.push((path, depth + 1));
                } else if metadata.is_file() && wanted(below, depth) {
                    self.add(&path, &[&path]);
                }
            }
        }
    }
}

fn ends(path: &Path, with: &str) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(with.as_bytes()))
}

fn begins(path: &Path, with: &str) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(with.as_bytes()))
}
