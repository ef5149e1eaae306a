//! Linux: splice(2), tee(2), pipe(7), open(2) with O_TMPFILE, tcp(7) with TCP_INFO.

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl};
use nix::libc;
use nix::sys::socket::getsockopt;
use nix::unistd::pipe2;
use nix::{getsockopt_impl, sockopt_impl};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use tokio::net::TcpStream;

/// Whether bodies can go from socket to socket without entering the process.
pub const ZERO_COPY: bool = true;

/// A pipe, both ends non-blocking: reader and writer.
pub fn new_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?)
}

/// Asks for `size` bytes of slots in a pipe; returns what the kernel granted. EPERM (over the
/// unprivileged limits) and EBUSY leave it as it was.
pub fn grow_pipe(pipe: &OwnedFd, size: usize) -> io::Result<usize> {
    let asked = i32::try_from(size).unwrap_or(i32::MAX);
    let granted = match fcntl(pipe, FcntlArg::F_SETPIPE_SZ(asked)) {
        Ok(granted) => granted,
        Err(_) => fcntl(pipe, FcntlArg::F_GETPIPE_SZ)?,
    };
    Ok(usize::try_from(granted).unwrap_or(0))
}

/// Moves up to `length` bytes between two descriptors of which one is a pipe, without waiting.
/// `more`: further bytes follow at once (SPLICE_F_MORE); never on the last piece, as the kernel would
/// hold a partial segment back for up to 200 ms.
pub fn splice(from: impl AsFd, to: impl AsFd, length: usize, more: bool) -> io::Result<usize> {
    let mut flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    if more {
        flags |= SpliceFFlags::SPLICE_F_MORE;
    }
    Ok(nix::fcntl::splice(from, None, to, None, length, flags)?)
}

/// Duplicates up to `length` bytes from the front of a pipe to the back of another, consuming
/// nothing, without waiting.
pub fn tee(from: impl AsFd, to: impl AsFd, length: usize) -> io::Result<usize> {
    Ok(nix::fcntl::tee(from, to, length, SpliceFFlags::SPLICE_F_NONBLOCK)?)
}

/// A file in `directory` that has no name, mode 0600. The file system must know O_TMPFILE (ext4, xfs,
/// btrfs, tmpfs). Blocks.
pub fn unnamed_file(directory: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(OFlag::O_TMPFILE.bits())
        .open(directory)
}

sockopt_impl!(
    /// `struct tcp_info` of a connection.
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

/// Whether bytes that were written have never been sent, also after a reset. False when the kernel
/// does not say.
pub fn holds_unsent(stream: &TcpStream) -> bool {
    getsockopt(stream, TcpInfo).is_ok_and(|info| info.tcpi_notsent_bytes > 0)
}

/// Bytes of the machine's memory; None when the kernel does not say.
pub fn total_memory() -> Option<u64> {
    nix::sys::sysinfo::sysinfo().ok().map(|info| info.ram_total())
}
