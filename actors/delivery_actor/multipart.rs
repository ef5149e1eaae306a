//! A client's multipart upload on its way: begun anew or gone on with, part by part, completed.
//!
//! Somebody can end it at every moment, whatever dies: the ledger has it on record before its Create is
//! sent, and keeps it until the entry's own record has its id. What the entry's record names is gone on
//! with by the next attempt, which asks the backend for the parts that it has. It may be gone then (it was
//! completed, and the process died before that was recorded; the backend expires what lies about): it is
//! begun anew, and what is there in the end is the same.

use super::{Courier, Lane, Target};
use crate::origin::{self, PartThere, SweepError};
use crate::orphans::{OwnUpload, wall_clock};
use crate::s3::error::S3Error;
use crate::s3::etag::is_digest;
use crate::s3::xml;
use crate::sigv4::PayloadHash;
use crate::spool::part_requests;
use crate::spool::verdict::{self, Verdict};
use crate::spool::{Claim, Entry, PartBody, Parts};
use crate::upload::job::Content;
use crate::upload::machine::Kind;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Parts of one upload on their way at a time: what fills a connection's pauses, and leaves most of the
/// permits to others.
const PARALLEL: usize = 4;

/// An upload at the backend.
struct Begun {
    id: String,
    /// By an earlier attempt.
    resumed: bool,
    there: HashMap<u16, PartThere>,
    /// Its record in the ledger, where the entry's own has not got its id. Dropped, it is swept.
    own: Option<OwnUpload>,
}

/// How far an attempt came.
enum Came {
    To(Verdict),
    /// The backend has another upload than was taken for granted, or none.
    Astray(String),
    /// What stands here decides: beginning anew would help nobody.
    Here(Verdict),
}

impl From<S3Error> for Came {
    fn from(error: S3Error) -> Came {
        if verdict::lost_its_upload(&error) {
            return Came::Astray(error.to_string());
        }
        Came::To(verdict::of_error(&error))
    }
}

impl Courier {
    /// Delivers an entry of parts. Where it comes to nothing, the upload that `claim` names stays for the
    /// next attempt; for whoever sets the entry aside there is [`Courier::give_up`].
    pub(super) async fn send_parts(
        &self,
        to: &Target,
        claim: &mut Claim,
        parts: &Parts,
        lane: &Lane,
    ) -> Verdict {
        loop {
            let begun = match self.resume(to, claim).await {
                Ok(Some(begun)) => begun,
                Ok(None) => match self.create(to, claim, lane).await {
                    Ok(begun) => begun,
                    Err(verdict) => return verdict,
                },
                Err(verdict) => return verdict,
            };
            let came = self.bring(to, claim, parts, &begun, lane).await;
            let Begun { id, resumed, own, .. } = begun;
            let why = match came {
                Came::To(Verdict::Never(why)) if resumed => why,
                Came::Astray(why) => why,
                Came::To(verdict @ (Verdict::Delivered | Verdict::DeliveredAs(_))) => {
                    if let Some(own) = own {
                        own.end();
                    }
                    return verdict;
                }
                Came::To(verdict) | Came::Here(verdict) => return verdict,
            };
            log::warn!(
                "bucket {}: multipart upload {id} cannot be gone on with: {why}",
                to.bucket.name
            );
            self.give_up(to, claim.entry(), &id, lane).await;
            if let Err(error) = claim.note_upload(None).await {
                return Verdict::Local(error.to_string());
            }
            if !resumed {
                return Verdict::Local(why);
            }
        }
    }

    /// What an earlier attempt has begun; None: there is nothing to go on with.
    async fn resume(&self, to: &Target, claim: &Claim) -> Result<Option<Begun>, Verdict> {
        let entry = claim.entry();
        let Some(id) = entry.upload_id.clone() else { return Ok(None) };
        // Of before a restart: so that no sweep takes it for what a lost Create began.
        self.engine.ledger.created(&id);
        let listed = origin::list_parts(&to.bucket, to.client.clone(), &entry.key, &id).await;
        let there = match listed {
            Ok(Some(there)) => there,
            Ok(None) => return Ok(None),
            // Whoever may not list may write: all are sent again, and what they are answered is judged.
            Err(SweepError::Refused(_)) => HashMap::new(),
            Err(SweepError::Failed(why)) => return Err(Verdict::Later(why)),
        };
        Ok(Some(Begun { id, resumed: true, there, own: None }))
    }

