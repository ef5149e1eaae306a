//! security.md, "Admin, secrets": "a canary secret never shows in a TRACE log", nor in metrics, errors,
//! the audit log, an answer, or what `mizuchi check` says.

mod needle;

use crate::support::client::{Answer, Client, Request};
use crate::support::eventually;
use crate::support::form::Form;
use crate::support::gateway::{Gateway, Setup};
use crate::support::issuer::{bearer, claims, token};
use crate::support::ledger_s3::{LedgerS3, Twist};
use crate::support::opa::Opa;
use crate::support::openfga::{OpenFga, STORE};
use crate::support::service::Fault;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::EncodingKey;
use mizuchi_actors::secret::Secret;
use mizuchi_actors::sigv4::Signer;
use needle::Needle;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use time::OffsetDateTime;

const SEAL: &str = "canary/seal+key/0123456789abcdef";
const ADMIN: &str = "canary/admin+token/0123456789";
const CLIENT: &str = "canary/client+secret/0123456789";
const SESSION: &str = "canary/session+token/0123456789";
const IN_FILE: &str = "canary/in-file+secret/0123456789";
const ISSUER: &str = "canary/issuer+secret/0123456789abcdef0123456789abcdef0123456789abcdef";
const OPA: &str = "canary/opa+token/0123456789";
const OPENFGA: &str = "canary/openfga+token/0123456789";
const BACKEND: &str = "canary/backend+secret/0123456789";
const BACKEND_SESSION: &str = "canary/backend-session+token/0123456789";
/// What somebody signs with who has not got the right one.
const WRONG: &str = "canary/wrong+secret/0123456789abcdef0123456789";

/// Every setting that is a secret: its key in settings/default.yaml, where [`document`] has it, its canary.
const SECRETS: [(&str, &str, &str); 10] = [
    ("server.seal_key", "/server/seal_key", SEAL),
    ("admin.token", "/admin/token", ADMIN),
    ("auth.sigv4.credentials[].secret_key", "/auth/sigv4/credentials/0/secret_key", CLIENT),
    ("auth.sigv4.credentials[].session_token", "/auth/sigv4/credentials/1/session_token", SESSION),
    ("auth.sigv4.credentials_file", "/auth/sigv4/credentials_file", IN_FILE),
    ("auth.jwt.issuers[].secret", "/auth/jwt/issuers/0/secret", ISSUER),
    ("authorization.opa.token", "/authorization/opa/token", OPA),
    ("authorization.openfga.token", "/buckets/1/authorization/openfga/token", OPENFGA),
    ("buckets[].s3.secret_key", "/buckets/0/s3/secret_key", BACKEND),
    ("buckets[].s3.session_token", "/buckets/0/s3/session_token", BACKEND_SESSION),
];

/// Settings whose names only sound like secrets. Private keys of TLS stand in files:
/// `check_shows_no_secret_whatever_is_wrong` breaks them.
const NO_SECRETS: [&str; 10] = [
    "server.tls.key_file",
    "admin.tls.key_file",
    "auth.sigv4.credentials[].access_key",
    "auth.sigv4.credentials[].allow.key_prefixes",
    "auth.client_certificates.allow.key_prefixes",
    "auth.jwt.issuers[].public_key",
    "auth.jwt.issuers[].public_key_file",
    "auth.jwt.issuers[].allow.key_prefixes",
    "buckets[].s3.access_key",
    "buckets[].s3.key_prefix",
];

/// The keys of all settings that are no sections, entries of lists as `[]`.
fn leaves(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                leaves(value, &key, found);
            }
        }
        Value::Array(list) if list.first().is_some_and(Value::is_object) => {
            leaves(&list[0], &format!("{key}[]"), found);
        }
        _ => found.push(key.to_owned()),
    }
}

/// No secret of the settings is forgotten here: not one that is added later, either.
#[test]
fn every_secret_setting_has_its_canary() {
    let defaults = include_str!("../settings/default.yaml");
    let tree = config::Config::builder()
        .add_source(config::File::from_str(defaults, config::FileFormat::Yaml))
        .build()
        .unwrap();
    let mut keys = Vec::new();
    leaves(&tree.try_deserialize().unwrap(), "", &mut keys);
    assert!(keys.len() > 150, "the defaults were not read: {keys:?}");
    let suspicious: Vec<&str> = keys
        .iter()
        .filter(|key| {
            let name = key.rsplit('.').next().unwrap();
            ["secret", "token", "key", "password", "credential", "private"]
                .iter()
                .any(|word| name.contains(word))
        })
        .map(String::as_str)
        .collect();
    let mut listed: Vec<&str> = SECRETS.iter().map(|(key, ..)| *key).chain(NO_SECRETS).collect();
    listed.sort_unstable();
    let mut sorted = suspicious;
    sorted.sort_unstable();
    assert_eq!(sorted, listed, "is it a secret? SECRETS or NO_SECRETS of this test");
    let document = document("h:1", "http://h:2", "http://h:3", Path::new("/d"));
    for (key, pointer, canary) in SECRETS {
        let value = document.pointer(pointer).unwrap().as_str().unwrap();
        let sealed = STANDARD.encode(canary);
        assert!(value == canary || value == sealed || value == "/d/credentials.yaml", "{key}");
    }
}

