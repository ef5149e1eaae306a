//! A backend that speaks just enough S3: reads a head, discards the body in the kernel (MSG_TRUNC),
//! answers 200. It costs as little as a receiver can.

use super::Result;
use nix::sys::socket::{MsgFlags, recv};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;

/// To PutObject and UploadPart.
const STORED: &str = "";

const CREATED: &str = "<InitiateMultipartUploadResult><UploadId>sink</UploadId>\
    </InitiateMultipartUploadResult>";

const COMPLETED: &str = "<CompleteMultipartUploadResult><ETag>0</ETag>\
    </CompleteMultipartUploadResult>";

/// Starts the sink; it serves until the process ends.
pub(crate) fn start() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || drop(serve(socket)));
        }
    });
    Ok(address)
}

fn serve(mut socket: TcpStream) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut trash = vec![0; 1 << 20];
    loop {
        let mut head = Vec::new();
        let end = loop {
            let mut piece = [0; 4096];
            let count = socket.read(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            head.extend(piece.iter().take(count));
            if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length: usize = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok())
            .unwrap_or(0);
        let mut left = length.saturating_sub(head.len() - end);
        while left > 0 {
            let most = left.min(trash.len());
            let space = trash.get_mut(..most).unwrap_or_default();
            match recv(socket.as_raw_fd(), space, MsgFlags::MSG_TRUNC)? {
                0 => return Ok(()),
                count => left -= count,
            }
        }
        let first = text.lines().next().unwrap_or_default();
        let body = match (first.starts_with("post "), first.contains("?uploads")) {
            (true, true) => CREATED,
            (true, false) => COMPLETED,
            _ => STORED,
        };
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nETag: \"0\"\r\nContent-Length: {length}\r\n\r\n");
        socket.write_all([head.as_bytes(), body.as_bytes()].concat().as_slice())?;
    }
}
