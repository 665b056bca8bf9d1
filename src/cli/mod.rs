//! The command line: one file per command, each with its `Args` and `run`.
//!
//! Commands talk to the daemon of a mount over its control socket, or open the store themselves when nothing is mounted. Only
//! here errors are `anyhow`: they become one line on stderr and an exit code (`exit.rs`).

pub mod agents;
pub mod apply;
pub mod bisect;
pub mod blame;
pub mod bring;
pub mod child;
pub mod chosen;
pub mod complete;
pub mod diff;
pub mod discard;
pub mod events;
pub mod exit;
pub mod export;
pub mod fsck;
pub mod gc;
pub mod interrupt;
pub mod log;
pub mod merge;
pub mod mount;
pub mod moved;
pub mod output;
pub mod pager;
pub mod progress;
pub mod ps;
pub mod reads;
pub mod repo;
pub mod revert;
pub mod rewind;
pub mod scratch;
pub mod sessions;
pub mod show;
pub mod snapshot;
pub mod snapshots;
pub mod source;
pub mod status;
pub mod timeline;
pub mod undo;
pub mod unmount;
pub mod watch;
pub mod why;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Mount a repository in place through a copy-on-write layer that records what every process reads and writes.
#[derive(Parser, Debug)]
#[command(name = "regentfs", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Where changes and record are kept [default: $XDG_STATE_HOME/regentfs/<name>-<hash>]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Long output stays on the terminal as it is
    #[arg(long, global = true)]
    no_pager: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    Mount(mount::MountArgs),
    Unmount(unmount::UnmountArgs),
    Status(status::Args),
    Snapshot(snapshot::Args),
    Snapshots(snapshots::Args),
    Diff(diff::Args),
    Show(show::Args),
    Rewind(rewind::Args),
    Undo(undo::Args),
    Redo(undo::RedoArgs),
    Apply(apply::Args),
    Export(export::Args),
    Timeline(timeline::Args),
    Bisect(bisect::Args),
    Sessions(sessions::Args),
    Blame(blame::Args),
    Why(why::Args),
    Revert(revert::Args),
    Log(log::Args),
    Watch(watch::Args),
    Ps(ps::Args),
    Events(events::Args),
    Reads(reads::Args),
    Discard(discard::Args),
    Gc(gc::Args),
    Fsck(fsck::Args),
    Completion(complete::Args),
    #[command(name = "__complete", hide = true)]
    Complete(complete::AskArgs),
    #[command(hide = true)]
    Daemon(mount::DaemonArgs),
}

/// Which repository a command is about.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Which {
    /// The repository [default: that of the current directory]
    #[arg(long, value_name = "REPO")]
    pub repo: Option<PathBuf>,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.no_pager {
        pager::turn_off();
    }
    let store = cli.store.as_deref();
    exit::finish(match &cli.command {
        Command::Mount(args) => mount::run(args, store),
        Command::Unmount(args) => unmount::run(args, store),
        Command::Status(args) => status::run(args, store),
        Command::Snapshot(args) => snapshot::run(args, store),
        Command::Snapshots(args) => snapshots::run(args, store),
        Command::Diff(args) => diff::run(args, store),
        Command::Show(args) => show::run(args, store),
        Command::Rewind(args) => rewind::run(args, store),
        Command::Undo(args) => undo::run(args, store),
        Command::Redo(args) => undo::run_redo(args, store),
        Command::Timeline(args) => timeline::run(args, store),
        Command::Apply(args) => apply::run(args, store),
        Command::Export(args) => export::run(args, store),
        Command::Blame(args) => blame::run(args, store),
        Command::Why(args) => why::run(args, store),
        Command::Revert(args) => revert::run(args, store),
        Command::Bisect(args) => bisect::run(args, store),
        Command::Sessions(args) => sessions::run(args, store),
        Command::Log(args) => log::run(args, store),
        Command::Watch(args) => watch::run(args, store),
        Command::Ps(args) => ps::run(args, store),
        Command::Events(args) => events::run(args, store),
        Command::Reads(args) => reads::run(args, store),
        Command::Discard(args) => discard::run(args, store),
        Command::Gc(args) => gc::run(args, store),
        Command::Fsck(args) => fsck::run(args, store),
        Command::Completion(args) => complete::run(args),
        Command::Complete(args) => complete::answer(args, &mut <Cli as clap::CommandFactory>::command()),
        Command::Daemon(args) => mount::run_daemon(args, store),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_arguments_make_sense() {
        use clap::CommandFactory;
        super::Cli::command().debug_assert();
    }
}
