//! Credentials of a person: programs that print them, and who has signed in through a browser.

use super::*;
use crate::support::key_issuer::{Issuer, SSO_TOKEN};

/// Uploads a file with the profile `name` of `config`.
async fn upload_as(desk: &Desk, issuer: &Issuer, name: &str, config: &str) -> Ran {
    desk.file("f", name.as_bytes());
    std::fs::create_dir_all(desk.path(".aws/sso/cache")).unwrap();
    std::fs::write(desk.path(".aws/config"), config).unwrap();
    let to = format!("s3://store/{name}");
    let arguments = ["files/f", &to, "--profile", name, "--endpoint", &url(issuer.s3)];
    let mut command = desk.command(&arguments);
    command.env("AWS_ENDPOINT_URL_SSO", issuer.url());
    ran(command).await
}

/// "The SDK runs the command and then gets the credentials from stdout" (AWS SDKs and Tools Reference Guide,
/// "Process credential provider"); one that fails says why, and nothing is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_may_give_them() {
    let (issuer, desk) = (Issuer::start(60).await, Desk::new());
    std::fs::write(desk.path("printed"), issuer.printed()).unwrap();
    let config = "[profile helper]\ncredential_process = cat printed\n";
    upload_as(&desk, &issuer, "helper", config).await.assert(0);
    assert_eq!(issuer.object("helper").unwrap(), b"helper");

    let config = "[profile broken]\ncredential_process = echo the vault is sealed >&2; exit 3\n";
    let broken = upload_as(&desk, &issuer, "broken", config).await;
    for text in ["no credentials from the profile broken", "the vault is sealed"] {
        assert!(broken.assert(64).err.contains(text), "{text}: {}", broken.err);
    }
    std::fs::write(desk.path("printed"), "{\"Version\":1,\"SecretAccessKey\":\"canary\"}").unwrap();
    let config = "[profile half]\ncredential_process = cat printed\n";
    let half = upload_as(&desk, &issuer, "half", config).await;
    assert!(half.assert(64).err.contains("AccessKeyId"), "{}", half.err);
    assert!(!half.err.contains("canary"), "{}", half.err);
}

/// What `aws sso login` has left is enough; what has ended says what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_signed_in_may_upload() {
    let (issuer, desk) = (Issuer::start(60).await, Desk::new());
    let account = "sso_account_id = 123456789012\nsso_role_name = Uploader\n";
    let place = "sso_region = us-east-1\nsso_start_url = https://x.awsapps.com/start\n";
    let session = format!("[profile sso]\nsso_session = me\n{account}[sso-session me]\n{place}");
    let old_form = format!("[profile old]\n{account}{place}");
    // The cache's file has the SHA-1 of the session's name, or of the start URL, for its name.
    let cached = |name: &str, token: &str, end: &str| {
        std::fs::create_dir_all(desk.path(".aws/sso/cache")).unwrap();
        let text = format!("{{\"accessToken\":\"{token}\",\"expiresAt\":\"{end}\"}}");
        std::fs::write(desk.path(".aws/sso/cache").join(name), text).unwrap();
    };
    let of_session = "b1c1d8736f20db3fb6c1c66bb1455ed43909f0d8.json";
    cached(of_session, SSO_TOKEN, "2999-01-01T00:00:00Z");
    upload_as(&desk, &issuer, "sso", &session).await.assert(0);
    assert_eq!(issuer.object("sso").unwrap(), b"sso");

    cached(of_session, SSO_TOKEN, "2020-01-01T00:00:00Z");
    let ended = upload_as(&desk, &issuer, "sso", &session).await;
    assert!(ended.assert(64).err.contains("aws sso login --profile sso"), "{}", ended.err);

    let never = upload_as(&desk, &issuer, "old", &old_form).await;
    assert!(never.assert(64).err.contains("aws sso login --profile old"), "{}", never.err);
    // Signed out since, or elsewhere.
    let of_url = "3947de8b16688092197fa616c34e01335f21d256.json";
    cached(of_url, "canary-other", "2999-01-01T00:00:00Z");
    let out = upload_as(&desk, &issuer, "old", &old_form).await;
    assert!(out.assert(64).err.contains("aws sso login --profile old"), "{}", out.err);
    assert!(!out.err.contains("canary"), "{}", out.err);
    cached(of_url, SSO_TOKEN, "2999-01-01T00:00:00Z");
    upload_as(&desk, &issuer, "old", &old_form).await.assert(0);
    assert_eq!(issuer.object("old").unwrap(), b"old");
}

/// A way that this program has not is named, with what helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_is_not_here_is_named() {
    let (issuer, desk) = (Issuer::start(60).await, Desk::new());
    let config = "[profile login]\nlogin_session = arn:aws:iam::123456789012:user/Me\n";
    let ran = upload_as(&desk, &issuer, "login", config).await;
    let help = "aws configure export-credentials --format env --profile login";
    assert!(ran.assert(64).err.contains(help), "{}", ran.err);
}
