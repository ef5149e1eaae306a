//! One file on its way: opened, sent as an upload of the UploadSupervisor's like a gateway's, recorded.

use super::digest::{Checksum, Sum};
use super::failure::{self, Failure, Judgment, advice, in_words, judge};
use super::local::{Local, changed};
use super::plan::{Headers, Item};
use super::progress::{Event, Shown};
use super::state::{Begun, Creating, Fingerprint, Line, StateWriter, There};
use super::summary::{Counts, add};
use mizuchi_actors::config::{Bucket, Engine};
use mizuchi_actors::guardian::ActorRef;
use mizuchi_actors::s3::error::S3Error;
use mizuchi_actors::s3::upstream::UpstreamTemplate;
use mizuchi_actors::s3_client_actor::S3ClientActor;
use mizuchi_actors::transfer::{PartSource, ReplayResources};
use mizuchi_actors::upload::job::{BackendAnswer, Before, Content, Permit, Proof, UploadJob};
use mizuchi_actors::upload::machine::Kind;
use mizuchi_actors::upload_supervisor::{BeginUpload, UploadSupervisor};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::spawn_blocking;

/// The first pause of those before a request is made again.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where other clients are told of a proxy.
const PROXIES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"];

/// Bytes of the largest PutObject (Amazon S3 User Guide, "Uploading objects").
const MAX_PUT: u64 = 5 << 30;

/// Files that may run out of tries one after another, before nothing is sent any more: what is the matter then
/// is not the files.
const MAX_DRY: u32 = 100;

/// Requests that may be answered 403 one after another: what is forbidden then is no single key.
const MAX_FORBIDDEN: u32 = 32;

/// Why no more files are begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// By a signal.
    Interrupted,
    /// By what no file survives.
    Failed(String),
}

/// What all threads of an upload share.
pub(super) struct Upload {
    pub(super) engine: Arc<Engine>,
    pub(super) bucket: Arc<Bucket>,
    pub(super) checksum: Checksum,
    pub(super) part_size: u64,
    pub(super) retries: u32,
    /// Requests that may be under way.
    pub(super) lanes: Arc<Semaphore>,
    /// Files to send.
    pub(super) queue: tokio::sync::Mutex<mpsc::Receiver<Item>>,
    pub(super) state: StateWriter,
    /// What is there.
    pub(super) done: There,
    /// What earlier runs have begun; what is taken up is taken out, the last of a file first.
    pub(super) begun: Mutex<HashMap<Fingerprint, Vec<Begun>>>,
    /// What an earlier run may have begun without knowing.
    pub(super) creating: Vec<Creating>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) counts: Arc<Counts>,
    pub(super) stop: watch::Sender<Stop>,
    /// The backend has taken something of earlier runs.
    pub(super) taken_before: bool,
    /// Of this one.
    pub(super) any_success: AtomicBool,
    /// Requests that have run out of tries since it last did.
    pub(super) dry: AtomicU32,
    /// Requests that it has answered 403, since it last did.
    pub(super) forbidden: AtomicU32,
    /// Multipart uploads that should have been aborted and perhaps are not.
    pub(super) left_behind: AtomicU64,
}

impl Upload {
    /// Ends the run; the first reason counts.
    pub(super) fn end(&self, why: Stop) {
        self.stop.send_if_modified(|stop| {
            let first = *stop == Stop::No;
            if first {
                *stop = why;
            }
            first
        });
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow() != Stop::No
    }

    /// Ends when the run is to end.
    pub(super) async fn stopped(&self) {
        let mut stop = self.stop.subscribe();
        // The sender is `self`'s own.
        let _ = stop.wait_for(|stop| *stop != Stop::No).await;
    }

    pub(super) fn take_begun(&self, print: &Fingerprint) -> Option<Begun> {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let Entry::Occupied(mut of_file) = begun.entry(*print) else { return None };
        let last = of_file.get_mut().pop();
        if of_file.get().is_empty() {
            of_file.remove();
        }
        last
    }

