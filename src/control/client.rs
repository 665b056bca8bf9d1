//! The asking end of the control socket.

use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::de::DeserializeOwned;

use super::protocol::{Asked, Done, Failure, ProgressRow, Request, Response, SOCKET};
use crate::types::hex;

/// How long a daemon may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// Why the daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the daemon does not answer on its control socket: {0}")]
    Io(#[from] std::io::Error),
    /// Nothing is done then.
    #[error("the daemon does not take a request on its control socket: {0}")]
    NotAsked(std::io::Error),
    #[error("the daemon answered something that this regentfs does not understand ({0}): do their versions differ?")]
    Garbage(#[from] serde_json::Error),
    #[error("the daemon went away in the middle of an answer: see daemon.log in the store")]
    Cut,
    #[error(transparent)]
    Failed(Failure),
}

/// A connection, for one request.
pub struct Client {
    stream: UnixStream,
    about: Option<PathBuf>,
}

/// The address of the socket in `dir`. Through a descriptor of the directory, as a socket's path has at most 107 bytes.
pub(crate) fn address(dir: &Path) -> Result<(rustix::fd::OwnedFd, SocketAddrUnix), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty())?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET}", fd.as_raw_fd()))?;
    Ok((fd, address))
}

impl Client {
    /// Connects to the daemon that has the store `dir`; `None` when there is none.
    ///
    /// # Errors
    /// When something is there that does not accept the connection.
    pub fn connect(dir: &Path) -> Result<Option<Client>, ClientError> {
        let nobody = |e: Errno| matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::CONNREFUSED);
        let (_dir, address) = match address(dir) {
            Ok(address) => address,
            Err(e) if nobody(e) => return Ok(None),
            Err(e) => return Err(std::io::Error::from(e).into()),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(std::io::Error::from)?;
        let mut waited = Duration::ZERO;
        loop {
            match rustix::net::connect(&socket, &address) {
                Ok(()) => break,
                // The queue of the listening socket is full.
                Err(Errno::AGAIN) if waited < PATIENCE => {
                    std::thread::sleep(PAUSE);
                    waited += PAUSE;
                }
                Err(Errno::INTR) => {}
                Err(e) if nobody(e) => return Ok(None),
                Err(e) => return Err(std::io::Error::from(e).into()),
            }
        }
        let stream = UnixStream::from(socket);
        stream.set_nonblocking(false)?;
        Ok(Some(Client { stream, about: None }))
    }

    /// The request is about the mount at this place, not about the daemon's first one.
    pub fn about(mut self, mountpoint: Option<&Path>) -> Client {
        self.about = mountpoint.map(Path::to_owned);
        self
    }

    /// The connection once more. When its writing end is shut down, the daemon takes that for the wish to stop.
    ///
    /// # Errors
    /// When there are too many descriptors.
    pub fn stream(&self) -> std::io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// Gives up when the daemon says nothing for this long; without it, a long query may take its time.
    pub fn patience(&self, limit: Duration) -> Result<(), ClientError> {
        Ok(self.stream.set_read_timeout(Some(limit))?)
    }

    /// Asks, and hands out the rows as they come.
    ///
    /// # Errors
    /// The daemon's own error as [`ClientError::Failed`].
    pub fn ask<R: DeserializeOwned>(
        self,
        request: &Request,
        sink: &mut dyn FnMut(R) -> ControlFlow<()>,
    ) -> Result<Done, ClientError> {
        self.ask_and_watch(request, sink, &mut |_| {})
    }

    /// As [`Client::ask`]; `watch` is told how far it is.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_and_watch<R: DeserializeOwned>(
        mut self,
        request: &Request,
        sink: &mut dyn FnMut(R) -> ControlFlow<()>,
        watch: &mut dyn FnMut(ProgressRow),
    ) -> Result<Done, ClientError> {
        let mut line = match &self.about {
            Some(at) => {
                let about = hex(at.as_os_str().as_bytes());
                serde_json::to_vec(&Asked { about, request: request.clone() })?
            }
            None => serde_json::to_vec(request)?,
        };
        line.push(b'\n');
        self.stream.write_all(&line).map_err(ClientError::NotAsked)?;
        let mut input = BufReader::with_capacity(64 << 10, self.stream);
        loop {
            line.clear();
            if input.read_until(b'\n', &mut line)? == 0 || line.last() != Some(&b'\n') {
                return Err(ClientError::Cut);
            }
            match serde_json::from_slice(&line)? {
                Response::Row(row) => {
                    if sink(row).is_break() {
                        return Ok(Done::default());
                    }
                }
                Response::Progress(row) => watch(row),
                Response::Done(done) => return Ok(done),
                Response::Error(failure) => return Err(ClientError::Failed(failure)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::PsFilter;

    fn serve(dir: &Path, answer: &'static [u8]) -> std::thread::JoinHandle<String> {
        // Bound by its relative name through the directory, as the daemon does it.
        let (_fd, address) = address(dir).unwrap();
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &address).unwrap();
        rustix::net::listen(&socket, 4).unwrap();
        let listener = std::os::unix::net::UnixListener::from(socket);
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(answer).unwrap();
            line
        })
    }

    fn ask(dir: &Path) -> (Vec<u64>, Result<Done, ClientError>) {
        let mut rows = Vec::new();
        let client = Client::connect(dir).unwrap().unwrap();
        let done = client.ask(&Request::Ps(PsFilter::default()), &mut |row: u64| {
            rows.push(row);
            ControlFlow::Continue(())
        });
        (rows, done)
    }

    #[test]
    fn rows_then_an_end_even_below_a_long_path() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("x".repeat(120));
        std::fs::create_dir(&long).unwrap();
        assert!(Client::connect(&long).unwrap().is_none());
        let server = serve(&long, b"{\"row\":1}\n{\"row\":2}\n{\"done\":{\"notes\":[\"n\"]}}\n");
        let (rows, done) = ask(&long);
        assert_eq!(rows, [1, 2]);
        assert_eq!(done.unwrap().notes, ["n"]);
        assert_eq!(server.join().unwrap(), "{\"ps\":{\"all\":false}}\n");
        // The socket file is left over and nobody listens.
        assert!(Client::connect(&long).unwrap().is_none());
    }

    #[test]
    fn errors_and_cut_answers_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let server = serve(dir.path(), b"{\"row\":1}\n{\"error\":{\"message\":\"no\",\"exit\":2}}\n");
        assert!(matches!(ask(dir.path()).1, Err(ClientError::Failed(f)) if f.exit == 2));
        server.join().unwrap();
        std::fs::remove_file(dir.path().join(SOCKET)).unwrap();
        let server = serve(dir.path(), b"{\"row\":1}\n{\"row\"");
        assert!(matches!(ask(dir.path()), (rows, Err(ClientError::Cut)) if rows == [1]));
        server.join().unwrap();
    }
}
