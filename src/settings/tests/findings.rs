//! What is refused, and how that is told.

use super::*;
use crate::settings::load::DEFAULTS;
use proptest::prelude::*;

#[test]
fn an_empty_file_lacks_only_a_bucket() {
    assert_eq!(keys("", &[]), ["buckets"]);
    let none = load(None, &BTreeMap::new()).unwrap_err();
    assert_eq!(none.errors()[0].key, "buckets");
}

#[test]
fn all_errors_are_shown_at_once_each_with_its_key() {
    let file = "
server: {address: nowhere, workers: -1, max_head: 1KiB, shutdown_grace: 30, adress: x}
replay: {overflow: maybe}
admin: 5
buckets:
  - name: Bad_Name
    s3: {endpoint: 's3.example.com', region: us-east-1, access_key: A}
  - name: good
    path_prefix: good
    s3: {endpoint: 'http://minio:9000/x', verifies: [sha256, crc], path_style: 3}
    upload: {max_object_size: 6TiB, restart: {max: 101, backoff_base: 10s}}
  - 7
";
    let found = errors(file, &[]);
    let expected = "\
admin: must be a section with keys of its own
buckets[0].auth.sigv4.credentials: auth is enabled, and
buckets[0].name: must be a bucket name
buckets[0].s3.endpoint: must be http://host[:port] or https://host[:port], or embedded
buckets[0].s3.secret_key: must be set too
buckets[1].auth.sigv4.credentials: auth is enabled
buckets[1].path_prefix: must begin with /
buckets[1].s3.endpoint: must have no path
buckets[1].s3.path_style: must be true or false, not 3
buckets[1].s3.region: must be set, in the file or as MIZUCHI__BUCKETS__1__S3__REGION
buckets[1].s3.verifies[1]: must be one of sha256, md5, checksum, trailer, full_object, not `crc`
buckets[1].upload.max_object_size: must be a size such as 8MiB, of 1B to 5TiB, not `6TiB`
buckets[1].upload.restart.backoff_base: must not be longer than backoff_cap
buckets[1].upload.restart.max: must be a whole number of 0 to 100, not 101
buckets[2]: must be a section with keys of its own
replay.overflow: must be one of file, none, not `maybe`
server.address: must be an IP address and a port
server.adress: is not a setting; known here: address, body_progress
server.max_head: must be a size such as 8MiB, of 4KiB to 64KiB
server.shutdown_grace: must be a time with its unit
server.workers: must be a whole number of 0 to 1024, not -1";
    assert_eq!(found.lines().count(), expected.lines().count(), "{found}");
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn an_unknown_key_is_an_error_at_each_level() {
    for (file, key) in [
        (format!("{MINIMAL}authz: {{enabled: true}}\n"), "authz"),
        (format!("{MINIMAL}\"\": 1\n"), "\"\""),
        (format!("{MINIMAL}server: {{x: 1}}\n"), "server.x"),
        (format!("{MINIMAL}server: {{zero_copy: {{x: 1}}}}\n"), "server.zero_copy.x"),
        (format!("{MINIMAL}server: {{drain: {{x: }}}}\n"), "server.drain.x"),
        (format!("{MINIMAL}server: {{body_progress: {{x: 1}}}}\n"), "server.body_progress.x"),
        (format!("{MINIMAL}admission: {{x: 1}}\n"), "admission.x"),
        (format!("{MINIMAL}replay: {{x: 1}}\n"), "replay.x"),
        (format!("{MINIMAL}admin: {{x: 1}}\n"), "admin.x"),
        (format!("{MINIMAL}logging: {{x: 1}}\n"), "logging.x"),
        (format!("{MINIMAL}audit: {{x: 1}}\n"), "audit.x"),
        (format!("{MINIMAL}embedded: {{x: 1}}\n"), "embedded.x"),
        (bucket_with("x: 1"), "buckets[0].x"),
        (bucket_with("upload: {x: 1}"), "buckets[0].upload.x"),
        (bucket_with("upload: {restart: {x: 1}}"), "buckets[0].upload.restart.x"),
        (bucket_with("cors: [{allowed_origins: '*', x: 1}]"), "buckets[0].cors[0].x"),
        (bucket_with("auth: {x: 1}"), "buckets[0].auth.x"),
        (bucket_with("auth: {sigv4: {x: 1}}"), "buckets[0].auth.sigv4.x"),
        (
            bucket_with("auth: {sigv4: {credentials: [{access_key: A, secret_key: B, x: 1}]}}"),
            "buckets[0].auth.sigv4.credentials[0].x",
        ),
        (s3("endpoint: embedded, x: 1"), "buckets[0].s3.x"),
        (s3("endpoint: embedded, pool: {x: 1}"), "buckets[0].s3.pool.x"),
        (s3("endpoint: embedded, tls: {verify: false}"), "buckets[0].s3.tls.verify"),
        (s3("endpoint: embedded, timeouts: {x: 1}"), "buckets[0].s3.timeouts.x"),
        (MINIMAL.replace("auth: {", "auth: {x: 1, "), "auth.x"),
        (MINIMAL.replace("sigv4: {", "sigv4: {x: 1, "), "auth.sigv4.x"),
    ] {
        assert_eq!(keys(&file, &[]), [key]);
        assert!(errors(&file, &[]).contains("is not a setting; known here: "));
    }
}

#[test]
fn names_and_prefixes_are_unique() {
    let second = |keys: &str| format!("{MINIMAL}  - {{{keys}, s3: {{endpoint: embedded}}}}\n");
    assert_eq!(keys(&second("name: uploads, path_prefix: /x"), &[]), ["buckets[1].name"]);
    assert_eq!(
        keys(&second("name: other, path_prefix: /uploads/"), &[]),
        ["buckets[1].path_prefix"]
    );
    assert!(load_with(&second("name: other, path_prefix: /uploads-2"), &[]).is_ok());
}

#[test]
fn an_endpoint_is_one_address_or_several_or_embedded() {
    let rest = "region: r, access_key: A, secret_key: B";
    for endpoint in ["['http://a:1', 'HTTPS://b:443/']", "'http://a:1, https://b'"] {
        let settings = settings(&s3(&format!("{rest}, endpoint: {endpoint}")), &[]);
        let BackendEndpoints::Http(endpoints) = &settings.buckets[0].s3.endpoint else {
            panic!("not embedded")
        };
        let shown: Vec<_> = endpoints.iter().map(Endpoint::to_string).collect();
        assert_eq!(shown, ["http://a:1", "https://b"]);
    }
    for (endpoint, key) in [
        ("[]", "buckets[0].s3.endpoint"),
        ("{a: b}", "buckets[0].s3.endpoint"),
        ("7", "buckets[0].s3.endpoint"),
        ("['http://a', embedded]", "buckets[0].s3.endpoint"),
        ("['http://a', 'HTTP://A:80/']", "buckets[0].s3.endpoint"),
        ("['http://a:443', 'https://a']", "buckets[0].s3.endpoint"),
        ("['http://a', 'http://b/c']", "buckets[0].s3.endpoint[1]"),
    ] {
        let file = s3(&format!("{rest}, endpoint: {endpoint}"));
        assert_eq!(keys(&file, &[]), [key], "{endpoint}");
    }
}

#[test]
fn authorities_are_files_with_certificates() {
    let certificate = || {
        let certified = rcgen::generate_simple_self_signed(vec!["a".into()]).unwrap();
        certified.cert.pem()
    };
    let files = [("one.pem", certificate()), ("two.pem", certificate()), ("key.pem", "".into())];
    let load = |endpoint: &str, tls: &str| {
        let keys = "region: r, access_key: A, secret_key: B";
        let file = s3(&format!("{keys}, endpoint: '{endpoint}', tls: {{{tls}}}"));
        let read = |path: &Path| match path.to_str() {
            Some("settings.yaml") => Ok(file.clone()),
            Some(path) => files
                .iter()
                .find(|(name, _)| *name == path)
                .map(|(_, text)| text.clone())
                .ok_or_else(|| io::ErrorKind::NotFound.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let environment = BTreeMap::new();
        let surroundings =
            Surroundings { environment: &environment, read: &read, list: &|_| Ok(None) };
        load_within(Some(Path::new("settings.yaml")), &surroundings, &MACHINE)
    };
    let loaded = load("https://a", "ca_file: [one.pem, two.pem], server_name: b.test").unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    let tls = &loaded.settings.buckets[0].s3.tls;
    assert!(tls.authorities.is_some());
    assert_eq!(tls.server_name.as_deref(), Some("b.test"));
    assert!(load("https://a", "ca_file: 'one.pem, two.pem'").is_ok());
    for (tls, problem) in [
        (
            "ca_file: none.pem",
            "ca_file: cannot be read: entity not found: `none.pem` must be a PEM",
        ),
        ("ca_file: [one.pem, key.pem]", "ca_file[1]: `key.pem`: holds no certificate: a PEM file"),
        ("server_name: 'a b'", "server_name: must be a host name or an IP address, not `a b`"),
    ] {
        let error = load("https://a", tls).unwrap_err().to_string();
        assert!(error.starts_with(&format!("buckets[0].s3.tls.{problem}")), "{error}");
    }
    let warnings = load("http://a", "ca_file: one.pem").unwrap().warnings;
    assert_eq!(warnings, ["buckets[0].s3.tls: has no effect: no endpoint is https://"]);
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let file = format!(
        "{}admin: {{address: '0.0.0.0:9090', token: 0123456789abcdef}}\n",
        bucket_with("auth: {enabled: false}")
            + "  - {name: inner, path_prefix: /uploads/a, s3: {endpoint: embedded}}\n"
    )
    .replace("a-long-enough-secret", "short");
    let warnings = load_with(&file, &[]).unwrap().warnings;
    let keys: Vec<_> = warnings.iter().filter_map(|warning| warning.split(':').next()).collect();
    let expected = [
        "admin.token",
        "auth.sigv4.credentials[0].secret_key",
        "buckets[0].auth",
        "buckets[1].path_prefix",
    ];
    assert_eq!(keys, expected);
    assert_eq!(load_with(MINIMAL, &[]).unwrap().warnings, [""; 0]);
}

/// A canary secret never shows, whether it is right, of the wrong kind or in the wrong place.
#[test]
fn secrets_are_never_shown() {
    let file = "
server: {seal_key: Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5Y2E=}
auth: {sigv4: {credentials: [{access_key: AK, secret_key: canary}]}}
buckets:
  - name: uploads
    s3:
      {region: r, endpoint: 'http://m', access_key: B, secret_key: canary, session_token: canary}
";
    let loaded = load_with(file, &[]).unwrap();
    let shown = format!("{loaded:?} {:#?}", loaded.settings);
    let bytes = "99, 97, 110, 97, 114, 121";
    assert!(!shown.contains("canary") && !shown.contains(bytes) && !shown.contains("Y2Fu"));

    let wrong = file
        .replace("Y2FuYXJ5", "canary")
        .replace("AK,", "'canary/canary',")
        .replace("access_key: B", "access_key: 'canary canary'")
        .replace("secret_key: canary", r#"secret_key: "canary\n""#)
        .replace("'http://m'", "'http://canary:canary@m'");
    let found = errors(&wrong, &[]);
    assert_eq!(found.lines().count(), 6, "{found}");
    assert!(!found.contains("canary"), "{found}");
}

#[test]
fn a_file_that_is_missing_or_no_yaml_is_one_error() {
    let missing =
        load(Some(Path::new("/nonexistent/settings.yaml")), &BTreeMap::new()).unwrap_err();
    assert_eq!(missing.errors().len(), 1);
    assert!(missing.to_string().starts_with("/nonexistent/settings.yaml: the settings cannot"));
    for file in ["a: [", "- a", "text", "a: 1\n---\nb: 2", "a: 1\na: 2", "? [x]\n: y"] {
        assert_eq!(keys(file, &[]), ["settings.yaml"], "{file}");
    }
}

#[test]
fn a_key_of_the_file_is_never_a_path() {
    for key in ["buckets[99999999999999]", "server.address", "buckets[-1]"] {
        let file = format!("{MINIMAL}'{key}': 1\n");
        assert_eq!(keys(&file, &[]), [key]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Arbitrary text, and text made of what YAML and these settings are made of.
    #[test]
    fn no_text_and_no_variable_panics(
        text in prop_oneof![
            "\\PC{0,80}",
            proptest::collection::vec(
                prop_oneof![
                    Just("server"), Just("buckets"), Just("auth"), Just("s3"), Just("sigv4"),
                    Just("credentials"), Just("endpoint"), Just("name"), Just(":"), Just(": "),
                    Just("\n"), Just("\n  "), Just("\n    "), Just("- "), Just("["), Just("]"),
                    Just("{"), Just("}"), Just(", "), Just("'"), Just("\""), Just("|"), Just("&a "),
                    Just("*a"), Just("!!int "), Just("~"), Just("1"), Just(".inf"), Just("${A}"),
                    Just("${"), Just("?"), Just("<<"), Just("0x"), Just("---\n"),
                ],
                0..24,
            ).prop_map(|words| words.concat()),
        ],
        name in "MIZUCHI__(SERVER|BUCKETS|AUTH)?(__|[0-9]{0,3}|NAME|S3|\\PC){0,5}",
        value in "\\PC{0,20}",
    ) {
        let _ = load_with(&text, &[(&name, &value)]).map_err(|errors| errors.to_string());
    }

    /// One value of a valid file replaced by anything.
    #[test]
    fn no_value_of_a_key_panics(value in "\\PC{0,30}|[0-9]{1,30}[a-zA-Z]{0,3}", at in 0..21_usize) {
        let mut lines: Vec<_> = DEFAULTS.lines().map(str::to_owned).collect();
        let mut keys: Vec<_> =
            lines.iter_mut().filter(|line| !line.trim_start().starts_with('#')).collect();
        let count = keys.len();
        let line = &mut keys[(at * 4) % count];
        if let Some((key, _)) = line.split_once(": ") {
            **line = format!("{key}: {value}");
        }
        let _ = load_with(&lines.join("\n"), &[]).map_err(|errors| errors.to_string());
    }
}

#[test]
fn a_cors_rule_names_origins_and_what_they_may() {
    for (rule, key) in [
        ("{}", "allowed_origins"),
        ("{allowed_origins: ''}", "allowed_origins"),
        ("{allowed_origins: [https://a.b, https://a.b/]}", "allowed_origins[1]"),
        ("{allowed_origins: '*', allowed_methods: []}", "allowed_methods"),
        ("{allowed_origins: '*', allowed_methods: [PUT, PATCH]}", "allowed_methods[1]"),
        ("{allowed_origins: '*', allowed_headers: ['x-*-*']}", "allowed_headers[0]"),
        ("{allowed_origins: '*', expose_headers: ['*']}", "expose_headers[0]"),
        ("{allowed_origins: '*', max_age_seconds: 86401}", "max_age_seconds"),
    ] {
        let found = keys(&bucket_with(&format!("cors: [{rule}]")), &[]);
        assert_eq!(found, [format!("buckets[0].cors[0].{key}")], "{rule}");
    }
    let many = vec!["{allowed_origins: '*'}"; 101].join(", ");
    assert_eq!(keys(&bucket_with(&format!("cors: [{many}]")), &[]), ["buckets[0].cors"]);
}
