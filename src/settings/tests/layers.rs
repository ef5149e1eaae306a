//! How the layers lie over one another.

use super::*;
use crate::settings::values::MIB;

#[test]
fn the_environment_wins_over_the_file_and_has_every_type() {
    let file = bucket_with("upload: {overwrite: allow}") + "server: {workers: 2, keep_alive: 5s}\n";
    let settings = settings(
        &file,
        &[
            ("MIZUCHI__SERVER__WORKERS", "3"),
            ("MIZUCHI__SERVER__ADDRESS", "[::1]:80"),
            ("MIZUCHI__SERVER__MAX_HEAD", "8KiB"),
            ("MIZUCHI__SERVER__ZERO_COPY__ENABLED", "false"),
            ("MIZUCHI__SERVER__ZERO_COPY__MIN_BODY", "1000"),
            ("MIZUCHI__SERVER__PUBLIC_HOSTS", "a.example, b.example:8080"),
            ("MIZUCHI__SERVER__TRUSTED_PROXIES", ""),
            ("MIZUCHI__ADMISSION__QUEUE_WAIT", "50ms"),
            ("MIZUCHI__REPLAY__OVERFLOW", "none"),
            ("MIZUCHI__REPLAY__MEMORY", "64MiB"),
            ("MIZUCHI__LOGGING__FORMAT", "json"),
            ("MIZUCHI__BUCKETS__0__UPLOAD__OVERWRITE", "deny"),
            ("MIZUCHI__BUCKETS__0__UPLOAD__ALLOW", "acl,lock"),
            ("MIZUCHI__BUCKETS__0__S3__SECRET_KEY", "0123"),
            ("MIZUCHI__AUTH__SIGV4__CREDENTIALS__0__PRINCIPAL", "ann"),
            ("MIZUCHI_SETTINGS", "ignored"),
            ("OTHER", "ignored"),
        ],
    );
    assert_eq!(settings.server.workers, 3);
    assert_eq!(settings.server.keep_alive, 5 * SECOND);
    assert_eq!(settings.server.address, "[::1]:80".parse().unwrap());
    assert_eq!(settings.server.max_head, 8192);
    assert!(!settings.server.zero_copy.enabled);
    assert_eq!(settings.server.zero_copy.min_body, 1000);
    assert_eq!(settings.server.public_hosts, ["a.example", "b.example:8080"]);
    assert_eq!(settings.admission.queue_wait, Duration::from_millis(50));
    assert_eq!(settings.replay.overflow, None);
    assert_eq!(settings.replay.memory, 64 * MIB);
    assert_eq!(settings.logging.format, LogFormat::Json);
    let bucket = &settings.buckets[0];
    assert!(!bucket.upload.overwrite);
    assert!(bucket.upload.allow.acl && bucket.upload.allow.lock && !bucket.upload.allow.tagging);
    let Some(CredentialSource::Settings(credentials)) = &bucket.s3.credentials else { panic!() };
    assert_eq!(credentials.secret_key.expose(), "0123");
    assert_eq!(bucket.auth.sigv4.credentials[0].principal, "ann");
}

#[test]
fn a_gateway_may_be_set_up_by_its_environment_alone() {
    let settings = settings(
        "",
        &[
            ("MIZUCHI__AUTH__ENABLED", "false"),
            ("MIZUCHI__BUCKETS__0__NAME", "uploads"),
            ("MIZUCHI__BUCKETS__0__S3__ENDPOINT", "embedded"),
        ],
    );
    assert_eq!(settings.buckets[0].s3.endpoint, BackendEndpoints::Embedded);
    assert_eq!(settings.buckets[0].s3.region, "us-east-1");
}

#[test]
fn a_wrong_variable_is_an_error_that_names_it() {
    let found = errors(MINIMAL, &[("MIZUCHI__SERVER__WORKERS", "many")]);
    assert!(found.ends_with("not `many` (set by MIZUCHI__SERVER__WORKERS)"), "{found}");
    for (name, key) in [
        ("MIZUCHI__SERVER__X", "server.x"),
        ("MIZUCHI__SERVER", "server"),
        ("MIZUCHI__SERVER__ADDRESS__X", "server.address"),
        ("MIZUCHI__BUCKETS", "buckets"),
        ("MIZUCHI__BUCKETS__0", "buckets[0]"),
        ("MIZUCHI__BUCKETS__0__X", "buckets[0].x"),
        ("MIZUCHI__BUCKETS__100__NAME", "MIZUCHI__BUCKETS__100__NAME"),
        ("MIZUCHI__BUCKETS[9999999999]", "MIZUCHI__BUCKETS[9999999999]"),
        ("MIZUCHI__X", "MIZUCHI__X"),
        ("MIZUCHI__", "MIZUCHI__"),
        ("MIZUCHI__SERVER____X", "MIZUCHI__SERVER____X"),
    ] {
        let found = keys(MINIMAL, &[(name, "1"), ("MIZUCHI__SERVER__MAX_HEAD", "8KiB")]);
        assert!(found.contains(&key.to_owned()), "{name}: {found:?}");
    }
    let gap = keys(MINIMAL, &[("MIZUCHI__BUCKETS__2__NAME", "third")]);
    assert!(gap.contains(&"buckets[1]".to_owned()), "{gap:?}");
}

