//! A decision that was made before: what the engine would be asked, and the verdict that is kept; the
//! embedded policy, a client with a key pair, an object's key of ordinary length.

use super::{Result, at_once};
use bytes::Bytes;
use criterion::Criterion;
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::identity::{Identity, Means};
use mizuchi_actors::metrics::Metrics;
use mizuchi_actors::policy::{
    Authorizer, Bounds, Places, Policy, PolicyEngine, Question, Rego, Verdict, disk,
};
use mizuchi_actors::s3::names::ObjectKey;
use mizuchi_actors::s3::operation::Operation;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

const BOUNDS: Bounds = Bounds {
    timeout: Duration::from_secs(1),
    // Longer than the measurement: what is measured is a hit.
    cache_ttl: Duration::from_secs(3600),
    cache_entries: 10_000,
};

pub(crate) fn measure(criterion: &mut Criterion) -> Result<()> {
    let places = Places { embedded: true, files: Vec::new(), data: Vec::new() };
    let policy = Policy::compile(&places.read(&disk())?, "data.mizuchi.decision", BOUNDS.timeout)?;
    let engine = PolicyEngine::Rego(Arc::new(Rego::new(policy)));
    let authorizer = Authorizer::new(engine, Vec::new(), BOUNDS, &Metrics::new()?);
    let identity =
        Identity { principal: Arc::from("bench"), means: Means::Header, ..Identity::anonymous() };
    let key = "bench/2026/11/21/some-folder/photo%20one.jpg";
    let head = format!("PUT /uploads/{key} HTTP/1.1\r\nHost: uploads.example.com\r\n\r\n");
    let head = RequestHead::parse(Bytes::from(head))?;
    let operation = Operation::PutObject {
        key: ObjectKey::decode(key).map_err(|error| error.message.into_owned())?,
    };
    let known = (Some(5 << 20), "192.0.2.17".parse().ok());
    let ask = || Question::new(&identity, &head, &operation, "uploads", known, &[]);
    // Some others' decisions, then this one: the first time it is made.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for size in 0..1000 {
        let question = Question { size: Some(size), ..ask()? };
        runtime.block_on(authorizer.decide(&question));
    }
    let made = runtime.block_on(authorizer.decide(&ask()?));
    if made.cached || made.verdict != Verdict::Allowed {
        return Err(format!("{made:?}").into());
    }
    let is_hit = || {
        let ruling = ask().ok().and_then(|question| at_once(authorizer.decide(&question)));
        ruling.is_some_and(|ruling| ruling.cached && ruling.verdict == Verdict::Allowed)
    };
    if !is_hit() {
        return Err("the decision is not kept".into());
    }
    let mut group = criterion.benchmark_group("policy");
    group.bench_function("cached", |bencher| bencher.iter(|| black_box(is_hit())));
    group.finish();
    Ok(())
}