    async fn create(&self, to: &Target, claim: &mut Claim, lane: &Lane) -> Result<Begun, Verdict> {
        let entry = Arc::clone(claim.entry());
        let (ledger, bucket) = (&self.engine.ledger, &to.bucket.name);
        let own = ledger.begin_own(bucket, &entry.key, wall_clock()).await;
        let own = own.map_err(|error| Verdict::Local(error.to_string()))?;
        let request = part_requests::create(&entry);
        let answer = match self.ask(to, Kind::Create, request, Content::None, lane).await? {
            Ok(answer) => answer,
            Err(error) => {
                // What an attempt without an answer may have begun is on a record of its own.
                own.end();
                return Err(verdict::of_error(&error));
            }
        };
        let id = xml::parse_initiate(&answer.body).map_err(|error| {
            Verdict::Later(format!("CreateMultipartUpload answered garbage: {error}"))
        })?;
        if let Err(error) = own.named(&id).await {
            log::error!("a multipart upload's id could not be put on record: {error}");
        }
        let own = match claim.note_upload(Some(id.clone())).await {
            Ok(()) => {
                own.end();
                None
            }
            Err(error) => {
                log::error!("bucket {bucket}: the ledger keeps the record of {id}: {error}");
                Some(own)
            }
        };
        Ok(Begun { id, resumed: false, there: HashMap::new(), own })
    }

    /// Sends the parts that are not there, and completes.
    async fn bring(
        &self,
        to: &Target,
        claim: &Claim,
        parts: &Parts,
        begun: &Begun,
        lane: &Lane,
    ) -> Came {
        let entry = claim.entry();
        let Some(acknowledged) = part_requests::etag(parts) else {
            return Came::To(Verdict::Never("it has no parts".to_owned()));
        };
        let etags = match self.bring_parts(to, claim, parts, begun, lane).await {
            Ok(etags) => etags,
            Err(came) => return came,
        };
        let (request, document) = part_requests::complete(entry, parts, &etags, &begun.id);
        let content = Content::Document(document);
        match self.ask(to, Kind::Complete, request, content, lane).await {
            Ok(Ok(answer)) => Came::To(verdict::of_completed(&answer, &acknowledged)),
            Ok(Err(error)) => error.into(),
            Err(verdict) => Came::To(verdict),
        }
    }

    /// Sends the parts that are not there; the backend's ETags of all.
    async fn bring_parts(
        &self,
        to: &Target,
        claim: &Claim,
        parts: &Parts,
        begun: &Begun,
        lane: &Lane,
    ) -> Result<Vec<String>, Came> {
        let is_there = |part: &PartBody| {
            let there = begun.there.get(&part.number)?;
            let etag = there.etag.as_ref()?;
            let same = there.length == part.body.length && is_digest(etag, &part.body.md5_hex());
            same.then(|| format!("\"{etag}\""))
        };
        let mut etags: Vec<Option<String>> = parts.parts.iter().map(is_there).collect();
        let missing = etags.iter().enumerate().filter(|(_, etag)| etag.is_none());
        let mut missing: VecDeque<usize> = missing.map(|(at, _)| at).collect();
        let (mut under_way, mut own_lane, mut failed) = (JoinSet::new(), Some(lane.clone()), None);
        loop {
            while failed.is_none()
                && !missing.is_empty()
                && under_way.len() < PARALLEL
                && let Some(lane) = own_lane.take().or_else(|| self.another_lane(claim))
                && let Some(at) = missing.pop_front()
            {
                let (courier, to, id) = (self.clone(), to.clone(), begun.id.clone());
                let (seq, entry) = (claim.seq(), Arc::clone(claim.entry()));
                under_way.spawn_local(async move {
                    let sent = courier.bring_part(&to, seq, &entry, at, &id, &lane).await;
                    (at, lane, sent)
                });
            }
            // Also after a failure: whoever aborts an upload while a part is on its way leaves the part.
            let Some(ended) = under_way.join_next().await else { break };
            match ended {
                Ok((at, used, sent)) => {
                    if used.share.is_none() {
                        own_lane = Some(used);
                    }
                    match sent {
                        Ok(etag) => {
                            // Those behind it need not wait for the end of a large one.
                            claim.answered();
                            if let Some(slot) = etags.get_mut(at) {
                                *slot = Some(etag);
                            }
                        }
                        Err(came) => failed = failed.or(Some(came)),
                    }
                }
                Err(error) => {
                    failed = Some(Came::To(Verdict::Local(format!("a part's task died: {error}"))));
                }
            }
        }
        if let Some(came) = failed {
            return Err(came);
        }
        let all: Option<Vec<String>> = etags.into_iter().collect();
        all.ok_or_else(|| Came::To(Verdict::Local("a part was not sent".to_owned())))
    }

