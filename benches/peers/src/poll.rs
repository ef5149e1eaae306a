//! epoll, edge-triggered, with turns: who has used up its turn waits behind those that are ready.

use crate::Result;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::AsFd;
use std::time::Duration;

/// Events taken from the kernel at a time.
const EVENTS: usize = 512;

/// Tokens of what is ready.
pub(crate) struct Poll {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    again: Vec<u64>,
}

impl Poll {
    pub(crate) fn new() -> Result<Poll> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Poll { epoll, events: vec![EpollEvent::empty(); EVENTS], again: Vec::new() })
    }

    /// Watches a socket in both directions, by edges. It is forgotten when it is closed.
    pub(crate) fn watch(&self, socket: impl AsFd, token: u64) -> Result<()> {
        let both = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP;
        self.epoll.add(socket, EpollEvent::new(both | EpollFlags::EPOLLET, token))?;
        Ok(())
    }

    /// Watches a listener or a timer: ready for as long as it is readable.
    pub(crate) fn watch_readable(&self, source: impl AsFd, token: u64) -> Result<()> {
        self.epoll.add(source, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        Ok(())
    }

    /// `token` had more to do than its turn allowed: it is ready at once.
    pub(crate) fn again(&mut self, token: u64) {
        self.again.push(token);
    }

    /// Fills `ready`, each token once an event. Waits no longer than `most`.
    pub(crate) fn wait(&mut self, ready: &mut Vec<u64>, most: Option<Duration>) -> Result<()> {
        ready.clear();
        let most = if self.again.is_empty() { most } else { Some(Duration::ZERO) };
        let timeout = match most {
            None => EpollTimeout::NONE,
            // Rounded up: a wait that ends before its time would be made again and again.
            Some(most) => EpollTimeout::try_from(most.as_micros().div_ceil(1000) as u64)
                .unwrap_or(EpollTimeout::MAX),
        };
        match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => ready.extend(self.events.iter().take(count).map(EpollEvent::data)),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.append(&mut self.again);
        Ok(())
    }
}
