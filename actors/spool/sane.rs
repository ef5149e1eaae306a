//! What a start refuses rather than puts in order: half a spool. Taken for a whole one, all its bodies
//! would be removed, or all its entries set aside.

use super::disk::Disk;
use super::entry::BodyId;
use std::collections::HashSet;
use std::io;

/// Before the journal is opened, which would make one.
///
/// Errors: `InvalidData`: there is none, and there are bodies.
pub(super) fn has_its_journal(disk: &dyn Disk) -> io::Result<()> {
    let bodies = if disk.is_new()? { disk.bodies()?.len() } else { 0 };
    if bodies == 0 {
        return Ok(());
    }
    let place = disk.path().display();
    Err(refused(format!(
        "there are {bodies} bodies of uploads in {place}/bodies, and no journal in {place} that says what they \
         are: bring journal.redb back; or move {place} away, to start with an empty one"
    )))
}

/// Whether an operator has accepted that the bodies are lost.
#[derive(Debug)]
#[must_use = "an acceptance holds once"]
pub(super) struct Loss(bool);

/// Before anything is changed. `waiting`: the files of all that is not set aside.
///
/// Errors: `InvalidData`: not one of them is there, and nobody has accepted that.
pub(super) fn has_its_bodies(
    disk: &dyn Disk,
    waiting: impl Iterator<Item = BodyId>,
) -> io::Result<Loss> {
    let there: HashSet<BodyId> = disk.bodies()?.into_iter().collect();
    let mut missing = 0;
    for id in waiting {
        if there.contains(&id) {
            return Ok(Loss(false));
        }
        missing += 1;
    }
    if missing == 0 {
        return Ok(Loss(false));
    }
    if disk.is_loss_accepted()? {
        return Ok(Loss(true));
    }
    let place = disk.path().display();
    Err(refused(format!(
        "uploads wait for their delivery whose bodies are {missing} files in {place}/bodies, and none of them is \
         there: mount it, or bring it back; if they are lost for good, make the file {place}/bodies-are-lost, \
         and these uploads are set aside"
    )))
}

impl Loss {
    /// What it is about is set aside: the next time it is asked for anew.
    pub(super) fn recorded(self, disk: &dyn Disk) {
        if self.0
            && let Err(error) = disk.forget_acceptance()
        {
            log::error!("spool: remove bodies-are-lost from {}: {error}", disk.path().display());
        }
    }
}

fn refused(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
