//! The embedded backend (`endpoint: embedded`): a real S3 server, s3s over a folder, on a loopback
//! port of this process. For the first run and for tests; the gateway speaks to it over a socket
//! like to any other.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::SimpleAuth;
use s3s::path::S3Path;
use s3s::service::S3ServiceBuilder;
use s3s::{S3Result, s3_error};
use s3s_fs::FileSystem;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use tokio::net::TcpListener;

/// A running embedded backend.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// Where it listens: a loopback port that the system chose.
    pub address: SocketAddr,
    /// The access key it knows, random in each process.
    pub access_key: String,
    /// Its secret, random in each process.
    pub secret_key: String,
}

/// Starts the backend on the current runtime. Objects live under `directory`, one folder a bucket;
/// the named buckets are made when they are missing.
///
/// Errors when the folder or the port cannot be had.
pub async fn start(directory: &Path, buckets: &[String]) -> io::Result<Embedded> {
    for bucket in buckets {
        std::fs::create_dir_all(directory.join(bucket))?;
    }
    let files = FileSystem::new(directory)
        .map_err(|error| io::Error::other(format!("embedded backend: {error:?}")))?;
    let access_key = format!("EMBEDDED{:012X}", rand::random::<u64>() >> 16);
    // Letters first: digits alone, with an `e` among them, are a number to a settings file.
    let secret_key = format!("embedded{:032x}", rand::random::<u128>());
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(access_key.clone(), secret_key.clone()));
    builder.set_access(Rules { directory: directory.to_owned() });
    let service = builder.build();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let http = Builder::new(TokioExecutor::new());
        loop {
            let socket = match listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    log::warn!("embedded backend: accept: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let _ = socket.set_nodelay(true);
            let connection =
                http.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    log::debug!("embedded backend: {error}");
                }
            });
        }
    });
    Ok(Embedded { address, access_key, secret_key })
}

/// What s3s-fs leaves to others. Keys become file names: none leads out of its bucket's folder, where other
/// buckets' objects are. An upload that has ended is NoSuchUpload, as at S3, and not AccessDenied.
struct Rules {
    directory: PathBuf,
}

impl S3Access for Rules {
    fn check<'s, 'c, 'x, 'f>(
        &'s self,
        context: &'c mut S3AccessContext<'x>,
    ) -> Pin<Box<dyn Future<Output = S3Result<()>> + Send + 'f>>
    where
        's: 'f,
        'c: 'f,
        'x: 'f,
        Self: 'f,
    {
        let key = match context.s3_path() {
            S3Path::Object { key, .. } => &**key,
            S3Path::Bucket { .. } | S3Path::Root => "",
        };
        let (leads_out, known) = (leads_out(key), context.credentials().is_some());
        let upload = context.uri().query().and_then(upload_id).map(str::to_owned);
        Box::pin(async move {
            if !known {
                return Err(s3_error!(AccessDenied));
            }
            if leads_out {
                return Err(s3_error!(
                    InvalidArgument,
                    "The embedded backend keeps objects in files, and has none for this key."
                ));
            }
            match upload {
                Some(id) if !self.is_open(&id).await => Err(s3_error!(NoSuchUpload)),
                _ => Ok(()),
            }
        })
    }
}

impl Rules {
    /// Whether a multipart upload has begun and not ended: s3s-fs keeps a file of its own for each.
    async fn is_open(&self, id: &str) -> bool {
        let is_uuid = id.len() == 36 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        let file = self.directory.join(format!(".upload-{id}.json"));
        is_uuid && tokio::fs::try_exists(file).await.unwrap_or(false)
    }
}

/// The `uploadId` of a query.
fn upload_id(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("uploadId="))
}

fn leads_out(key: &str) -> bool {
    let mut components = Path::new(key).components();
    components.any(|part| !matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_leads_out_of_its_bucket() {
        for key in ["..", "../b/k", "a/../../b", "a/..", "/abs", "//abs", "./../b"] {
            assert!(leads_out(key), "{key}");
        }
        for key in ["", "a", "a/b", "a//b", "a/", "./a", "a/./b", "..a", "a..", "a/...", "..\\b"] {
            assert!(!leads_out(key), "{key}");
        }
    }
}
