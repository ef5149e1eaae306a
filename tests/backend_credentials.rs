//! Where the backend's credentials come from, and that they are renewed before they expire: a gateway
//! between real clients and an S3 that knows each key for a few seconds only.

use crate::support::client::{Client, Request};
use crate::support::eventually;
use crate::support::gateway::{Gateway, Setup};
use crate::support::key_issuer::{CONTAINER_TOKEN, Issuer, WEB_TOKEN};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A gateway without keys of its own, in an environment without any.
fn without_keys(issuer: &Issuer) -> Setup {
    Setup::over(issuer.s3)
        .env("MIZUCHI__BUCKETS__0__S3__ACCESS_KEY", "")
        .env("MIZUCHI__BUCKETS__0__S3__SECRET_KEY", "")
        .env("HOME", "/nonexistent")
        .env("AWS_REGION", "us-east-1")
}

fn on_ec2(issuer: &Issuer) -> Setup {
    without_keys(issuer).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &issuer.url())
}

async fn put(gateway: &Gateway, key: &str) -> (u16, String) {
    let mut client = Client::connect(gateway).await;
    let answer = client.send(Request::put(key, 5), b"hello").await;
    (answer.status, answer.code())
}

/// "IMDSv2 uses session-oriented requests": a session first, and never a request without one. And the
/// keys change under the load, while each is known for five seconds: no upload notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_renewed_under_load_and_no_upload_fails() {
    let issuer = Issuer::start(5).await;
    let gateway = Arc::new(on_ec2(&issuer).start().await);
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for number in 0..4 {
        let (gateway, stop, done) = (Arc::clone(&gateway), Arc::clone(&stop), Arc::clone(&done));
        clients.push(tokio::spawn(async move {
            let mut client = Client::connect(&gateway).await;
            while !stop.load(Ordering::Relaxed) {
                let key = format!("k{number}");
                let answer = client.send(Request::put(&key, 5), b"hello").await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                done.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }));
    }
    eventually("five generations of keys", async || issuer.issued() >= 5).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    assert!(done.load(Ordering::Relaxed) > 50);
    assert_eq!(issuer.without_session(), 0);
    assert_eq!(issuer.object("k0").unwrap(), b"hello");
    let renewed = "mizuchi_backend_credential_renewals_total{result=\"renewed\"}";
    assert!(gateway.metric(renewed).await >= 4.0);
    let left = gateway.metric("mizuchi_backend_credentials_left_seconds").await;
    assert!((0.0..=5.0).contains(&left), "{left}");
}

/// "keep the old ones until they expire, then 503": and no restart is needed when the source is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_down_is_noticed_only_when_the_keys_have_expired() {
    let issuer = Issuer::start(6).await;
    let gateway = on_ec2(&issuer).start().await;
    assert_eq!(put(&gateway, "before").await.0, 200);
    issuer.set_down(true);
    gateway.log_with("those at hand are valid for").await;
    assert_eq!(put(&gateway, "down").await.0, 200);
    let expired = async || put(&gateway, "expired").await.0 != 200;
    eventually("the keys have expired", expired).await;
    let answer = put(&gateway, "expired").await;
    assert_eq!(answer, (503, "ServiceUnavailable".to_owned()));
    assert_eq!(gateway.metric("mizuchi_backend_credentials_left_seconds").await, 0.0);
    let blamed = "mizuchi_errors_total{code=\"ServiceUnavailable\",fault=\"backend\"}";
    assert!(gateway.metric(blamed).await >= 1.0);
    issuer.set_down(false);
    eventually("it works again", async || put(&gateway, "after").await.0 == 200).await;
}

/// "remote sources that fail at start never end the process: 503 until they come".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_down_at_the_start_does_not_end_it() {
    let issuer = Issuer::start(60).await;
    issuer.set_down(true);
    let gateway = without_keys(&issuer)
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/container", issuer.url()))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN)
        .start()
        .await;
    assert_eq!(put(&gateway, "k").await, (503, "ServiceUnavailable".to_owned()));
    issuer.set_down(false);
    eventually("they have come", async || put(&gateway, "k").await.0 == 200).await;
}

/// "Clients must neither wait nor lose data" while the backend is away, and with it whoever gives its keys: an
/// upload that is acknowledged here needs none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_here_needs_no_keys() {
    let issuer = Issuer::start(60).await;
    issuer.set_down(true);
    let mut setup = without_keys(&issuer)
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/container", issuer.url()))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN)
        .bucket("    upload:\n      mode: write_back\n");
    setup.extra = "spool:\n  min_free: 0\n  backoff_base: 20ms\n  backoff_cap: 100ms\n".to_owned();
    let gateway = setup.start().await;
    assert_eq!(put(&gateway, "k").await.0, 200);
    let mut client = Client::connect(&gateway).await;
    let begun = client.send(Request::method("POST", "parts").query("uploads", ""), b"").await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    assert_eq!(gateway.metric("mizuchi_spool_waiting").await, 1.0);
    issuer.set_down(false);
    eventually("it is delivered", async || gateway.metric("mizuchi_spool_waiting").await == 0.0)
        .await;
}

