//! A large file on its way: begun anew or gone on with, part by part, completed.
//!
//! The state file has the upload's id before its first part goes, and each part's ETag when it is there. What
//! it has is gone on with where the backend still has the same parts; a part that was under way at the end of
//! an earlier run is sent again. The object comes into being with Complete, which is sent only if nobody has
//! written to the file.

use super::courier::{Ask, Courier, Lane, Refused, Sent, object_headers, unchanged};
use super::digest::{self, Sum};
use super::failure::{Failure, in_words};
use super::local::Local;
use super::plan::{Headers, Item};
use super::progress::Event;
use super::state::{Begun, Creating, Fingerprint, Line, PartDone};
use super::summary::add;
use mizuchi_actors::origin::{self, PartThere, SweepError};
use mizuchi_actors::orphans::{Window, lost_ones, wall_clock};
use mizuchi_actors::s3::error::Fault;
use mizuchi_actors::s3::etag::is_digest;
use mizuchi_actors::s3::upstream::UpstreamTemplate;
use mizuchi_actors::s3::xml;
use mizuchi_actors::sigv4::PayloadHash;
use mizuchi_actors::transfer::PartSource;
use mizuchi_actors::upload::job::{Content, Proof};
use mizuchi_actors::upload::machine::{Kind, Proven};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use tokio::task::JoinSet;

/// The most parts of an upload (Amazon S3 User Guide, "Multipart upload limits").
pub(super) const MAX_PARTS: u64 = 10_000;

/// How often a file is begun anew whose upload, or a part of it, the backend has lost.
const MAX_ANEW: u32 = 2;

/// Milliseconds within which a CreateMultipartUpload is carried out, restarts and all.
const CREATE_TAKES: u64 = 120_000;

/// How an attempt with one upload ended.
pub(super) enum Came {
    /// It is there; the ETag.
    To(String),
    /// The backend has another upload than was taken for granted, or none.
    Astray(String),
}

/// One upload of a file.
#[derive(Clone)]
struct Large {
    item: Arc<Item>,
    print: Fingerprint,
    local: Local,
    upload_id: Arc<str>,
    part_size: u64,
}

impl Large {
    fn part_count(&self) -> u64 {
        self.local.stamp.length.div_ceil(self.part_size)
    }

    /// Offset and length of a part; numbers are from 1.
    fn range(&self, number: u16) -> (u64, u64) {
        let offset = u64::from(number.saturating_sub(1)) * self.part_size;
        (offset, self.local.stamp.length.saturating_sub(offset).min(self.part_size))
    }
}

/// Whether a part is there that was sent. Of one without an ETag the length must do: the Complete names the
/// ETag that it was answered.
fn is_still(found: &PartThere, part: &PartDone, length: u64) -> bool {
    let is_it = found.etag.as_ref().is_none_or(|etag| is_digest(etag, &part.etag));
    is_it && found.length == length
}

/// A request to an upload: of this part, or of the whole.
pub(super) fn request(
    method: &'static str,
    key: &str,
    upload_id: &str,
    part: Option<u16>,
) -> UpstreamTemplate {
    let part = part.map(|number| ("partNumber".to_owned(), number.to_string()));
    let id = ("uploadId".to_owned(), upload_id.to_owned());
    UpstreamTemplate {
        method,
        key: key.to_owned(),
        query: part.into_iter().chain([id]).collect(),
        headers: Headers::new(),
        payload: PayloadHash::Empty,
        length: None,
    }
}

