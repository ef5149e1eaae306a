//! `serve --development`: credentials for the first run, random, made once and kept.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Where they are kept.
const FILE: &str = "data/credentials";
const ACCESS_KEY: &str = "MIZUCHI_DEV_ACCESS_KEY";
const SECRET_KEY: &str = "MIZUCHI_DEV_SECRET_KEY";

/// The development credentials.
pub(crate) struct Credentials {
    access_key: String,
    secret_key: String,
    file: PathBuf,
}

impl Credentials {
    /// Reads them, or makes them on the first start (file mode 0600).
    pub(crate) fn load() -> io::Result<Credentials> {
        let file = PathBuf::from(FILE);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(&file)?,
            Err(error) => return Err(error),
        };
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
                .ok_or_else(|| {
                    let message = format!("{FILE} has no line {name}=…; remove it to start anew");
                    io::Error::new(io::ErrorKind::InvalidData, message)
                })
        };
        Ok(Credentials {
            access_key: value("AWS_ACCESS_KEY_ID")?,
            secret_key: value("AWS_SECRET_ACCESS_KEY")?,
            file,
        })
    }

    /// Puts them where `settings/development.yaml` refers to them.
    pub(crate) fn export(&self, environment: &mut BTreeMap<String, String>) {
        environment.insert(ACCESS_KEY.into(), self.access_key.clone());
        environment.insert(SECRET_KEY.into(), self.secret_key.clone());
    }

    /// What to type next.
    pub(crate) fn instructions(&self, address: SocketAddr, bucket: &str) -> String {
        let port = address.port();
        format!(
            "\nMizuchi Uploadr is ready. Its credentials are in {} (made on the first start).\n\
             Upload something to it from another terminal:\n\n  \
             AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={} AWS_DEFAULT_REGION=us-east-1 \\\n    \
             aws --endpoint-url http://127.0.0.1:{port} s3 cp README.md s3://{bucket}/README.md\n\n\
             It arrives in data/objects/{bucket}/README.md. Ctrl-C stops the gateway.\n",
            self.file.display(),
            self.access_key,
            self.secret_key,
        )
    }
}

fn make(file: &Path) -> io::Result<String> {
    if let Some(directory) = file.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let access_key = format!("MIZUCHI{:013X}", rand::random::<u64>() >> 12);
    let secret_key = format!("{:032x}", rand::random::<u128>());
    let text = format!("AWS_ACCESS_KEY_ID={access_key}\nAWS_SECRET_ACCESS_KEY={secret_key}\n");
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?
        .write_all(text.as_bytes())?;
    Ok(text)
}
