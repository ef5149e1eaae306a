//! How a handler answers: at once where it can, from a task of its own where it must wait.
//!
//! `actix::ResponseFuture` spawns a task for each message, also where nothing is waited for; most of
//! what the actors ask each other is decided without waiting.

use actix::dev::{MessageResponse, OneshotSender};
use actix::prelude::*;
use std::pin::Pin;
use std::task::{self, Poll, Waker};

/// A message's result, now or later.
pub struct Answer<T>(State<T>);

enum State<T> {
    Now(T),
    Later(Pin<Box<dyn Future<Output = T>>>),
}

impl<T: 'static> Answer<T> {
    /// Lets the work go as far as it comes without waiting; the rest is a task. Until then the actor
    /// handles no other message.
    pub fn of(work: impl Future<Output = T> + 'static) -> Self {
        let mut work: Pin<Box<dyn Future<Output = T>>> = Box::pin(work);
        // Nobody is woken: a task polls what it was given before it sleeps.
        match work.as_mut().poll(&mut task::Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => Answer(State::Now(result)),
            Poll::Pending => Answer(State::Later(work)),
        }
    }
}

impl<A, M, T> MessageResponse<A, M> for Answer<T>
where
    A: Actor,
    M: Message<Result = T>,
    T: 'static,
{
    fn handle(self, _: &mut A::Context, asker: Option<OneshotSender<T>>) {
        // An asker that is gone is not told.
        let tell = move |result| drop(asker.map(|asker| asker.send(result)));
        match self.0 {
            State::Now(result) => tell(result),
            State::Later(work) => drop(actix_rt::spawn(async move { tell(work.await) })),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    struct Waits;
    impl Actor for Waits {
        type Context = Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "u8")]
    struct After(Option<tokio::sync::oneshot::Receiver<u8>>);
    impl Handler<After> for Waits {
        type Result = Answer<u8>;
        fn handle(&mut self, After(turn): After, _: &mut Context<Self>) -> Answer<u8> {
            Answer::of(async move {
                match turn {
                    Some(turn) => turn.await.unwrap_or_default(),
                    None => 1,
                }
            })
        }
    }

    #[actix_rt::test]
    async fn one_that_waits_keeps_nobody_waiting() {
        let actor = Waits.start();
        let (go, turn) = tokio::sync::oneshot::channel();
        let slow = actor.send(After(Some(turn)));
        assert_eq!(actor.send(After(None)).await.unwrap(), 1);
        go.send(2).unwrap();
        assert_eq!(slow.await.unwrap(), 2);
    }
}
