//! Short-lived credentials, and the S3 that takes them: an issuer that speaks IMDSv2, the container
//! endpoint's protocol, STS and IAM Identity Center's GetRoleCredentials, and an S3 server (s3s) that knows each key until it expires and wants
//! its session token along with it.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::service::S3ServiceBuilder;
use s3s::{S3Result, s3_error};
use s3s_fs::FileSystem;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What an IMDSv2 session is known by.
const METADATA_TOKEN: &str = "canary-metadata-token";
/// What the container endpoint wants in Authorization.
pub const CONTAINER_TOKEN: &str = "canary-container-token";
/// What IAM Identity Center wants of somebody who has signed in.
pub const SSO_TOKEN: &str = "canary-sso-token";
/// What STS wants for a web identity.
pub const WEB_TOKEN: &str = "canary-web-identity";

struct Key {
    secret: String,
    token: String,
    expires: OffsetDateTime,
}

struct State {
    lifetime: Duration,
    keys: Mutex<HashMap<String, Key>>,
    issued: AtomicUsize,
    without_session: AtomicUsize,
    down: AtomicBool,
}

/// A running issuer, with its S3. Clones share everything.
#[derive(Clone)]
pub struct Issuer {
    /// Where credentials are asked for.
    pub address: SocketAddr,
    /// The S3 server; its bucket is `store`.
    pub s3: SocketAddr,
    state: Arc<State>,
    directory: Arc<tempfile::TempDir>,
}

