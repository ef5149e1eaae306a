//! The data plane: moves one part from the client's socket to the backend's.
//!
//! No actix in here: the `PartWorker` decides when an attempt is made, this does it. A part's
//! [`PartSource`] outlives the attempts: it holds the client's body and everything that was taken
//! from it so far ([`Kept`]), so that an attempt may fail, or panic, at any point and the next one
//! sends the same bytes again and goes on where the client is. A part of a body that is stored
//! already has no client, and is sent from its file (`stored`).

mod allowance;
mod budget;
mod file;
mod intake;
mod kept;
mod outlet;
mod part;
mod pipe;
mod plan;
mod rate;
mod stored;
mod turns;

pub use allowance::PipeAllowance;
pub use budget::ReplayBudget;
pub use intake::Intake;
pub use kept::{Kept, ReplayResources};
pub use part::{PartSource, SendError, Share, Volume};
pub use pipe::{Pipe, PipeCache};
pub use plan::{Plan, PlanInput, Reason, plan};
pub use rate::Rate;
pub(crate) use turns::SMALL;
pub use turns::Turns;
