//! How the program ends: 0, 1 for an error, 2 for a usage error; and one line on stderr that says why.

use std::io;
use std::process::ExitCode;

use crate::control::client::ClientError;
use crate::control::protocol::Failure;

/// Ends with this code and no message: what there was to say has been said.
#[derive(Debug, thiserror::Error)]
#[error("exit {0}")]
pub struct Silent(pub u8);

/// Wrong use of the command line that clap could not see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Ctrl-C came in the middle.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

fn code(error: &anyhow::Error) -> u8 {
    if error.is::<Interrupted>() {
        return super::interrupt::CODE;
    }
    if let Some(Silent(code)) = error.downcast_ref() {
        return *code;
    }
    if error.is::<Usage>() {
        return 2;
    }
    match (error.downcast_ref::<Failure>(), error.downcast_ref::<ClientError>()) {
        (Some(failure), _) | (None, Some(ClientError::Failed(failure))) => failure.exit,
        (None, _) => 1,
    }
}

/// Whether the reader of our output went away: `regentfs events | head`.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Turns a command's result into the exit code, after saying what went wrong.
pub fn finish(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if is_broken_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    super::progress::clear();
    if !error.is::<Silent>() {
        eprintln!("regentfs: {}", message(&error));
    }
    ExitCode::from(code(&error))
}

/// What went wrong and why, in one line; a cause that is part of the message already is not repeated.
fn message(error: &anyhow::Error) -> String {
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message.push_str(": ");
            message.push_str(&cause);
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        assert_eq!(code(&anyhow::anyhow!("x")), 1);
        assert_eq!(code(&Usage("x".into()).into()), 2);
        assert_eq!(code(&Silent(1).into()), 1);
        assert_eq!(code(&ClientError::Failed(Failure { message: "x".into(), exit: 2 }).into()), 2);
        assert!(is_broken_pipe(&io::Error::from(io::ErrorKind::BrokenPipe).into()));
        let inner = io::Error::from_raw_os_error(libc::ENOSPC);
        let store = crate::store::StoreError::io("write", "/x")(inner);
        let outer = anyhow::Error::from(store).context("cannot mount");
        assert_eq!(message(&outer), "cannot mount: write /x: No space left on device (os error 28)");
    }
}