#[test]
fn variables_in_the_file_are_replaced_or_the_error_names_key_and_variable() {
    let file = MINIMAL.replace("a-long-enough-secret", "'${SECRET}'")
        + "server: {workers: '${WORKERS:-4}', address: '${HOST:-127.0.0.1}:${PORT:-1}'}\n";
    let secret = ("SECRET", "${WORKERS}");
    let settings = settings(&file, &[secret, ("PORT", "99")]);
    assert_eq!(settings.server.workers, 4);
    assert_eq!(settings.server.address, "127.0.0.1:99".parse().unwrap());
    let credential = &settings.buckets[0].auth.sigv4.credentials[0];
    assert_eq!(credential.secret_key.expose(), "${WORKERS}", "not read twice");
    let found = errors(&(file + "admin: {address: '${ADMIN}'}\n"), &[]);
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(lines.len(), 2, "{found}");
    assert!(lines[0].starts_with("admin.address: the environment variable ADMIN is not set"));
    assert!(lines[1].starts_with(
        "auth.sigv4.credentials[0].secret_key: the environment variable SECRET is not set"
    ));
}

#[test]
fn an_empty_section_or_value_is_the_default() {
    let file = format!("{MINIMAL}server:\nreplay: {{memory: , directory: ''}}\nlogging: null\n");
    let settings = settings(&file, &[]);
    assert_eq!(settings.server.workers, 6);
    assert_eq!(settings.replay.memory, GIB / 2);
}

#[test]
fn auth_is_inherited_key_by_key_and_needs_a_credential() {
    let own = "auth: {sigv4: {region: auto, credentials: [{access_key: OWN, secret_key: x}]}}";
    let settings = settings(
        &(bucket_with(own).replace(
            "sigv4: {credentials: [{access_key: AK",
            "enabled: true, \
          sigv4: {max_clock_skew_seconds: 60, credentials: [{access_key: AK",
        )),
        &[],
    );
    let auth = &settings.buckets[0].auth;
    assert_eq!(auth.sigv4.region, "auto");
    assert_eq!(auth.sigv4.max_clock_skew, 60 * SECOND);
    assert_eq!(auth.sigv4.credentials.len(), 1, "a list replaces, it does not add");
    assert_eq!(auth.sigv4.credentials[0].access_key, "OWN");

    let none = bucket_with("auth: {sigv4: {credentials: []}}");
    assert_eq!(keys(&none, &[]), ["buckets[0].auth.sigv4.credentials"]);
    let twice = bucket_with(
        "auth: {sigv4: {credentials: [{access_key: A, secret_key: x}, \
         {access_key: A, secret_key: y}]}}",
    );
    assert_eq!(keys(&twice, &[]), ["buckets[0].auth.sigv4.credentials[1].access_key"]);
}

#[test]
fn backend_credentials_come_from_the_settings_then_from_the_environment() {
    let file = s3("region: r, endpoint: 'http://a'");
    let id = ("AWS_ACCESS_KEY_ID", "ENV");
    let settings = settings(&file, &[id, ("AWS_SECRET_ACCESS_KEY", "s")]);
    let Some(CredentialSource::Environment(credentials)) = &settings.buckets[0].s3.credentials
    else {
        panic!()
    };
    assert_eq!(credentials.access_key, "ENV");
    for environment in [&[][..], &[id]] {
        assert_eq!(keys(&file, environment), ["buckets[0].s3.access_key"]);
    }
    for (set, key) in [
        ("access_key: A", "secret_key"),
        ("secret_key: A", "access_key"),
        ("session_token: A", "session_token"),
        ("access_key: A, secret_key: A, profile: A", "profile"),
        ("access_key: A, secret_key: A, instance_metadata: yes", "instance_metadata"),
        ("access_key: 5, secret_key: A", "access_key"),
    ] {
        let file = s3(&format!("endpoint: embedded, {set}"));
        assert_eq!(keys(&file, &[]), [format!("buckets[0].s3.{key}")]);
    }
}

#[test]
fn a_cors_rule_has_defaults_of_its_own() {
    let file = bucket_with("cors: [{allowed_origins: 'https://*.b'}, {expose_headers: []}]");
    let variables = [
        ("MIZUCHI__BUCKETS__0__CORS__1__ALLOWED_ORIGINS", "https://c, *"),
        ("MIZUCHI__BUCKETS__0__CORS__1__ALLOWED_METHODS", "GET"),
        ("MIZUCHI__BUCKETS__0__CORS__1__MAX_AGE_SECONDS", "0"),
    ];
    let rules = settings(&file, &variables).buckets.remove(0).cors;
    let [first, second] = rules.as_slice() else { panic!("two rules") };
    assert_eq!(first.methods, ["PUT", "POST"]);
    assert!(first.origins[0].matches("https://a.b") && first.headers.is_empty());
    assert_eq!((first.expose.as_slice(), first.max_age), (["ETag".to_owned()].as_slice(), None));
    assert_eq!((second.origins.len(), second.methods.as_slice()), (2, ["GET"].as_slice()));
    assert_eq!((second.expose.len(), second.max_age), (0, Some(0)));
}
