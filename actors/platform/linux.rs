//! Linux: splice(2), tee(2), pipe(7), open(2) with O_TMPFILE, tcp(7) with TCP_INFO.

use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, SpliceFFlags, fcntl, posix_fadvise};
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

/// Moves up to `length` bytes at `offset` of a file into a pipe, which must have room. Returns 0 at the
/// file's end. Waits for the disk: for the blocking pool.
pub fn splice_file(file: &File, offset: u64, pipe: impl AsFd, length: usize) -> io::Result<usize> {
    let mut at = i64::try_from(offset).map_err(io::Error::other)?;
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(nix::fcntl::splice(file, Some(&mut at), pipe, None, length, flags)?)
}

/// Has the kernel read a range of a file before it is wanted. Only a hint; may wait for a queue of the
/// disk.
pub fn will_need(file: &File, offset: u64, length: usize) {
    advise(file, offset, length as u64, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
}

/// Has the kernel begin to write a range that was just written to a file, so that less is left for
/// the fdatasync(2) at its end. Proves nothing, and hides no error from that.
///
/// POSIX_FADV_DONTNEED begins the writing of what is dirty, and lets go only of what is not
/// (posix_fadvise(2); sync_file_range(2) would take `unsafe` here).
pub fn begin_writing(file: &File, offset: u64, length: u64) {
    advise(file, offset, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

fn advise(file: &File, offset: u64, length: u64, advice: PosixFadviseAdvice) {
    if let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) {
        // Whoever does not know it does without.
        let _ = posix_fadvise(file, offset, length, advice);
    }
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
