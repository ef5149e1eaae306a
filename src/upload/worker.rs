//! A worker thread: a tree of actors like the gateway's, and the files that it takes from the queue.

use super::courier::{Courier, Stop, Upload};
use super::plan::Item;
use super::progress::{Event, Shown};
use super::stream;
use super::summary::add;
use actix_web::rt::System;
use mizuchi_actors::guardian::{ActorRef, Guardian};
use mizuchi_actors::s3_client_actor::S3ClientActor;
use mizuchi_actors::transfer::{PipeCache, ReplayResources, Turns};
use mizuchi_actors::upload_supervisor::UploadSupervisor;
use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::task::{Id, JoinError, JoinSet};

/// What a thread is for.
#[derive(Debug, Clone)]
pub(super) enum Work {
    /// The files in the queue.
    Files,
    /// Standard input.
    Stream(Item),
    /// What earlier runs have begun and nobody goes on with.
    Leftovers,
}

/// Starts a thread; it ends when there is nothing more to do, or the run is to end.
pub(super) fn start(upload: Arc<Upload>, work: Work) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("upload worker".to_owned()).spawn(move || {
        System::new().block_on(async move {
            let (guardian, courier) = plant(upload).await;
            match work {
                Work::Files => files(&courier).await,
                Work::Stream(item) => stream::send(&courier, item).await,
                Work::Leftovers => leftovers(&courier).await,
            }
            drop(guardian);
        });
    })
}

/// Builds this thread's tree, and waits until it stands.
async fn plant(upload: Arc<Upload>) -> (actix::Addr<Guardian>, Courier) {
    let engine = Arc::clone(&upload.engine);
    let mut guardian = Guardian::new(engine.metrics.actor_restarts.clone());
    let client = ActorRef::new("s3 client actor");
    let uploads = ActorRef::new("upload supervisor");
    let (of_client, bucket) = (Arc::clone(&engine), Arc::clone(&upload.bucket));
    guardian.child(client.clone(), move || S3ClientActor::new(&of_client, Arc::clone(&bucket)));
    let (of_uploads, clients) = (Arc::clone(&engine), vec![client.clone()]);
    guardian.child(uploads.clone(), move || {
        UploadSupervisor::new(Arc::clone(&of_uploads), clients.clone())
    });
    let replay = ReplayResources {
        budget: Arc::clone(&engine.replay),
        pipes: Arc::new(PipeCache::new(
            engine.zero_copy.pipe_buffer_size,
            Arc::clone(&engine.pipes),
        )),
        overflow: None,
        memory_per_part: 0,
        turns: Arc::new(Turns::new(Instant::now())),
    };
    let guardian = actix::Actor::start(guardian);
    while !(client.is_there() && uploads.is_there()) {
        tokio::task::yield_now().await;
    }
    (guardian, Courier { upload, client, uploads, replay })
}

/// Sends files until there are none. Interrupted, it ends when what is under way has ended.
async fn files(courier: &Courier) {
    let upload = &courier.upload;
    let mut under_way = JoinSet::new();
    let mut names = HashMap::new();
    loop {
        while let Some(ended) = under_way.try_join_next_with_id() {
            ended_one(upload, ended, &mut names).await;
        }
        let next = async {
            let item: Item = upload.queue.lock().await.recv().await?;
            // Nobody closes it.
            let lane = Arc::clone(&upload.lanes).acquire_owned().await.ok()?;
            Some((item, Arc::new(lane)))
        };
        let next = tokio::select! {
            biased;
            () = upload.stopped() => None,
            next = next => next,
        };
        let Some((item, lane)) = next else { break };
        let name = (item.path.clone(), item.key.clone());
        let task = under_way.spawn_local(courier.clone().deliver(item, lane));
        names.insert(task.id(), name);
    }
    // Whoever fills the queue is told that nobody takes anything out.
    if upload.is_stopped() {
        upload.queue.lock().await.close();
    }
    while let Some(ended) = under_way.join_next_with_id().await {
        ended_one(upload, ended, &mut names).await;
    }
}

async fn ended_one(
    upload: &Upload,
    ended: Result<(Id, ()), JoinError>,
    names: &mut HashMap<Id, (PathBuf, String)>,
) {
    match ended {
        Ok((id, ())) => drop(names.remove(&id)),
        Err(error) => {
            let (path, key) = names.remove(&error.id()).unwrap_or_default();
            add(&upload.counts.failed, 1);
            let why = format!("its task died: {error}");
            let (path, key) = (Shown::from(&*path), Some(key));
            upload.say(Event::Failed { path, key, code: None, why }).await;
        }
    }
}

async fn leftovers(courier: &Courier) {
    let begun =
        std::mem::take(&mut *courier.upload.begun.lock().unwrap_or_else(PoisonError::into_inner));
    let unwritten = || {
        courier.upload.end(Stop::Failed("the state file cannot be written".to_owned()));
    };
    let begun = begun
        .into_iter()
        .flat_map(|(print, of_file)| of_file.into_iter().map(move |begun| (print, begun)));
    for (print, begun) in begun {
        if courier.upload.is_stopped() {
            return;
        }
        let aborted = courier.abort_upload(print, &begun.key, &begun.upload_id).await;
        if aborted.is_err() {
            unwritten();
        }
    }
    for creating in &courier.upload.creating {
        if courier.upload.is_stopped() {
            return;
        }
        if courier.abort_unknown(creating).await.is_err() {
            unwritten();
        }
    }
}
