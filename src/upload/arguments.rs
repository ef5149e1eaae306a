//! What follows `mizuchi upload`.

use super::digest::Checksum;
use super::filter::Filters;
use bytesize::ByteSize;
use clap::Args;
use std::path::PathBuf;

/// Bytes of the smallest part that S3 takes, but for the last (Amazon S3 User Guide, "Multipart upload
/// limits").
const MIN_PART: u64 = 5 << 20;

/// Bytes of the largest.
const MAX_PART: u64 = 5 << 30;

/// What follows `mizuchi upload`.
#[derive(Args)]
#[command(after_help = "\
Run the same command again to go on after an interruption, a crash or failures: what is there already is \
not sent again.

Exit status: 0 everything is there; 1 something is not, each with a line that says why; 64 the command or \
the manifest is wrong, nothing was sent; 130 interrupted.

Credentials, region and endpoint are found like any AWS tool finds them: AWS_ACCESS_KEY_ID and its like, \
AWS_PROFILE and the shared files, web identity, the container's endpoint, instance metadata; AWS_REGION; \
AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL.")]
pub(crate) struct UploadArgs {
    /// Files and folders, then where they go: s3://bucket/prefix. A folder's contents go under the prefix;
    /// of several folders each goes under its own name there. One file goes to s3://bucket/key, or with its
    /// own name under s3://bucket/prefix/. `-` is standard input, to s3://bucket/key
    #[arg(required = true, value_name = "PATH… s3://BUCKET/PREFIX")]
    pub(super) places: Vec<PathBuf>,
    /// Upload what this CSV file lists, one file a line: the columns path and key, and headers such as
    /// content-type or x-amz-meta-NAME. It is validated whole before the first byte is sent
    #[arg(long, value_name = "FILE", conflicts_with_all = ["include", "exclude", "follow_links"])]
    pub(super) manifest: Option<PathBuf>,
    /// The S3 service: http[s]://host[:port]. By default what the environment or the profile says, else AWS
    #[arg(long, value_name = "URL")]
    pub(super) endpoint: Option<String>,
    /// The region to sign for
    #[arg(long)]
    pub(super) region: Option<String>,
    /// A profile of the shared AWS files; its credentials win over the environment's
    #[arg(long, value_name = "NAME")]
    pub(super) profile: Option<String>,
    /// Say https://host/bucket/key. The default with an endpoint
    #[arg(long, conflicts_with = "virtual_host")]
    pub(super) path_style: bool,
    /// Say https://bucket.host/key. The default on AWS
    #[arg(long)]
    pub(super) virtual_host: bool,
    /// Trust these authorities (PEM) only, for an https:// endpoint; by default what AWS_CA_BUNDLE names, else
    /// the system's
    #[arg(long, value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
    /// Requests at a time
    #[arg(long, value_name = "N", default_value = "32",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) concurrency: u16,
    /// Bytes of a part; a file of more than two parts, or 5 GiB, goes in parts. At least 5 MiB, more where
    /// 10,000 parts would not suffice
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = part_size)]
    pub(super) part_size: u64,
    /// What the backend holds each body against
    #[arg(long, value_enum, default_value_t = Checksum::Md5)]
    pub(super) checksum: Checksum,
    /// How often a request that may succeed later is made again, after pauses that double from 1 s
    #[arg(long, value_name = "N", default_value = "5",
          value_parser = clap::value_parser!(u32).range(0..=30))]
    pub(super) retries: u32,
    /// Keep what was done in this file; by default in $XDG_STATE_HOME/mizuchi, one file for the same
    /// paths and destination. It is removed when everything is there
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    #[allow(clippy::option_option)]
    pub(super) resume: Option<Option<PathBuf>>,
    /// Forget what an earlier run has done: send everything
    #[arg(long)]
    pub(super) fresh: bool,
    /// Keep the state file after success: the next run sends only what is new or has changed since
    #[arg(long)]
    pub(super) keep_state: bool,
    #[command(flatten)]
    pub(super) filters: Filters,
    /// Send what symbolic links in folders lead to; by default they are skipped
    #[arg(long)]
    pub(super) follow_links: bool,
    /// Only print what would be sent: what the state file does not have
    #[arg(long)]
    pub(super) dry_run: bool,
    /// For programs: an object a line on standard output, for each file that ended and for the whole
    #[arg(long)]
    pub(super) json: bool,
    /// Print failures only
    #[arg(long, short)]
    pub(super) quiet: bool,
    /// Also print what was tried again, and why
    #[arg(long, short)]
    pub(super) verbose: bool,
}

fn part_size(text: &str) -> Result<u64, String> {
    let size = text.parse::<ByteSize>().map_err(|error| error.clone())?.as_u64();
    if (MIN_PART..=MAX_PART).contains(&size) {
        Ok(size)
    } else {
        Err("must be 5MiB to 5GiB".to_owned())
    }
}
