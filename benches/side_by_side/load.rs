//! The load: signed PUTs, their bodies sent by sendfile(2) from a sparse file.

use super::Result;
use super::gateway::{ACCESS_KEY, SECRET_KEY};
use mizuchi_actors::secret::Secret;
use mizuchi_actors::sigv4::{PayloadHash, Signer, UpstreamRequest};
use nix::sys::sendfile::sendfile64;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// Most bytes of one sendfile call.
const PIECE: u64 = 1 << 20;

/// PUTs `count` bodies of `size` bytes on one connection; the time from the first byte sent to the
/// last answer.
pub(crate) fn put(address: SocketAddr, size: u64, count: usize) -> Result<Duration> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_TMPFILE)
        .open(std::env::temp_dir())?;
    file.set_len(size)?;
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let started = Instant::now();
    for _ in 0..count {
        let head = head(&address.to_string(), size);
        socket.write_all(head.as_bytes())?;
        let mut offset = 0;
        while (offset as u64) < size {
            let piece = PIECE.min(size - offset as u64);
            sendfile64(&socket, &file, Some(&mut offset), piece as usize)?;
        }
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut piece = [0; 4096];
            match socket.read(&mut piece)? {
                0 => return Err("the connection ended".into()),
                read => answer.extend(piece.iter().take(read)),
            }
        }
        if !answer.starts_with(b"HTTP/1.1 200") {
            return Err(String::from_utf8_lossy(&answer).into_owned().into());
        }
    }
    Ok(started.elapsed())
}

fn head(host: &str, size: u64) -> String {
    let signer = Signer::new(
        ACCESS_KEY.to_owned(),
        Secret::new(SECRET_KEY.to_owned()),
        None,
        "us-east-1".to_owned(),
    );
    let mut request = UpstreamRequest {
        method: "PUT",
        host: host.to_owned(),
        path: "/uploads/object".to_owned(),
        query: Vec::new(),
        headers: Vec::new(),
    };
    signer.sign(&mut request, PayloadHash::Unsigned, OffsetDateTime::now_utc());
    let mut head =
        format!("PUT {} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {size}\r\n", request.path);
    for (name, value) in &request.headers {
        // Writing to a String cannot fail.
        let _ = write!(head, "{name}: {}\r\n", String::from_utf8_lossy(value));
    }
    head + "\r\n"
}

/// Opens `count` connections that never finish what they began: nine in ten a head, one in ten a
/// body. They are slow for as long as the result lives.
pub(crate) fn slow_clients(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let mut clients = Vec::with_capacity(count);
    for index in 0..count {
        let mut socket = TcpStream::connect(address)?;
        if index % 10 == 0 {
            socket.write_all(head(&address.to_string(), 1 << 20).as_bytes())?;
            socket.write_all(b"x")?;
        } else {
            socket.write_all(b"PUT /uploads/slow HTTP/1.1\r\nHost: h\r\nX-")?;
        }
        clients.push(socket);
    }
    Ok(clients)
}