    /// Says something. Waits while nobody reads.
    pub(super) async fn say(&self, event: Event) {
        // The reporter outlives every sender, unless it has panicked.
        let _ = self.events.send(event).await;
    }
}

/// A place among the requests that may be under way.
pub(super) type Lane = Arc<OwnedSemaphorePermit>;

/// A file that is there.
pub(super) struct Sent {
    pub(super) etag: String,
    pub(super) bytes: u64,
    pub(super) resumed: u64,
    /// The multipart upload that it came by.
    pub(super) upload_id: Option<String>,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Refused {
    /// For good: what the backend says.
    By(S3Error),
    Failure(Failure),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        match refused {
            Refused::By(error) => Failure::Refused(error),
            Refused::Failure(failure) => failure,
        }
    }
}

/// See the module. Clones are cheap.
#[derive(Clone)]
pub(super) struct Courier {
    pub(super) upload: Arc<Upload>,
    pub(super) client: ActorRef<S3ClientActor>,
    pub(super) uploads: ActorRef<UploadSupervisor>,
    pub(super) replay: ReplayResources,
}

impl Courier {
    /// Sends a file, and says what became of it.
    pub(super) async fn deliver(self, item: Item, lane: Lane) {
        let sent = self.send(&item, &lane).await;
        self.tell(item, lane, sent).await;
    }

    /// Says what became of a file.
    pub(super) async fn tell(&self, item: Item, lane: Lane, sent: Result<Option<Sent>, Failure>) {
        let upload = &self.upload;
        // Said once, at the end; before the lane is another file's.
        if let Err(Failure::Run(why)) = &sent {
            upload.end(Stop::Failed(why.clone()));
        }
        drop(lane);
        let (code, why) = match sent {
            Ok(None) => return,
            Ok(Some(Sent { etag, bytes, resumed, .. })) => {
                add(&upload.counts.sent, 1);
                let (path, key) = (Shown::from(&*item.path), item.key);
                let event = Event::Uploaded { path, key, bytes, etag, resumed_bytes: resumed };
                return upload.say(event).await;
            }
            Err(Failure::Stopped | Failure::Run(_)) => return,
            Err(Failure::File(why)) => (None, why),
            Err(Failure::Refused(error)) => (failure::code(&error), in_words(&error)),
        };
        add(&upload.counts.failed, 1);
        let (path, key) = (Shown::from(&*item.path), Some(item.key));
        upload.say(Event::Failed { path, key, code, why }).await;
    }

    /// Sends a file. None: it was there already.
    async fn send(&self, item: &Item, lane: &Lane) -> Result<Option<Sent>, Failure> {
        let (checksum, of) = (self.upload.checksum, item.clone());
        let mut local = blocking(move || Local::open(&of, checksum)).await?;
        let print = Fingerprint::of(item, local.stamp);
        let length = local.stamp.length;
        if self.upload.done.has(&print) {
            add(&self.upload.counts.already, 1);
            add(&self.upload.counts.already_bytes, length);
            return Ok(None);
        }
        if self.upload.done.has_key_of(&print) {
            self.record(&Line::Replacing { file: print }, true).await?;
        }
        let sent = match local.small.take() {
            Some((bytes, sum)) => {
                let content =
                    || self.content(PartSource::stored_bytes(bytes.clone(), self.replay()));
                // It was read whole, and is what it was then.
                let etag = self.put(item, length, &sum, &content, None, lane).await?;
                add(&self.upload.counts.sent_bytes, length);
                Sent { etag, bytes: length, resumed: 0, upload_id: None }
            }
            None if length > self.most_in_one() || self.is_begun(&print) => {
                self.send_parts(item, print, &local, lane).await?
            }
            None => {
                let sum = self.sum(&local, 0, length).await?;
                let content = || {
                    let file = Arc::clone(&local.file);
                    self.content(PartSource::stored(file, 0, length, self.replay()))
                };
                let etag = self.put(item, length, &sum, &content, Some(&local), lane).await?;
                unchanged(&local).await?;
                add(&self.upload.counts.sent_bytes, length);
                Sent { etag, bytes: length, resumed: 0, upload_id: None }
            }
        };
        let (key, etag, upload_id) = (item.key.clone(), sent.etag.clone(), sent.upload_id.clone());
        self.record(&Line::Done { file: print, key, etag, upload_id }, false).await?;
        Ok(Some(sent))
    }