/// "the SDK makes a request with the Authorization header set" to AWS_CONTAINER_CREDENTIALS_FULL_URI;
/// "AssumeRoleWithWebIdentity"; a profile's role, by the keys of another one: each gives keys with a
/// session token that the backend wants to see. And nothing of a secret is in a TRACE log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_source_gives_keys_that_work_and_nothing_of_them_is_logged() {
    let issuer = Issuer::start(60).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let config = file(
        "config",
        "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = source\n",
    );
    let credentials = file(
        "credentials",
        "[source]\naws_access_key_id = AKIASOURCE\naws_secret_access_key = canary-source\n",
    );
    let container = without_keys(&issuer)
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/container", issuer.url()))
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN", CONTAINER_TOKEN);
    let web = without_keys(&issuer)
        .env("AWS_WEB_IDENTITY_TOKEN_FILE", &file("token", WEB_TOKEN))
        .env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/gateway")
        .env("AWS_ENDPOINT_URL_STS", &issuer.url());
    let profile = without_keys(&issuer)
        .env("AWS_CONFIG_FILE", &config)
        .env("AWS_SHARED_CREDENTIALS_FILE", &credentials)
        .env("MIZUCHI__BUCKETS__0__S3__PROFILE", "role")
        .env("AWS_ENDPOINT_URL_STS", &issuer.url());
    let setups = [
        ("container", container),
        ("web identity", web),
        ("profile role", profile),
        ("instance metadata", on_ec2(&issuer)),
    ];
    for (index, (name, setup)) in setups.into_iter().enumerate() {
        let gateway = setup.env("MIZUCHI__LOGGING__LEVEL", "trace").start().await;
        assert_eq!(issuer.issued(), index + 1, "{name}");
        assert_eq!(put(&gateway, name).await, (200, String::new()), "{name}");
        let mut client = Client::connect(&gateway).await;
        let create = Request::method("POST", "m").query("uploads", "");
        assert_eq!(client.send(create, b"").await.status, 200, "{name}");
        let log = gateway.log_with("operation=CreateMultipartUpload").await;
        assert!(log.contains(name) && log.contains("ASIATESTTEST"), "{name}: {log}");
        let leak = log.lines().find(|line| line.contains("canary"));
        assert_eq!(leak, None, "{name}");
    }
}

/// A profile's keys and the environment's, session token and all. A profile that is written anew is read
/// again as soon as the backend refuses the old keys: "ExpiredToken", "InvalidAccessKeyId".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_keys_carry_their_token_and_a_profile_written_anew_is_read_again() {
    let issuer = Issuer::start(600).await;
    let (id, secret, token, _) = issuer.issue();
    let gateway = without_keys(&issuer)
        .env("AWS_ACCESS_KEY_ID", &id)
        .env("AWS_SECRET_ACCESS_KEY", &secret)
        .env("AWS_SESSION_TOKEN", &token)
        .start()
        .await;
    assert_eq!(put(&gateway, "k").await.0, 200);
    drop(gateway);

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    let write = || {
        let (id, secret, token, _) = issuer.issue();
        let text = format!(
            "[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n\
             aws_session_token = {token}\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    write();
    let named = file.display().to_string();
    let setup = without_keys(&issuer).env("AWS_SHARED_CREDENTIALS_FILE", &named);
    let gateway = setup.start().await;
    assert_eq!(put(&gateway, "k").await.0, 200);
    issuer.revoke();
    write();
    let (status, code) = put(&gateway, "k").await;
    assert_eq!((status, code.as_str()), (403, "InvalidAccessKeyId"));
    eventually("the new keys are used", async || put(&gateway, "k").await.0 == 200).await;
}

/// "purely local sources that are half there or misspelt stay settings errors (exit 64)", and so is none
/// at all on a machine that is none of EC2; `check` says where they come from.
#[test]
fn check_says_where_the_credentials_come_from_or_what_is_wrong_with_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.yaml");
    let text = "auth: {enabled: false}\nbuckets:\n  - name: uploads\n    s3: {region: r, endpoint: 'http://b', \
                instance_metadata: never}\n";
    std::fs::write(&file, text).unwrap();
    let check = |environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mizuchi"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.arg("check").arg("--settings").arg(&file).env("HOME", "/nonexistent");
        command.envs(environment.iter().copied()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let keys = [("AWS_ACCESS_KEY_ID", "A"), ("AWS_SECRET_ACCESS_KEY", "canary")];
    let web = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/canary"), ("AWS_ROLE_ARN", "r")];
    let container = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1/canary")];
    let always = [("MIZUCHI__BUCKETS__0__S3__INSTANCE_METADATA", "always")];
    for (environment, status, says) in [
        (&keys[..], 0, "come from the environment"),
        (&web, 0, "come from a web identity"),
        (&container, 0, "come from the container's endpoint"),
        (&always, 0, "come from the EC2 instance metadata"),
        (&[], 64, "no credentials for the backend"),
        (&keys[..1], 64, "without AWS_SECRET_ACCESS_KEY"),
        (&[("AWS_PROFILE", "nobody")], 64, "no profile nobody"),
    ] {
        let (found, text) = check(environment);
        assert_eq!(found, Some(status), "{text}");
        assert!(text.contains(says) && !text.contains("canary"), "{text}");
    }
}