/// Settings with a canary in every secret.
fn document(s3: &str, opa: &str, openfga: &str, directory: &Path) -> Value {
    let file = |name: &str| directory.join(name);
    let backend = json!({
        "bucket": "store", "region": "us-east-1", "endpoint": format!("http://{s3}"),
        "access_key": "BACKEND", "secret_key": BACKEND, "session_token": BACKEND_SESSION,
    });
    json!({
        "server": {
            "address": "127.0.0.1:0", "workers": 2, "shutdown_grace": "10s", "reload_interval": "100ms",
            "state_directory": file("state"), "seal_key": STANDARD.encode(SEAL),
        },
        "admin": {"address": "127.0.0.1:0", "token": ADMIN, "open": ["metrics"]},
        "sts": {"enabled": true},
        "logging": {"level": "trace"},
        "audit": {"target": "file", "file": file("audit")},
        "auth": {
            "sigv4": {
                "credentials": [
                    {"access_key": "AKIACLIENT", "secret_key": CLIENT, "principal": "tester"},
                    {"access_key": "AKIATEMPORARY", "secret_key": CLIENT, "session_token": SESSION},
                ],
                "credentials_file": file("credentials.yaml"),
            },
            "jwt": {"issuers": [{
                "issuer": "https://id.example.com", "algorithms": ["HS256"], "audience": "mizuchi",
                "secret": ISSUER,
            }]},
        },
        "authorization": {
            "engine": "opa", "timeout": "5s", "cache_ttl": "0s",
            "opa": {"url": opa, "token": OPA, "path": "mizuchi/decision"},
        },
        "buckets": [
            {"name": "uploads", "s3": backend},
            {"name": "fga", "s3": backend, "authorization": {
                "engine": "openfga",
                "openfga": {"url": openfga, "token": OPENFGA, "store_id": STORE},
            }},
        ],
    })
}

fn credentials_file(directory: &Path, rest: &str) {
    let text = format!("credentials:\n  - access_key: AKIAFILE\n    secret_key: {IN_FILE}\n{rest}");
    std::fs::write(directory.join("credentials.yaml"), text).unwrap();
}

/// All canaries of the settings, and that of who has none.
fn canaries() -> Vec<Needle> {
    SECRETS.iter().map(|(.., canary)| *canary).chain([WRONG]).map(Needle::canary).collect()
}

/// A client that keeps every answer.
struct Witness<'g> {
    gateway: &'g Gateway,
    answers: Vec<u8>,
}

impl Witness<'_> {
    fn keep(&mut self, answer: Answer) -> Answer {
        self.answers.extend_from_slice(answer.head.as_bytes());
        self.answers.extend_from_slice(&answer.body);
        answer
    }

    async fn raw(&mut self, head: &[u8], body: &[u8], status: u16) -> Answer {
        let answer = Client::connect(self.gateway).await.raw(head, body).await;
        let line = String::from_utf8_lossy(head).lines().next().unwrap().to_owned();
        assert_eq!(answer.status, status, "{line}: {}", answer.text());
        self.keep(answer)
    }

    async fn signed(&mut self, signer: &Signer, request: Request, status: u16) -> Answer {
        let body = vec![b'x'; request.length.unwrap_or(0) as usize];
        let host = self.gateway.address.to_string();
        let head = request.sign(&host, signer, OffsetDateTime::now_utc());
        self.raw(&head, &body, status).await
    }

    async fn form(&mut self, access_key: &str, secret: &str, form: Form, status: u16) {
        let form = form.with(|form| {
            form.access_key = access_key.to_owned();
            form.secret = secret.to_owned();
        });
        let answer = form.send(&mut Client::connect(self.gateway).await, b"file").await;
        assert_eq!(answer.status, status, "{}", answer.text());
        self.keep(answer);
    }

    async fn admin(&mut self, path: &str, token: &str, status: u16) {
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
        let answer = Client::to(self.gateway.admin).await.raw(head.as_bytes(), b"").await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        self.keep(answer);
    }

    /// AssumeRoleWithWebIdentity.
    async fn assume(&mut self, token: &str, status: u16) -> Answer {
        let body = format!(
            "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleSessionName=tests&\
             RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fany&WebIdentityToken={token}"
        );
        let head = format!(
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        let answer =
            Client::connect(self.gateway).await.raw(head.as_bytes(), body.as_bytes()).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        answer
    }
}