    /// Bytes of the longest file that goes in one request.
    fn most_in_one(&self) -> u64 {
        self.upload.part_size.saturating_mul(2).min(MAX_PUT)
    }

    fn is_begun(&self, print: &Fingerprint) -> bool {
        let begun = &self.upload.begun;
        begun.lock().unwrap_or_else(PoisonError::into_inner).contains_key(print)
    }

    /// A PutObject; the object's ETag.
    pub(super) async fn put(
        &self,
        item: &Item,
        length: u64,
        sum: &Sum,
        content: &dyn Fn() -> Content,
        local: Option<&Local>,
        lane: &Lane,
    ) -> Result<String, Failure> {
        let mut headers = object_headers(item);
        headers.extend(sum.headers());
        let request = UpstreamTemplate {
            method: "PUT",
            key: item.key.clone(),
            query: Vec::new(),
            headers,
            payload: sum.payload(),
            length: Some(length),
        };
        let kind = Kind::PutObject { conditional: false };
        let ask = Ask { kind, request: &request, proof: sum.proof(), content, local };
        let answer = self.ask(ask, lane).await?;
        sum.check(&answer).map_err(Failure::File)
    }

    /// Makes a request until it is answered for good, or the tries are used up.
    pub(super) async fn ask(&self, ask: Ask<'_>, lane: &Lane) -> Result<BackendAnswer, Refused> {
        let upload = &self.upload;
        let mut tried = 0;
        loop {
            let job = Box::new(UploadJob {
                bucket_index: 0,
                bucket: Arc::clone(&upload.bucket),
                kind: ask.kind,
                request: ask.request.clone(),
                content: (ask.content)(),
                plan: None,
                proof: ask.proof.clone(),
                permit: Permit::Shared(Arc::clone(lane)),
            });
            let ended = self.uploads.begin(|end| BeginUpload(job, end)).await;
            let (judgment, error) = match ended.map(|end| end.result) {
                Ok(Ok(answer)) => {
                    upload.any_success.store(true, Ordering::Relaxed);
                    upload.dry.store(0, Ordering::Relaxed);
                    upload.forbidden.store(0, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(error)) => (self.judge(&error), Some(error)),
                // The supervisor died, and is rebuilt.
                Err(_) => (Judgment::Again, None),
            };
            if let Some(local) = ask.local {
                unchanged(local).await.map_err(Refused::Failure)?;
            }
            let text = error.as_ref().map_or("it was not answered".to_owned(), in_words);
            match (judgment, error) {
                (Judgment::Run, Some(error)) => {
                    // Another key may fare better.
                    let of = match &*error.code {
                        "AccessDenied" => format!(", for {:?}", ask.request.key),
                        _ => String::new(),
                    };
                    let why = format!("{text}{of} ({})", advice(&error));
                    return Err(Refused::Failure(Failure::Run(why)));
                }
                (Judgment::File, Some(error)) => return Err(Refused::By(error)),
                (_, error) if tried >= upload.retries => return Err(self.give_up(text, error)),
                _ => {}
            }
            log::warn!("{}: tried again: {text}", ask.request.key);
            self.pause(tried).await.map_err(Refused::Failure)?;
            tried += 1;
        }
    }

    /// Waits before another try.
    pub(super) async fn pause(&self, tried: u32) -> Result<(), Failure> {
        tokio::select! {
            () = tokio::time::sleep(pause(tried, rand::random())) => Ok(()),
            () = self.upload.stopped() => Err(Failure::Stopped),
        }
    }

    fn judge(&self, error: &S3Error) -> Judgment {
        let upload = &self.upload;
        let may_write = upload.taken_before || upload.any_success.load(Ordering::Relaxed);
        let keys = &upload.bucket.backend.keys;
        let renewed = keys.seconds_left(OffsetDateTime::now_utc()).is_some();
        let judgment = judge(error, may_write, renewed);
        if judgment == Judgment::File
            && error.status == 403
            && upload.forbidden.fetch_add(1, Ordering::Relaxed) + 1 >= MAX_FORBIDDEN
        {
            return Judgment::Run;
        }
        judgment
    }

    /// The tries are used up.
    fn give_up(&self, text: String, error: Option<S3Error>) -> Refused {
        let dry = self.upload.dry.fetch_add(1, Ordering::Relaxed) + 1;
        if !self.upload.any_success.load(Ordering::Relaxed) || dry >= MAX_DRY {
            let mut why = format!("{text} (nothing gets through: check --endpoint, or try later");
            if let Some(name) = PROXIES.iter().find(|name| std::env::var_os(name).is_some()) {
                why.push_str(&format!("; {name} is set, and proxies are not used"));
            }
            return Refused::Failure(Failure::Run(why + ")"));
        }
        match error {
            Some(error) => Refused::By(error),
            None => Refused::Failure(Failure::File(text)),
        }
    }

    /// The checksum of a range of the file.
    pub(super) async fn sum(
        &self,
        local: &Local,
        offset: u64,
        length: u64,
    ) -> Result<Sum, Failure> {
        let (local, checksum) = (local.clone(), self.upload.checksum);
        blocking(move || local.sum(checksum, offset, length)).await
    }

    /// Writes a line to the state file. One that cannot be written ends the run: nobody would know what was
    /// done.
    pub(super) async fn record(&self, line: &Line, sync: bool) -> Result<(), Failure> {
        self.upload.state.write(line, sync).await.map_err(Failure::Run)
    }

    pub(super) fn replay(&self) -> ReplayResources {
        self.replay.clone()
    }

    pub(super) fn content(&self, source: PartSource) -> Content {
        let before = if source.as_bytes().is_some() { Before::All } else { Before::First };
        Content::Body { source: Box::new(source), before }
    }
}

/// A request to make.
pub(super) struct Ask<'a> {
    pub(super) kind: Kind,
    pub(super) request: &'a UpstreamTemplate,
    pub(super) proof: Proof,
    /// Makes its body, for each try.
    pub(super) content: &'a dyn Fn() -> Content,
    /// The file that the body stands in.
    pub(super) local: Option<&'a Local>,
}

