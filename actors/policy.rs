//! May they? What the operator's own policy says of a principal that is known: Open Policy Agent
//! over REST, Rego in this process, or OpenFGA.
//!
//! A question is answered [`Verdict::Allowed`], [`Verdict::Denied`] or [`Verdict::Undecided`], and
//! only the first lets anybody in: an engine that is down, slow, or says what nobody understands
//! has decided nothing, and its clients are told to try again.

mod answer;
mod authorizer;
pub mod breaker;
mod cache_key;
mod opa;
mod openfga;
mod question;
mod rego;
mod sources;
mod template;

pub use answer::{Answer, Ruling, Verdict};
pub use authorizer::{Authorizer, Bounds, PolicyEngine};
pub use opa::Opa;
pub use openfga::{ContextualTuple, OpenFga, Tuples};
pub use question::{NEVER_SHOWN, Question};
pub use rego::{Policy, Rego};
pub use sources::{Broken, Disk, List, Places, Read, Sources, disk, list_folder};
pub use template::{Role, Template};
