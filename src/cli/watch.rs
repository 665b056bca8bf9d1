//! `regentfs watch`: steps and commands as they happen, one line each.

use std::io;
use std::net::Shutdown;
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::exit::Silent;
use super::log::what;
use super::output::{Output, Style, count, printable, time_of_day};
use super::ps::ended;
use super::{Which, interrupt, repo};
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Request, SOCKET};
use crate::query::{WatchFilter, WatchRow};

/// Steps and commands as they happen, until interrupted: a line when a command begins, one when it ends, and one when something else that changed files is over
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Only those of this session, as `sessions` shows it
    session: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, store: Option<&Path>) -> Result<()> {
    let repo = repo::discover(args.which.repo.as_deref(), store)?;
    let Some(client) = Client::connect(&repo.store)? else {
        bail!("{} is not mounted, so nothing happens in it: `regentfs mount` first", repo.root.display());
    };
    let client = client.about(repo.about.as_deref());
    let interrupted = Arc::new(AtomicBool::new(false));
    stop_at_signals(client.stream()?, interrupted.clone())?;
    let unread = Arc::new(AtomicBool::new(false));
    stop_without_a_reader(client.stream()?, unread.clone())?;
    let mut out = Output::new();
    let mut broken = Ok(());
    let request = Request::Watch(WatchFilter { session: args.session.clone() });
    let answer = client.ask(&request, &mut |row: WatchRow| {
        let line = if args.json { out.json(&row) } else { out.line(&line(&out, &row)) };
        broken = line.and_then(|()| out.flush());
        if broken.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    broken?;
    if interrupted.load(Ordering::Acquire) {
        return Err(Silent(interrupt::CODE).into());
    }
    if unread.load(Ordering::Acquire) {
        return Ok(());
    }
    // A daemon that ends with its last mount takes its socket away before; it may not come to an answer any more.
    match answer {
        Err(ClientError::Cut | ClientError::Io(_)) if !repo.store.join(SOCKET).exists() => {}
        other => drop(other?),
    }
    eprintln!("regentfs: the mount ended");
    Ok(())
}

/// Ctrl-C ends the wait.
fn stop_at_signals(stream: UnixStream, asked: Arc<AtomicBool>) -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for _ in signals.forever() {
            if asked.swap(true, Ordering::AcqRel) {
                std::process::exit(interrupt::CODE.into());
            }
            let _ = stream.shutdown(Shutdown::Both);
        }
    })?;
    Ok(())
}

/// So does the end of whoever reads: there may be nothing to write for a long time, by which that would be noticed.
fn stop_without_a_reader(stream: UnixStream, gone: Arc<AtomicBool>) -> Result<()> {
    std::thread::Builder::new().name("reader".into()).spawn(move || {
        let stdout = io::stdout();
        loop {
            let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
            match poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
                Ok(_) if polled.iter().any(|p| p.revents().intersects(PollFlags::ERR | PollFlags::HUP)) => break,
                Ok(_) => return,
            }
        }
        gone.store(true, Ordering::Release);
        let _ = stream.shutdown(Shutdown::Both);
    })?;
    Ok(())
}

fn line(out: &Output, row: &WatchRow) -> String {
    let step = &row.step;
    let who = step.agent.as_deref().unwrap_or(&step.by);
    let (style, how) = match row.what.as_str() {
        "start" => (Style::Green, String::new()),
        "end" => {
            let (how, style) = ended(&step.started, step.ended.as_deref(), step.exit, step.signal, true);
            let style = if style == Style::Plain { Style::Cyan } else { style };
            let files = format!("read {}, wrote {}", step.reads, count(step.writes, "file"));
            (style, format!("{how}, {files}{}  ", snapshot(step.snapshot.as_deref())))
        }
        _ => (Style::Yellow, step.snapshot.as_deref().map(|id| format!("snapshot {id}  ")).unwrap_or_default()),
    };
    format!(
        "{}  {}  {:<8}  {:<6} {:<12}  {}{}",
        out.style(Style::Dim, time_of_day(&row.time)),
        out.style(style, &format!("{:<5}", row.what)),
        step.step,
        step.session,
        printable(who),
        out.style(Style::Dim, &how),
        printable(&what(step)),
    )
}

fn snapshot(id: Option<&str>) -> String {
    id.map(|id| format!(", snapshot {id}")).unwrap_or_default()
}