impl Courier {
    /// Sends a file in parts.
    pub(super) async fn send_parts(
        &self,
        item: &Item,
        print: Fingerprint,
        local: &Local,
        lane: &Lane,
    ) -> Result<Sent, Failure> {
        let bytes = local.stamp.length;
        let sent = |etag, resumed, id: &str| {
            Ok(Sent { etag, bytes, resumed, upload_id: Some(id.to_owned()) })
        };
        let mut anew = 0;
        loop {
            let (large, there) = match self.upload.take_begun(&print) {
                Some(begun) if begun.checksum != self.upload.checksum.word() => {
                    self.abort_upload(print, &begun.key, &begun.upload_id).await?;
                    continue;
                }
                Some(begun) => {
                    let upload_id = begun.upload_id.clone();
                    match self.resume(item, print, local, begun).await? {
                        Resumed::With(large, there) => (large, there),
                        Resumed::There(etag) => return sent(etag, bytes, &upload_id),
                        Resumed::Gone => {
                            self.record(&Line::Gone { file: print, upload_id }, false).await?;
                            continue;
                        }
                    }
                }
                None => {
                    let part_size = part_size(bytes, self.upload.part_size);
                    let upload_id = self.create(item, print, part_size, lane).await?.into();
                    let (item, local) = (Arc::new(item.clone()), local.clone());
                    (Large { item, print, local, upload_id, part_size }, BTreeMap::new())
                }
            };
            let resumed = there.keys().map(|number| large.range(*number).1).sum();
            add(&self.upload.counts.already_bytes, resumed);
            match self.bring(&large, there, lane).await {
                Ok(Came::To(etag)) => return sent(etag, resumed, &large.upload_id),
                Ok(Came::Astray(why)) => {
                    self.abort(&large).await?;
                    if anew == MAX_ANEW {
                        return Err(Failure::File(why));
                    }
                    log::warn!("{}: begun anew: {why}", item.key);
                    anew += 1;
                }
                Err(failure) => {
                    // One that was interrupted, or ran out of tries, is gone on with by the next run.
                    if unchanged(local).await.is_err() {
                        self.abort(&large).await?;
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// Begins an upload; its id.
    pub(super) async fn create(
        &self,
        item: &Item,
        print: Fingerprint,
        part_size: u64,
        lane: &Lane,
    ) -> Result<String, Failure> {
        let mut headers = object_headers(item);
        headers.extend(self.upload.checksum.create_headers());
        let request = UpstreamTemplate {
            method: "POST",
            key: item.key.clone(),
            query: vec![("uploads".to_owned(), String::new())],
            headers,
            payload: PayloadHash::Empty,
            length: Some(0),
        };
        let (key, at) = (item.key.clone(), wall_clock());
        self.record(&Line::Creating { file: print, key, at }, true).await?;
        let content = || Content::None;
        let (kind, proof) = (Kind::Create, Proof::None);
        let ask = Ask { kind, request: &request, proof, content: &content, local: None };
        let answer = match self.ask(ask, lane).await {
            Ok(answer) => answer,
            Err(refused) => {
                // The backend says that it has begun nothing.
                if matches!(&refused, Refused::By(error) if error.fault == Fault::Client) {
                    self.record(&Line::Searched { file: print, at }, false).await?;
                }
                return Err(refused.into());
            }
        };
        let upload_id = xml::parse_initiate(&answer.body)
            .map_err(|error| Failure::File(format!("CreateMultipartUpload: {error}")))?;
        let (key, id) = (item.key.clone(), upload_id.clone());
        let checksum = self.upload.checksum.word();
        let line = Line::Begun { file: print, key, upload_id: id, part_size, checksum };
        self.record(&line, true).await?;
        Ok(upload_id)
    }

    /// What an earlier run has begun: the parts that the backend still has.
    async fn resume(
        &self,
        item: &Item,
        print: Fingerprint,
        local: &Local,
        begun: Begun,
    ) -> Result<Resumed, Failure> {
        let Begun { upload_id, part_size, mut parts, .. } = begun;
        let (item, local) = (Arc::new(item.clone()), local.clone());
        let large = Large { item, print, local, upload_id: upload_id.into(), part_size };
        let (bucket, id) = (&self.upload.bucket, &*large.upload_id);
        let mut looks = 0;
        loop {
            let client = self.client.clone();
            match origin::list_parts(bucket, client, &large.item.key, id).await {
                Ok(Some(there)) => {
                    parts.retain(|number, part| {
                        let found = there.get(number);
                        found.is_some_and(|found| is_still(found, part, large.range(*number).1))
                    });
                    return Ok(Resumed::With(large, parts));
                }
                Ok(None) => return self.completed(&large, &parts).await,
                // Whoever may not list may write: the state file is taken at its word.
                Err(SweepError::Refused(_)) => return Ok(Resumed::With(large, parts)),
                Err(SweepError::Failed(why)) if looks >= self.upload.retries => {
                    return Err(Failure::File(why));
                }
                Err(SweepError::Failed(_)) => self.pause(looks).await?,
            }
            looks += 1;
        }
    }

    /// An upload that is not there any more may have been completed, by a run that ended before it had that
    /// on record.
    async fn completed(
        &self,
        large: &Large,
        parts: &BTreeMap<u16, PartDone>,
    ) -> Result<Resumed, Failure> {
        let whole = parts.len() as u64 == large.part_count();
        let etag = digest::of_parts(parts.values().map(|part| part.etag.as_str()));
        let Some(etag) = etag.filter(|_| whole) else { return Ok(Resumed::Gone) };
        let (bucket, client) = (&self.upload.bucket, self.client.clone());
        let proof = Proof::ETag(etag.clone());
        match origin::prove(bucket, client, &large.item.key, &proof).await {
            Proven::Yes { .. } => {
                add(&self.upload.counts.already_bytes, large.local.stamp.length);
                Ok(Resumed::There(etag))
            }
            Proven::No | Proven::Unknown => Ok(Resumed::Gone),
        }
    }

    /// Sends the parts that are not there, and completes.
    async fn bring(
        &self,
        large: &Large,
        mut there: BTreeMap<u16, PartDone>,
        lane: &Lane,
    ) -> Result<Came, Failure> {
        if let Some(why) = self.bring_parts(large, &mut there, lane).await? {
            return Ok(Came::Astray(why));
        }
        unchanged(&large.local).await?;
        self.complete(&large.item.key, &large.upload_id, &there, lane).await
    }

    /// Makes an object of all parts.
    pub(super) async fn complete(
        &self,
        key: &str,
        upload_id: &str,
        there: &BTreeMap<u16, PartDone>,
        lane: &Lane,
    ) -> Result<Came, Failure> {
        let name = self.upload.checksum.name();
        let listed = there.iter().map(|(number, part)| {
            let sum = name.zip(part.sum.as_deref());
            (u32::from(*number), part.etag.as_str(), sum)
        });
        let document = bytes::Bytes::from(xml::checked_complete_request(listed));
        let mut request = request("POST", key, upload_id, None);
        request.headers = self.upload.checksum.type_headers();
        request.payload = PayloadHash::of(&document);
        request.length = Some(document.len() as u64);
        let expected = digest::of_parts(there.values().map(|part| part.etag.as_str()));
        let content = || Content::Document(document.clone());
        let (kind, proof) = (Kind::Complete, expected.clone().map_or(Proof::None, Proof::ETag));
        let ask = Ask { kind, request: &request, proof, content: &content, local: None };
        match self.ask(ask, lane).await {
            Ok(answer) => {
                let etag = digest::check_completed(&answer, expected.as_deref());
                etag.map(Came::To).map_err(Failure::File)
            }
            Err(refused) => lost(refused).map(Came::Astray),
        }
    }

    /// Sends the parts that are not `there`, and adds them. Some: the upload is not what it was taken for.
    async fn bring_parts(
        &self,
        large: &Large,
        there: &mut BTreeMap<u16, PartDone>,
        lane: &Lane,
    ) -> Result<Option<String>, Failure> {
        let count = u16::try_from(large.part_count());
        let count = count.map_err(|_| Failure::File("it has too many parts".to_owned()))?;
        let missing = (1..=count).filter(|number| !there.contains_key(number));
        let mut missing: VecDeque<u16> = missing.collect();
        let (mut under_way, mut own, mut ended) = (JoinSet::new(), Some(lane.clone()), None);
        loop {
            while ended.is_none()
                && !missing.is_empty()
                && let Some(lane) = own.take().or_else(|| self.another_lane())
                && let Some(number) = missing.pop_front()
            {
                let (courier, large) = (self.clone(), large.clone());
                under_way.spawn_local(async move {
                    let sent = courier.bring_part(&large, number, &lane).await;
                    (number, lane, sent)
                });
            }
            // Also after a failure: a part that arrives counts in the next run.
            let Some(joined) = under_way.join_next().await else { break };
            let (number, used, sent) = match joined {
                Ok(joined) => joined,
                Err(error) => {
                    ended = ended.or(Some(Err(Failure::File(format!("a part's task: {error}")))));
                    continue;
                }
            };
            if Arc::ptr_eq(&used, lane) {
                own = Some(used);
            }
            match sent {
                Ok(part) => drop(there.insert(number, part)),
                Err(refused) => ended = ended.or(Some(lost(refused))),
            }
            if ended.is_none() && !missing.is_empty() && self.upload.is_stopped() {
                ended = Some(Err(Failure::Stopped));
            }
        }
        ended.transpose()
    }

    /// A lane beside the file's own; None: others need them.
    fn another_lane(&self) -> Option<Lane> {
        Arc::clone(&self.upload.lanes).try_acquire_owned().ok().map(Arc::new)
    }

    async fn bring_part(
        &self,
        large: &Large,
        number: u16,
        lane: &Lane,
    ) -> Result<PartDone, Refused> {
        let (offset, length) = large.range(number);
        let local = &large.local;
        let sum = self.sum(local, offset, length).await.map_err(Refused::Failure)?;
        let mut request = request("PUT", &large.item.key, &large.upload_id, Some(number));
        request.length = Some(length);
        let content = || {
            let file = Arc::clone(&local.file);
            self.content(PartSource::stored(file, offset, length, self.replay()))
        };
        let part = self.put_part(request, &sum, &content, Some(local), lane).await?;
        let PartDone { etag, sum } = part.clone();
        let line = Line::Part { file: large.print, number, etag, sum };
        self.record(&line, false).await.map_err(Refused::Failure)?;
        add(&self.upload.counts.sent_bytes, length);
        Ok(part)
    }

    /// Sends a part; `request` says which.
    pub(super) async fn put_part(
        &self,
        mut request: UpstreamTemplate,
        sum: &Sum,
        content: &dyn Fn() -> Content,
        local: Option<&Local>,
        lane: &Lane,
    ) -> Result<PartDone, Refused> {
        request.headers = sum.headers();
        request.payload = sum.payload();
        let (kind, proof) = (Kind::UploadPart, Proof::None);
        let ask = Ask { kind, request: &request, proof, content, local };
        let answer = self.ask(ask, lane).await?;
        let fail = |why| Refused::Failure(Failure::File(why));
        let etag = Sum::check(sum, &answer).map_err(fail)?;
        Ok(PartDone { etag, sum: sum.value() })
    }

    /// Has an upload ended that nobody goes on with. One that cannot be stays on record.
    async fn abort(&self, large: &Large) -> Result<(), Failure> {
        self.abort_upload(large.print, &large.item.key, &large.upload_id).await.map(drop)
    }

    /// As [`Courier::abort`], of one that an earlier run has left. Whether it was aborted.
    pub(super) async fn abort_upload(
        &self,
        print: Fingerprint,
        key: &str,
        upload_id: &str,
    ) -> Result<bool, Failure> {
        let (bucket, client) = (&self.upload.bucket, self.client.clone());
        if let Err(error) = origin::abort(bucket, client, key, upload_id).await {
            self.leave(format!("{key}: a multipart upload is not aborted: {error}")).await;
            return Ok(false);
        }
        let upload_id = upload_id.to_owned();
        self.record(&Line::Gone { file: print, upload_id }, false).await.map(|()| true)
    }

    /// Something is left that the state file has to remember.
    async fn leave(&self, text: String) {
        add(&self.upload.left_behind, 1);
        self.upload.say(Event::Note { text }).await;
    }

    /// Has an upload aborted that a run has begun and not lived to know: of that key and time, and without
    /// parts. A backend that lists no uploads keeps it.
    pub(super) async fn abort_unknown(&self, creating: &Creating) -> Result<(), Failure> {
        let Creating { file, key, at } = creating;
        match self.find_unknown(key, *at).await {
            Ok(found) => {
                let mut all = true;
                for id in found {
                    all &= self.abort_upload(*file, key, &id).await?;
                }
                if all {
                    self.record(&Line::Searched { file: *file, at: *at }, false).await?;
                }
            }
            // It never will be.
            Err(SweepError::Refused(why)) => {
                log::warn!("{key}: whether a multipart upload was left is not known: {why}");
            }
            Err(SweepError::Failed(why)) => {
                let text =
                    format!("{key}: whether a multipart upload was left is not known: {why}");
                self.leave(text).await;
            }
        }
        Ok(())
    }

    async fn find_unknown(&self, key: &str, at: u64) -> Result<Vec<String>, SweepError> {
        let (bucket, client) = (&self.upload.bucket, &self.client);
        let (listed, ahead) = origin::list_uploads(bucket, client.clone(), key).await?;
        let window = Window { from: at, to: at.saturating_add(CREATE_TAKES) };
        let mut found = Vec::new();
        // Every one that is known has been completed or aborted by now.
        for id in lost_ones(&listed, key, window, ahead, |_| false) {
            if !origin::has_parts(bucket, client.clone(), key, &id).await? {
                found.push(id);
            }
        }
        Ok(found)
    }
}

/// What was found of an earlier run's upload.
enum Resumed {
    With(Large, BTreeMap<u16, PartDone>),
    /// It was completed; the ETag.
    There(String),
    /// There is none.
    Gone,
}

/// Whether a refusal says that an upload, or a part of it, is not what its sender takes it for.
fn lost(refused: Refused) -> Result<String, Failure> {
    match refused {
        Refused::By(error)
            if ["NoSuchUpload", "InvalidPart", "InvalidPartOrder"].contains(&&*error.code) =>
        {
            Ok(in_words(&error))
        }
        refused => Err(refused.into()),
    }
}

/// Bytes of a part of a file with so many: more than asked for where 10,000 would not suffice, whole MiB then.
fn part_size(length: u64, asked: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    asked.max(length.div_ceil(MAX_PARTS).div_ceil(MIB) * MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "What is there is not sent again", of backends that list ETags and of one that lists none.
    #[test]
    fn a_part_is_there_unless_its_list_says_otherwise() {
        let sent = PartDone { etag: "ab".to_owned(), sum: None };
        let listed =
            |length, etag: Option<&str>| PartThere { length, etag: etag.map(str::to_owned) };
        assert!(is_still(&listed(5, Some("AB")), &sent, 5));
        assert!(is_still(&listed(5, None), &sent, 5));
        assert!(!is_still(&listed(5, Some("cd")), &sent, 5));
        assert!(
            !is_still(&listed(4, Some("ab")), &sent, 5) && !is_still(&listed(4, None), &sent, 5)
        );
    }

    #[test]
    fn ten_thousand_parts_suffice() {
        const GIB: u64 = 1 << 30;
        assert_eq!(part_size(5 * GIB, 16 << 20), 16 << 20);
        for length in [1, 200 * GIB, 5 << 40, u64::MAX >> 1] {
            let size = part_size(length, 5 << 20);
            assert!(length.div_ceil(size) <= MAX_PARTS, "{length}");
            assert!(size.is_multiple_of(1 << 20));
        }
    }
}
