//! Mounting and unmounting: mount(2) for root, the setuid helper fusermount3 for everybody else.

use std::ffi::{CString, OsStr, OsString};
use std::io::{self, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};

use super::adapter::MAX_IO;

/// File system type in the mount table.
pub const FSTYPE: &str = "fuse.regentfs";

/// What keeps a mount from coming about, with what to do next.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("there is no /dev/fuse: load the module (`modprobe fuse`), or give the container the device")]
    NoDevice,
    #[error("/dev/fuse may not be opened by this user: `chmod 666 /dev/fuse` as root, as distributions have it")]
    NoPermission,
    #[error("fusermount3 is not installed: install the package fuse3, or mount as root")]
    NoHelper,
    #[error("fusermount3 refused: {0}")]
    Helper(String),
    #[error("cannot mount at {path}: {source}", path = .path.display())]
    System { path: std::path::PathBuf, source: io::Error },
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The name under which the mount stands in the mount table: it says whose changes these are.
pub fn source(repo: &Path) -> OsString {
    let mut name = b"regentfs:".to_vec();
    name.extend_from_slice(repo.as_os_str().as_bytes());
    OsString::from_vec(name)
}

/// Mounts at `mountpoint` and returns the connection to the kernel. With `read_only` the kernel refuses all changes itself.
pub fn mount(repo: &Path, mountpoint: &Path, read_only: bool) -> Result<OwnedFd, MountError> {
    if is_root() { mount_directly(repo, mountpoint, read_only) } else { mount_by_helper(repo, mountpoint, read_only) }
}

fn mount_directly(repo: &Path, mountpoint: &Path, read_only: bool) -> Result<OwnedFd, MountError> {
    use rustix::fs::{Mode, OFlags};
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(|e| match e {
        rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO => MountError::NoDevice,
        rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => MountError::NoPermission,
        e => MountError::System { path: "/dev/fuse".into(), source: e.into() },
    })?;
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read={MAX_IO}",
        device.as_raw_fd()
    );
    let failed = |source: io::Error| MountError::System { path: mountpoint.to_owned(), source };
    let options = CString::new(options).map_err(|e| failed(e.into()))?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    flags.set(MountFlags::RDONLY, read_only);
    rustix::mount::mount(source(repo), mountpoint, FSTYPE, flags, &*options).map_err(|e| failed(e.into()))?;
    Ok(device)
}

/// Whether /etc/fuse.conf lets plain users share their mounts with others (and so with root and sudo).
fn others_allowed() -> bool {
    std::fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"))
}

/// Commas and backslashes separate mount options.
fn escape(value: &OsStr) -> OsString {
    let mut escaped = Vec::new();
    for &byte in value.as_bytes() {
        if byte == b',' || byte == b'\\' {
            escaped.push(b'\\');
        }
        escaped.push(byte);
    }
    OsString::from_vec(escaped)
}

fn mount_by_helper(repo: &Path, mountpoint: &Path, read_only: bool) -> Result<OwnedFd, MountError> {
    if !Path::new("/dev/fuse").exists() {
        return Err(MountError::NoDevice);
    }
    let failed = |source: io::Error| MountError::System { path: mountpoint.to_owned(), source };
    // Without CLOEXEC: the helper inherits its end. Nothing else is started by this process at this time.
    let (ours, helpers) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None)
        .map_err(|e| failed(e.into()))?;
    let mut options = OsString::from("subtype=regentfs,nosuid,nodev,noatime,default_permissions,max_read=");
    options.push(MAX_IO.to_string());
    if read_only {
        options.push(",ro");
    }
    if others_allowed() {
        options.push(",allow_other");
    }
    options.push(",fsname=");
    options.push(escape(&source(repo)));
    let mut helper = Command::new("fusermount3")
        .arg("-o")
        .arg(options)
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", helpers.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| if e.kind() == io::ErrorKind::NotFound { MountError::NoHelper } else { failed(e) })?;
    drop(helpers);
    let received = receive(&ours);
    let mut said = String::new();
    if let Some(stderr) = &mut helper.stderr {
        let _ = stderr.read_to_string(&mut said);
    }
    let status = helper.wait().map_err(failed)?;
    match received {
        Ok(Some(device)) => {
            rustix::io::fcntl_setfd(&device, rustix::io::FdFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
            Ok(device)
        }
        Ok(None) | Err(_) => {
            let said = said.trim().trim_start_matches("fusermount3: ");
            if said.contains("/dev/fuse") && said.contains("ermission") {
                return Err(MountError::NoPermission);
            }
            let said = if said.is_empty() { format!("it ended with {status}") } else { said.replace('\n', "; ") };
            Err(MountError::Helper(said))
        }
    }
}

/// The descriptor that fusermount3 sends over its socket; `None` when it closed the socket without one.
fn receive(socket: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::empty()) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return Ok(Some(descriptor));
        }
    }
    Ok(None)
}

/// How to take a mount away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmount {
    /// Only when nothing uses it.
    Idle,
    /// At once from the tree; what is open goes on until it is closed.
    Detach,
}

/// Unmounts what is mounted at `mountpoint`.
///
/// # Errors
/// `EBUSY` when something uses it ([`Unmount::Idle`]).
pub fn unmount(mountpoint: &Path, how: Unmount) -> io::Result<()> {
    let flags = match how {
        Unmount::Idle => UnmountFlags::NOFOLLOW,
        Unmount::Detach => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(mountpoint, flags) {
        Err(rustix::io::Errno::PERM) => unmount_by_helper(mountpoint, how),
        other => Ok(other?),
    }
}

fn unmount_by_helper(mountpoint: &Path, how: Unmount) -> io::Result<()> {
    let mut helper = Command::new("fusermount3");
    helper.arg("-u");
    if how == Unmount::Detach {
        helper.arg("-z");
    }
    let output = helper.arg("--").arg(mountpoint).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    Err(io::Error::other(said.trim().to_owned()))
}
