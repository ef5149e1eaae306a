//! The root of a worker thread's tree: starts its actors, watches them, rebuilds one that died.
//!
//! `actix::Supervisor` does not restart an actor that panicked (the panic ends the task its context
//! runs in), so each child's task is spawned here and its join handle awaited. The others reach a
//! child through an [`ActorRef`], whose address the guardian replaces.

use actix::dev::ToEnvelope;
use actix::prelude::*;
use prometheus::IntCounterVec;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The pause before a dead actor is rebuilt: one that dies on every message must not spin.
const REBUILD_PAUSE: Duration = Duration::from_millis(10);

/// Messages that wait for an actor before their senders are parked.
const MAILBOX: usize = 1024;

/// Why an actor gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the {0} died before it answered")]
pub struct NoAnswer(pub &'static str);

/// A child that may die and be rebuilt: always reaches the one alive now.
pub struct ActorRef<A: Actor> {
    name: &'static str,
    address: Arc<Mutex<Option<Addr<A>>>>,
}

impl<A: Actor> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        ActorRef { name: self.name, address: Arc::clone(&self.address) }
    }
}

impl<A: Actor> std::fmt::Debug for ActorRef<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ActorRef({})", self.name)
    }
}

impl<A: Actor> ActorRef<A> {
    /// A reference to a child that is yet to be started.
    pub fn new(name: &'static str) -> Self {
        ActorRef { name, address: Arc::default() }
    }

    /// Not a copy of the address: actix allocates for each.
    fn with<T>(&self, used: impl FnOnce(&Addr<A>) -> T) -> Result<T, NoAnswer> {
        let address = self.address.lock().unwrap_or_else(PoisonError::into_inner);
        address.as_ref().map(used).ok_or(NoAnswer(self.name))
    }

    fn replace(&self, address: Option<Addr<A>>) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// Sends a message and waits for its result. The caller holds a permit for the work already:
    /// a mailbox bounds nothing.
    pub async fn ask<M>(&self, message: M) -> Result<M::Result, NoAnswer>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        let answer = self.with(|address| address.send(message))?;
        answer.await.map_err(|_| NoAnswer(self.name))
    }

    /// As [`ActorRef::ask`], for what is answered long after its handler has returned: the message
    /// that `make` gives holds the end to answer on.
    pub async fn begin<M, T>(
        &self,
        make: impl FnOnce(oneshot::Sender<T>) -> M,
    ) -> Result<T, NoAnswer>
    where
        M: Message<Result = ()> + Send + 'static,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        let (end, ended) = oneshot::channel();
        self.with(|address| address.do_send(make(end)))?;
        ended.await.map_err(|_| NoAnswer(self.name))
    }

    /// Whether the actor has an address: not before its guardian has started, nor while it is rebuilt.
    pub fn is_there(&self) -> bool {
        self.address.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Sends a hint: nothing is lost if it does not arrive.
    pub fn hint<M>(&self, message: M)
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
    {
        // Nobody is there: then nobody needs it.
        let _ = self.with(|address| address.do_send(message));
    }
}

/// How to build a child; object-safe, so that a guardian holds children of any kind.
trait Child {
    fn name(&self) -> &'static str;
    /// Starts it on this thread, and puts its address where its callers find it.
    fn start(&self) -> JoinHandle<()>;
}

struct ChildOf<A: Actor, B> {
    reference: ActorRef<A>,
    build: B,
}

impl<A, B> Child for ChildOf<A, B>
where
    A: Actor<Context = Context<A>>,
    B: Fn() -> A,
{
    fn name(&self) -> &'static str {
        self.reference.name
    }

    fn start(&self) -> JoinHandle<()> {
        let mut context = Context::new();
        // Past it a sender is parked and woken again, which costs more than the place. What bounds the
        // work is the permit that each sender holds.
        context.set_mailbox_capacity(MAILBOX);
        self.reference.replace(Some(context.address()));
        actix_rt::spawn(context.into_future((self.build)()))
    }
}

/// See the module.
pub struct Guardian {
    children: Vec<Box<dyn Child>>,
    restarts: IntCounterVec,
}

impl Guardian {
    /// A guardian without children. `restarts` counts rebuilt actors by name.
    pub fn new(restarts: IntCounterVec) -> Self {
        Guardian { children: Vec::new(), restarts }
    }

    /// Adds a child; it is started with the guardian, on the same thread.
    pub fn child<A>(&mut self, reference: ActorRef<A>, build: impl Fn() -> A + 'static)
    where
        A: Actor<Context = Context<A>>,
    {
        self.children.push(Box::new(ChildOf { reference, build }));
    }

    fn raise(&self, index: usize, context: &mut Context<Self>) {
        let Some(child) = self.children.get(index) else { return };
        let name = child.name();
        let task = child.start();
        context.spawn(task.into_actor(self).map(move |ended, guardian, context| {
            let why = match ended {
                Err(error) if error.is_panic() => "panicked",
                _ => "stopped",
            };
            log::error!("the {name} {why}: rebuilding it");
            guardian.restarts.with_label_values(&[name]).inc();
            context
                .run_later(REBUILD_PAUSE, move |guardian, context| guardian.raise(index, context));
        }));
    }
}

impl Actor for Guardian {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        for index in 0..self.children.len() {
            self.raise(index, context);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    struct Fragile;
    impl Actor for Fragile {
        type Context = Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "u8")]
    struct Say(u8);
    impl Handler<Say> for Fragile {
        type Result = u8;
        fn handle(&mut self, message: Say, _: &mut Context<Self>) -> u8 {
            assert_ne!(message.0, 13, "a message that kills");
            message.0
        }
    }

    #[actix_rt::test]
    async fn a_child_that_panics_is_rebuilt_and_reached_again() {
        let metrics = Metrics::new().unwrap();
        let mut guardian = Guardian::new(metrics.actor_restarts.clone());
        let child = ActorRef::new("fragile");
        guardian.child(child.clone(), || Fragile);
        assert!(!child.is_there());
        let _guardian = guardian.start();
        while !child.is_there() {
            tokio::task::yield_now().await;
        }
        assert_eq!(child.ask(Say(1)).await, Ok(1));
        assert_eq!(child.ask(Say(13)).await, Err(NoAnswer("fragile")));
        while child.ask(Say(2)).await != Ok(2) {
            tokio::task::yield_now().await;
        }
        assert_eq!(metrics.actor_restarts.with_label_values(&["fragile"]).get(), 1);
    }
}