fn signer(access_key: &str, secret: &str, session: Option<&str>) -> Signer {
    let session = session.map(|token| Secret::new(token.to_owned()));
    let secret = Secret::new(secret.to_owned());
    Signer::new(access_key.to_owned(), secret, session, "us-east-1".to_owned())
}

fn in_fga(key: &str) -> Request {
    Request { path: format!("/fga/{key}"), ..Request::put("", 1) }
}

const POLICY: &str = "package mizuchi
decision := true if startswith(input.key, \"ok\")
decision := {\"allow\": false, \"reason\": \"marker-reason\"} if startswith(input.key, \"no\")
";

/// "A canary secret set in every secret setting never appears in logs at TRACE, in metrics, in errors":
/// whatever is asked of the gateway, in whichever way it is allowed, refused or fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_seen_whatever_is_asked() {
    let s3 = LedgerS3::start(true).await;
    let opa = Opa::start(POLICY, Some(OPA)).await;
    let openfga = OpenFga::start(Some(OPENFGA)).await;
    openfga.write(("user:tester", "writer", "object:fga/ok"));
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    credentials_file(at, "");
    let settings =
        document(&s3.address.to_string(), &opa.service.url(), &openfga.service.url(), at);
    let stdout = at.join("stdout");
    let mut gateway = Setup {
        settings: Some(settings.to_string()),
        stdout: Some(stdout.clone()),
        ..Setup::over(s3.address)
    }
    .start()
    .await;
    let mut witness = Witness { gateway: &gateway, answers: Vec::new() };
    let put = |key: &str| Request::put(key, 1);

    // Signatures: good, wrong, of a stranger, of temporary credentials.
    let client = signer("AKIACLIENT", CLIENT, None);
    witness.signed(&client, put("ok-marker"), 200).await;
    witness.signed(&signer("AKIACLIENT", WRONG, None), put("ok"), 403).await;
    witness.signed(&signer("AKIANOBODY", WRONG, None), put("ok"), 403).await;
    witness.signed(&signer("AKIATEMPORARY", CLIENT, Some(SESSION)), put("ok"), 200).await;
    witness.signed(&signer("AKIATEMPORARY", CLIENT, Some(WRONG)), put("ok"), 400).await;
    witness.signed(&signer("AKIATEMPORARY", CLIENT, None), put("ok"), 403).await;
    witness.signed(&signer("AKIAFILE", IN_FILE, None), put("ok"), 200).await;
    let create = Request::method("POST", "ok").query("uploads", "");
    let upload = witness.signed(&client, create, 200).await.element("UploadId").unwrap();
    let abort = |id: &str| Request::method("DELETE", "ok").query("uploadId", id);
    witness.signed(&client, abort(&upload[1..]), 404).await;
    witness.signed(&client, abort(&upload), 204).await;

    // Tokens, and sessions for them.
    let signed = |secret: &str| {
        let key = EncodingKey::from_secret(secret.as_bytes());
        token(&json!({"alg": "HS256"}), &claims("https://id.example.com"), &key)
    };
    let (good, forged) = (signed(ISSUER), signed(WRONG));
    witness.raw(&bearer("PUT", "ok", &good, 1), b"x", 200).await;
    witness.raw(&bearer("PUT", "ok", &forged, 1), b"x", 403).await;
    witness.assume(&forged, 403).await;
    let session = witness.assume(&good, 200).await;
    let part = |name: &str| session.element(name).unwrap();
    let (id, secret, sealed) = (part("AccessKeyId"), part("SecretAccessKey"), part("SessionToken"));
    witness.signed(&signer(&id, &secret, Some(&sealed)), put("ok"), 200).await;
    witness.signed(&signer(&id, WRONG, Some(&sealed)), put("ok"), 403).await;
    witness.signed(&signer(&id, &secret, Some(&sealed[1..])), put("ok"), 400).await;

    // Forms.
    let field = "x-amz-security-token";
    witness.form("AKIACLIENT", CLIENT, Form::new("ok"), 204).await;
    witness.form("AKIACLIENT", WRONG, Form::new("ok"), 403).await;
    witness.form("AKIATEMPORARY", CLIENT, Form::new("ok").field(field, SESSION), 204).await;
    witness.form("AKIATEMPORARY", CLIENT, Form::new("ok").field(field, WRONG), 400).await;
    witness.form("AKIACLIENT", CLIENT, Form::new("no"), 403).await;

    // Policies: denied, undefined, and engines that fail.
    witness.signed(&client, put("no"), 403).await;
    witness.signed(&client, put("undefined"), 503).await;
    witness.signed(&client, in_fga("ok"), 200).await;
    witness.signed(&client, in_fga("other"), 403).await;
    for fault in [Fault::Status(500), Fault::Body("nonsense".into()), Fault::Reset] {
        opa.service.fail(fault.clone());
        openfga.service.fail(fault);
        witness.signed(&client, put("ok"), 503).await;
        witness.signed(&client, in_fga("ok"), 503).await;
    }
    opa.service.fail(Fault::None);

    // A backend that refuses, and one that breaks off.
    for (twist, status) in [(Twist::Answer(403, "InvalidToken"), 403), (Twist::ResetBefore, 503)] {
        s3.script([("Put", twist)]);
        witness.signed(&client, put("ok"), status).await;
    }

    // A file of credentials that is wrong, in its values and as YAML.
    for rest in [
        format!("    session_token: [{WRONG}]\n"),
        format!("    session_tokens: {WRONG}\n"),
        format!("    session_token: \"{WRONG}\n"),
    ] {
        let before = refused(&gateway).await;
        credentials_file(at, &rest);
        eventually("the file is refused", async || refused(&gateway).await > before).await;
    }

    // The admin listener.
    for path in ["/", "/status.json", "/metrics"] {
        witness.admin(path, ADMIN, 200).await;
    }
    witness.admin("/status.json", WRONG, 401).await;

    let metrics = gateway.metrics().await.into_bytes();
    let answers = witness.answers;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    let log = gateway.log().into_bytes();
    let audit = std::fs::read(at.join("audit")).unwrap();
    let stdout = std::fs::read(stdout).unwrap();
    // What is looked through is what was said: each place has something that is no secret.
    for (place, text, marker) in [
        ("the log", &log, "ok-marker"),
        ("the log", &log, "TRACE"),
        ("the log", &log, "credentials.yaml"),
        ("the audit log", &audit, "marker-reason"),
        ("the metrics", &metrics, "mizuchi_authorization_decisions_total"),
        ("the answers", &answers, "/uploads/undefined"),
    ] {
        assert!(Needle::canary(marker).is_in(text), "{place} has no {marker}");
    }
    let mut needles = canaries();
    needles.extend([&good, &forged, &secret, &sealed].map(|text| Needle::whole(text)));
    for (place, text) in [
        ("the log", &log),
        ("the audit log", &audit),
        ("the metrics", &metrics),
        ("standard output", &stdout),
        ("an answer", &answers),
    ] {
        for needle in &needles {
            needle.assert_not_in(place, text);
        }
    }
    for needle in canaries() {
        needle.assert_not_in("the session's answer", &session.body);
    }
}

async fn refused(gateway: &Gateway) -> f64 {
    let metrics = gateway.metrics().await;
    let lines = metrics.lines().filter(|line| {
        line.starts_with("mizuchi_reloads_total{") && line.contains("result=\"refused\"")
    });
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// Both outputs of `mizuchi check`, and its exit status.
fn check(directory: &Path, settings: &str, environment: &[(&str, &str)]) -> (Option<i32>, Vec<u8>) {
    let file = directory.join("settings.yaml");
    std::fs::write(&file, settings).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mizuchi"));
    command.args(["check", "--settings"]).arg(&file).env("RUST_LOG", "trace");
    let output = command.envs(environment.iter().copied()).output().unwrap();
    (output.status.code(), [output.stdout, output.stderr].concat())
}

/// "Nor in `mizuchi check` output": neither when all is well nor when every secret is wrong, in each way
/// that a value can be.
#[test]
fn check_shows_no_secret_whatever_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    credentials_file(at, "");
    let whole = document("127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3", at);
    let (status, said) = check(at, &whole.to_string(), &[]);
    assert_eq!(status, Some(0), "{}", String::from_utf8_lossy(&said));
    let needles = canaries();
    let look = |what: &str, said: &[u8]| {
        for needle in &needles {
            needle.assert_not_in(what, said);
        }
    };
    look("check, of good settings", &said);

    type Breakage = fn(&str) -> Value;
    let breakages: [(&str, Breakage); 7] = [
        ("a list", |canary| json!([canary])),
        ("a section", |canary| json!({ canary: canary })),
        ("a line break", |canary| json!(format!("{canary}\n{canary}"))),
        ("a space and an umlaut", |canary| json!(format!("{canary} ü"))),
        ("an open variable", |canary| json!(format!("{canary}${{"))),
        ("a bad variable", |canary| json!(format!("${{{canary}}}"))),
        ("base64 of something", |canary| json!(STANDARD.encode(canary))),
    ];
    for (what, breakage) in breakages {
        let mut broken = whole.clone();
        // A file's name is no secret: its content is below.
        for (_, pointer, canary) in SECRETS.iter().filter(|(.., canary)| *canary != IN_FILE) {
            *broken.pointer_mut(pointer).unwrap() = breakage(canary);
        }
        // So that there is an error in any case.
        broken["server"]["marker"] = json!(1);
        let (status, said) = check(at, &broken.to_string(), &[]);
        let text = String::from_utf8_lossy(&said).into_owned();
        assert_eq!(status, Some(64), "{what}: {text}");
        assert!(text.contains("server.marker: is not a setting"), "{what}: {text}");
        // The error of the secret itself is there too.
        let wrong = ["server.seal_key", "buckets[0].s3.secret_key", "credentials[0].secret_key"];
        if what != "a space and an umlaut" && what != "base64 of something" {
            for key in wrong {
                assert!(text.contains(key), "{what}: {key}: {text}");
            }
        }
        look(what, &said);
    }
    // Beside the key that was meant, and out of the environment.
    let mut broken = whole.clone();
    for (_, pointer, canary) in SECRETS {
        let (section, key) = pointer.rsplit_once('/').unwrap();
        broken.pointer_mut(section).unwrap()[format!("{key}s")] = json!(canary);
    }
    let (status, said) = check(at, &broken.to_string(), &[]);
    assert_eq!(status, Some(64));
    look("misspelt keys", &said);
    let (status, said) = check(
        at,
        &whole.to_string(),
        &[
            ("MIZUCHI__ADMIN__TOKEN", "canary/admin+tö"),
            ("MIZUCHI__ADMIN__TOKENS", ADMIN),
            ("MIZUCHI__SERVER__SEAL_KEY", SEAL),
            ("MIZUCHI__BUCKETS__0__S3__SECRET_KEY__X", BACKEND),
        ],
    );
    assert_eq!(status, Some(64), "{}", String::from_utf8_lossy(&said));
    look("the environment", &said);

    // Files: YAML that is none, and what should be a private key.
    for text in [
        format!("auth: {{sigv4: {{credentials: [{{secret_key: \"{CLIENT}\n"),
        format!("admin:\n  token: {ADMIN}\n token: {ADMIN}\n"),
        format!("admin: {{token: a}}\nadmin: {{token: {ADMIN}}}\n"),
        format!("admin:\n\t- {ADMIN}: *{ADMIN}\n"),
        format!("{ADMIN}\n"),
        format!("admin: {{token: {{{{{ADMIN}}}}}}}\n"),
        format!("admin: {{token:{ADMIN}}}\n"),
    ] {
        let (status, said) = check(at, &text, &[]);
        assert_eq!(status, Some(64), "{text}");
        look(&text, &said);
    }
    for text in [
        format!("credentials: [{{access_key: A, secret_key: \"{IN_FILE}\n"),
        format!("credentials:\n  - access_key: A\n    secret_key: [{IN_FILE}]\n"),
        format!("{IN_FILE}\n"),
    ] {
        std::fs::write(at.join("credentials.yaml"), &text).unwrap();
        let (status, said) = check(at, &whole.to_string(), &[]);
        assert_eq!(status, Some(64), "{text}");
        look(&text, &said);
    }
    credentials_file(at, "");
    let pem = at.join("private.pem");
    for text in [
        CLIENT.to_owned(),
        format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            STANDARD.encode(CLIENT)
        ),
    ] {
        std::fs::write(&pem, text).unwrap();
        let mut broken = whole.clone();
        broken["server"]["tls"] = json!({"cert_file": pem, "key_file": pem});
        broken["admin"]["tls"] = json!({"cert_file": pem, "key_file": pem});
        let (status, said) = check(at, &broken.to_string(), &[]);
        assert_eq!(status, Some(64));
        look("a private key", &said);
    }
}