    async fn bring_part(
        &self,
        to: &Target,
        seq: u64,
        entry: &Entry,
        at: usize,
        upload_id: &str,
        lane: &Lane,
    ) -> Result<String, Came> {
        let Some(part) = entry.part(at) else {
            return Err(Came::To(Verdict::Never("it has no such part".to_owned())));
        };
        let opened = self.open(&to.bucket, seq, &part.body).await.map_err(Came::Here)?;
        let mut request = part_requests::part(entry, part, upload_id);
        if !to.bucket.backend.allow_unsigned && request.payload == PayloadHash::Unsigned {
            let hash = opened.sha256(part.body.length).await;
            let hash = hash.map_err(|error| Came::To(Verdict::LookAgain(error.to_string())))?;
            request.payload = PayloadHash::Hash(hash);
        }
        let content = self.content(opened, &part.body).await;
        let answer = self.ask(to, Kind::UploadPart, request, content, lane).await;
        let answer = answer.map_err(Came::To)??;
        match verdict::of_answer(&answer, &part.body.md5_hex()) {
            // As the backend writes it, also where that is in capitals.
            Verdict::Delivered | Verdict::DeliveredAs(_) => {
                Ok(verdict::etag_of(&answer).unwrap_or_default().into_owned())
            }
            verdict => Err(Came::To(verdict)),
        }
    }

    /// Has the upload of an entry aborted, now or, when that fails, by the sweeper.
    pub(super) async fn give_up(&self, to: &Target, entry: &Entry, upload_id: &str, lane: &Lane) {
        let (ledger, bucket) = (&self.engine.ledger, &to.bucket.name);
        let request = part_requests::abort(entry, upload_id);
        let why = match self.ask(to, Kind::Abort, request, Content::None, lane).await {
            Ok(Ok(_)) => return,
            Ok(Err(error)) if verdict::lost_its_upload(&error) => return,
            Ok(Err(error)) => match verdict::of_error(&error) {
                Verdict::Never(why) => {
                    log::error!(
                        "bucket {bucket}: the multipart upload {upload_id} of {:?} cannot be aborted; \
                         let the backend expire what is incomplete: {why}",
                        entry.key
                    );
                    return;
                }
                _ => error.to_string(),
            },
            Err(no_answer) => format!("{no_answer:?}"),
        };
        let recorded = async {
            let own = ledger.begin_own(bucket, &entry.key, wall_clock()).await?;
            own.named(upload_id).await
        };
        match recorded.await {
            Ok(()) => log::warn!("bucket {bucket}: {upload_id} is aborted later: {why}"),
            Err(error) => log::error!(
                "bucket {bucket}: the multipart upload {upload_id} of {:?} could not be aborted ({why}), \
                 nor put on record: {error}",
                entry.key
            ),
        }
    }
}
