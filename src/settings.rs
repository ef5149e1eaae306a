//! Settings: from YAML and the environment to plain, checked, typed data.
//!
//! Three layers, the nearest wins: the environment (`MIZUCHI__SERVER__ADDRESS`), the file, and
//! `settings/default.yaml`, which is compiled in. That file is the only place where a default
//! stands: the code has none, so what an operator reads there is what runs, and a key that one
//! side has and the other has not fails every start (and the tests).
//!
//! The layers are read by a walk over the value tree (`section`) and not by serde: serde stops
//! at the first error, without the full key, and an operator would mend one line a start. The walk
//! notes every error with its key and goes on; it knows which keys were asked for, so that any
//! other one is an error too. A misspelt key that was ignored would leave, say, authentication at
//! its default. Everything after [`load`] may rely on the values and checks nothing again.

mod admin;
mod audit;
mod auth;
mod authorization;
mod aws_profile;
mod backend;
mod backend_credentials;
mod batch;
mod bucket;
mod cors;
mod findings;
mod grants;
mod interpolate;
mod jwt;
mod load;
mod machine;
mod network;
mod process;
mod section;
mod server;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
mod tls;
mod values;

pub use admin::{AdminSettings, Open};
pub use audit::{AuditSettings, AuditTarget, RotateEvery};
pub use auth::{
    AuthSettings, ClientCertificateSettings, ClientCredential, CredentialsFile, SigV4Settings,
    parse_credentials,
};
pub use authorization::{
    AuthorizationSettings, EngineSettings, RegoSettings, ServiceSettings, Token,
};
pub use backend::{
    BackendEndpoints, BackendSettings, PoolSettings, TimeoutSettings, TlsSettings, Verifies,
};
pub use backend_credentials::{BackendCredentials, CredentialSource};
pub use batch::BatchSettings;
pub use bucket::{
    BucketSettings, RestartSettings, SplitSettings, UploadPermissions, UploadSettings,
};
pub use findings::{SettingsError, SettingsErrors};
pub use jwt::{IssuerKeys, IssuerSettings, JwksSettings, JwtSettings};
pub use load::{Loaded, load, load_text};
pub use mizuchi_actors::backend::Endpoint;
pub use network::Cidr;
pub use process::{
    AdmissionSettings, EmbeddedSettings, LogFormat, LoggingSettings, ReplaySettings, SpoolSettings,
    StsSettings,
};
pub use server::{BodyProgress, Drain, SealKey, ServerSettings, ZeroCopySettings};

/// Everything that an operator can choose. Secrets are redacted in `Debug`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The client side of the gateway.
    pub server: ServerSettings,
    /// How much work is let in.
    pub admission: AdmissionSettings,
    /// What is kept of a part until the backend has it.
    pub replay: ReplaySettings,
    /// Where write-back uploads wait.
    pub spool: SpoolSettings,
    /// Metrics and health.
    pub admin: AdminSettings,
    /// Log lines.
    pub logging: LoggingSettings,
    /// The token service.
    pub sts: StsSettings,
    /// Who was let do what.
    pub audit: AuditSettings,
    /// The in-process backend.
    pub embedded: EmbeddedSettings,
    /// At least one; names and path prefixes are unique.
    pub buckets: Vec<BucketSettings>,
}