/// The headers that the object gets: the manifest's, and a content type by the file's name.
pub(super) fn object_headers(item: &Item) -> Headers {
    let mut headers = Headers::clone(&item.headers);
    if !headers.iter().any(|(name, _)| name == "content-type") {
        let guess = mime_guess::from_path(&item.path).first_raw();
        headers.extend(guess.map(|kind| ("content-type".to_owned(), kind.as_bytes().to_vec())));
    }
    headers
}

/// Errors when somebody has written to the file since it was opened.
pub(super) async fn unchanged(local: &Local) -> Result<(), Failure> {
    let local = local.clone();
    blocking(move || if local.is_as_it_was()? { Ok(()) } else { Err(changed()) }).await
}

/// Does what waits for a disk, where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let done = spawn_blocking(work).await.map_err(io::Error::other).flatten();
    done.map_err(|error| Failure::File(error.to_string()))
}

/// The pause after `tried` tries, between half and all of it, so that what failed together does not come back
/// together.
fn pause(tried: u32, random: u32) -> Duration {
    let whole = PAUSE.saturating_mul(1 << tried.min(10)).min(LONGEST_PAUSE);
    whole.saturating_mul(500 + random % 501) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        assert_eq!(pause(0, 500), PAUSE);
        assert_eq!(pause(2, 0), PAUSE * 2);
        assert_eq!(pause(30, 500), LONGEST_PAUSE);
    }
}
