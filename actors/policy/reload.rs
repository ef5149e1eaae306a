//! Rego files that change while the gateway runs.
//!
//! They are read again at each interval and compared by content, which holds on any file system and
//! through symbolic links (a Kubernetes ConfigMap is changed by one). What cannot be read or compiled
//! changes nothing: the version in force stays, an error is logged once, and a metric counts it. A
//! change of several files is seen as one only if it is one, such as the rename of a folder.

use super::rego::{Policy, Rego};
use super::sources::{Places, Sources, disk};
use prometheus::IntCounterVec;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// What is watched, and who is told.
#[derive(Debug)]
pub struct Watch {
    /// The files.
    pub places: Places,
    /// The rule whose value is the decision.
    pub query: String,
    /// How long an evaluation may take.
    pub limit: Duration,
    /// How often they are read.
    pub interval: Duration,
    /// What they are the policy of.
    pub rego: Arc<Rego>,
    /// `mizuchi_reloads_total`.
    pub reloads: IntCounterVec,
}

/// What a look at the files found.
#[derive(Debug)]
enum Look {
    Same,
    /// Broken before, and now what is in force.
    Mended,
    Loaded(Box<Policy>),
    Broken(String),
}

impl Watch {
    /// Watches until it is dropped.
    pub async fn run(self) {
        let watch = Arc::new(self);
        let mut seen = Seen { version: *watch.rego.policy().version(), broken: None };
        let mut ticks = tokio::time::interval(watch.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (look, last) = (Arc::clone(&watch), seen.clone());
            let looked = tokio::task::spawn_blocking(move || look.look(&last)).await;
            match looked.unwrap_or_else(|error| Look::Broken(error.to_string())) {
                Look::Same => {}
                Look::Mended => {
                    seen.broken = None;
                    log::info!("authorization by rego: the policy's files are whole again");
                }
                Look::Loaded(policy) => {
                    seen = Seen { version: *policy.version(), broken: None };
                    watch.rego.replace(*policy);
                    watch.reloads.with_label_values(&["policy", "loaded"]).inc();
                    log::info!("authorization by rego: a new version of the policy is in force");
                }
                Look::Broken(why) => {
                    if seen.broken.as_ref() != Some(&why) {
                        watch.reloads.with_label_values(&["policy", "refused"]).inc();
                        log::error!(
                            "authorization by rego: the new version of the policy is broken, the old \
                             one stays in force: {why}"
                        );
                    }
                    seen.broken = Some(why);
                }
            }
        }
    }

    fn look(&self, seen: &Seen) -> Look {
        let compiled = self.places.read(&disk()).and_then(|sources: Sources| {
            if sources.digest() == seen.version {
                return Ok(None);
            }
            Policy::compile(&sources, &self.query, self.limit).map(Some)
        });
        match compiled {
            Ok(Some(policy)) => Look::Loaded(Box::new(policy)),
            Ok(None) if seen.broken.is_some() => Look::Mended,
            Ok(None) => Look::Same,
            Err(broken) => Look::Broken(broken.to_string()),
        }
    }
}

#[derive(Debug, Clone)]
struct Seen {
    version: [u8; 32],
    broken: Option<String>,
}