impl Issuer {
    /// Keys live for so many seconds.
    pub async fn start(lifetime: i64) -> Issuer {
        let state = Arc::new(State {
            lifetime: Duration::seconds(lifetime),
            keys: Mutex::default(),
            issued: AtomicUsize::new(0),
            without_session: AtomicUsize::new(0),
            down: AtomicBool::new(false),
        });
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("store")).unwrap();
        let mut builder = S3ServiceBuilder::new(FileSystem::new(directory.path()).unwrap());
        builder.set_auth(Known(Arc::clone(&state)));
        builder.set_access(Known(Arc::clone(&state)));
        let service = builder.build();
        let (s3_listener, s3) = listen().await;
        tokio::spawn(async move {
            while let Ok((socket, _)) = s3_listener.accept().await {
                let http = Builder::new(TokioExecutor::new());
                let serving =
                    http.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
                tokio::spawn(async move { drop(serving.await) });
            }
        });
        let (listener, address) = listen().await;
        let issuer = Issuer { address, s3, state, directory: Arc::new(directory) };
        let server = issuer.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move { drop(server.serve(socket).await) });
            }
        });
        issuer
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many credentials were given out.
    pub fn issued(&self) -> usize {
        self.state.issued.load(Ordering::Relaxed)
    }

    /// Requests for metadata that came without a session (IMDSv1).
    pub fn without_session(&self) -> usize {
        self.state.without_session.load(Ordering::Relaxed)
    }

    /// Whether requests for credentials are answered 500.
    pub fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::Relaxed);
    }

    /// From now on the S3 server knows none of the keys that were issued.
    pub fn revoke(&self) {
        self.state.keys.lock().unwrap().clear();
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        std::fs::read(self.directory.path().join("store").join(key)).ok()
    }

    /// Makes a key that the S3 server knows from now on: id, secret, token, end.
    pub fn issue(&self) -> (String, String, String, String) {
        let number = self.state.issued.fetch_add(1, Ordering::Relaxed) + 1;
        let id = format!("ASIATESTTEST{number:08}");
        let key = Key {
            secret: format!("canary-secret-{:032x}", rand::random::<u128>()),
            token: format!("canary-token-{:032x}", rand::random::<u128>()),
            expires: OffsetDateTime::now_utc() + self.state.lifetime,
        };
        let end = key.expires.format(&Rfc3339).unwrap();
        let given = (id.clone(), key.secret.clone(), key.token.clone(), end);
        self.state.keys.lock().unwrap().insert(id, key);
        given
    }

    async fn serve(&self, mut socket: TcpStream) -> std::io::Result<()> {
        let mut wire = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = wire.windows(4).position(|window| window == b"\r\n\r\n") {
                    break at + 4;
                }
                if socket.read_buf(&mut wire).await? == 0 {
                    return Ok(());
                }
            };
            let head = String::from_utf8_lossy(&wire[..end]).into_owned();
            let header = |name: &str| {
                head.lines().find_map(|line| {
                    let (have, value) = line.split_once(':')?;
                    have.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
                })
            };
            let length = header("content-length").map_or(0, |text| text.parse().unwrap());
            while wire.len() < end + length {
                if socket.read_buf(&mut wire).await? == 0 {
                    return Ok(());
                }
            }
            let body = String::from_utf8_lossy(&wire[end..end + length]).into_owned();
            wire.drain(..end + length);
            let line = head.lines().next().unwrap_or_default();
            let (status, answer) = self.answer(line, &header, &body);
            let answer = format!(
                "HTTP/1.1 {status} X\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\
                 Content-Length: {}\r\n\r\n{answer}",
                answer.len()
            );
            socket.write_all(answer.as_bytes()).await?;
        }
    }

    fn answer(
        &self,
        line: &str,
        header: &dyn Fn(&str) -> Option<String>,
        body: &str,
    ) -> (u16, String) {
        let down = self.state.down.load(Ordering::Relaxed);
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let role = "/latest/meta-data/iam/security-credentials/";
        match (method, path) {
            _ if down => (500, String::new()),
            ("PUT", "/latest/api/token") => match header("x-aws-ec2-metadata-token-ttl-seconds") {
                Some(_) => (200, METADATA_TOKEN.to_owned()),
                None => (400, String::new()),
            },
            ("GET", path) if path.starts_with("/latest/") => {
                if header("x-aws-ec2-metadata-token").as_deref() != Some(METADATA_TOKEN) {
                    self.state.without_session.fetch_add(1, Ordering::Relaxed);
                    return (401, String::new());
                }
                match path.strip_prefix(role) {
                    Some("") => (200, "gateway".to_owned()),
                    Some("gateway") => (200, self.json()),
                    _ => (404, String::new()),
                }
            }
            ("GET", "/container") => match header("authorization").as_deref() {
                Some(CONTAINER_TOKEN) => (200, self.json()),
                _ => (403, String::new()),
            },
            ("GET", "/federation/credentials?role_name=Uploader&account_id=123456789012") => {
                match header("x-amz-sso_bearer_token").as_deref() {
                    Some(SSO_TOKEN) => (200, self.role_credentials()),
                    _ => {
                        let why = "Session token not found or invalid";
                        let error = format!(
                            "{{\"__type\":\"UnauthorizedException\",\"message\":\"{why}\"}}"
                        );
                        (401, error)
                    }
                }
            }
            ("POST", _) if body.contains("Action=AssumeRoleWithWebIdentity") => {
                if !body.contains(&format!("WebIdentityToken={WEB_TOKEN}")) {
                    return (403, String::new());
                }
                (200, self.xml("AssumeRoleWithWebIdentity"))
            }
            ("POST", _) if body.contains("Action=AssumeRole&") => {
                let signed = header("authorization").unwrap_or_default();
                match signed.contains("Credential=AKIASOURCE/") {
                    true => (200, self.xml("AssumeRole")),
                    false => (403, String::new()),
                }
            }
            _ => (404, String::new()),
        }
    }

    fn json(&self) -> String {
        let (id, secret, token, end) = self.issue();
        format!(
            "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"AccessKeyId\":\"{id}\",\
             \"SecretAccessKey\":\"{secret}\",\"Token\":\"{token}\",\"Expiration\":\"{end}\",\
             \"LastUpdated\":\"2026-01-01T00:00:00Z\"}}"
        )
    }

    /// GetRoleCredentials's answer (IAM Identity Center Portal API Reference).
    fn role_credentials(&self) -> String {
        let (id, secret, token, end) = self.issue();
        let end = OffsetDateTime::parse(&end, &Rfc3339).unwrap().unix_timestamp() * 1000;
        format!(
            "{{\"roleCredentials\":{{\"accessKeyId\":\"{id}\",\"secretAccessKey\":\"{secret}\",\
             \"sessionToken\":\"{token}\",\"expiration\":{end}}}}}"
        )
    }

    /// What a `credential_process` prints (AWS SDKs and Tools Reference Guide, "Process credential provider").
    pub fn printed(&self) -> String {
        let (id, secret, token, end) = self.issue();
        format!(
            "{{\"Version\":1,\"AccessKeyId\":\"{id}\",\"SecretAccessKey\":\"{secret}\",\
             \"SessionToken\":\"{token}\",\"Expiration\":\"{end}\"}}"
        )
    }

    fn xml(&self, action: &str) -> String {
        let (id, secret, token, end) = self.issue();
        format!(
            "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result>\
             <Credentials><AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{end}</Expiration></Credentials>\
             <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/r/s</Arn>\
             <AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser></{action}Result></{action}Response>"
        )
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// What the S3 server knows.
struct Known(Arc<State>);

type Answer<'f, T> = Pin<Box<dyn Future<Output = S3Result<T>> + Send + 'f>>;

impl S3Auth for Known {
    fn get_secret_key<'s, 'k, 'f>(&'s self, access_key: &'k str) -> Answer<'f, SecretKey>
    where
        's: 'f,
        'k: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let keys = self.0.keys.lock().unwrap();
            match keys.get(access_key) {
                Some(key) if OffsetDateTime::now_utc() < key.expires => {
                    Ok(SecretKey::from(key.secret.clone()))
                }
                Some(_) => Err(s3_error!(ExpiredToken)),
                None => Err(s3_error!(InvalidAccessKeyId)),
            }
        })
    }
}

impl S3Access for Known {
    fn check<'s, 'c, 'x, 'f>(&'s self, cx: &'c mut S3AccessContext<'x>) -> Answer<'f, ()>
    where
        's: 'f,
        'c: 'f,
        'x: 'f,
        Self: 'f,
    {
        let token = cx.headers().get("x-amz-security-token").cloned();
        let id = cx.credentials().map(|credentials| credentials.access_key.clone());
        let keys = self.0.keys.lock().unwrap();
        let key = id.and_then(|id| keys.get(&id));
        let right = matches!((key, token), (Some(key), Some(token)) if token == key.token.as_str());
        Box::pin(async move { if right { Ok(()) } else { Err(s3_error!(InvalidToken)) } })
    }
}
