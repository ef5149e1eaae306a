//! The files that are shipped: the defaults, and the two examples.

use super::*;
use crate::settings::load::DEFAULTS;
use crate::settings::values::{KIB, MIB, TIB};
use mizuchi_actors::config::Mode;

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let Settings {
        server,
        admission,
        replay,
        spool,
        admin,
        sts,
        logging,
        audit,
        embedded,
        buckets,
    } = settings(MINIMAL, &[]);
    assert_eq!(server.address, "0.0.0.0:8080".parse().unwrap());
    assert_eq!(server.workers, 6, "0 = cores");
    assert_eq!(server.shutdown_grace, 30 * SECOND);
    assert_eq!(server.max_head as u64, 16 * KIB);
    assert_eq!(server.public_hosts, [""; 0]);
    assert_eq!(server.trusted_proxies, []);
    assert_eq!(server.virtual_host_domains, [""; 0]);
    assert_eq!(server.state_directory, Path::new("./data"));
    assert!(server.seal_key.is_none());
    assert_eq!(server.head_timeout, 30 * SECOND);
    assert_eq!(server.keep_alive, 75 * SECOND);
    assert_eq!(server.max_connections, 25_000);
    assert!(server.tls.is_none());
    assert_eq!(server.handshake_timeout, 10 * SECOND);
    assert_eq!(server.body_progress, BodyProgress { bytes: KIB, interval: 20 * SECOND });
    assert_eq!(server.drain, Drain { bytes: 16 * MIB, time: 5 * SECOND });
    let zero_copy =
        ZeroCopySettings { enabled: true, pipe_buffer_size: 1_048_576, min_body: 65_536 };
    assert_eq!(server.zero_copy, zero_copy);
    assert_eq!(admission, AdmissionSettings { uploads: 4096, queue_wait: SECOND });
    let expected = ReplaySettings {
        memory: GIB / 2,
        memory_per_part: 64 * MIB,
        pipes: 1024,
        overflow: Some("./data/replay".into()),
        overflow_limit: 16 * GIB,
    };
    assert_eq!(replay, expected);
    let expected = SpoolSettings {
        directory: "./data/spool".into(),
        max_bytes: 100 * GIB,
        max_entries: 1_000_000,
        min_free: GIB,
        deliveries: 16,
        max_rate: None,
        backoff_base: SECOND,
        backoff_cap: 3600 * SECOND,
        wait: 30 * SECOND,
        multipart_ttl: 7 * 24 * 3600 * SECOND,
    };
    assert_eq!(spool, expected);
    assert_eq!(audit, AuditSettings { target: AuditTarget::None, required: false });
    assert_eq!(admin.address, "127.0.0.1:9090".parse().unwrap());
    assert!(admin.token.is_none() && admin.tls.is_none() && admin.open.is_empty());
    assert!(!admin.is_protected());
    assert_eq!((logging.format, logging.level.as_str()), (LogFormat::Text, "info"));
    let longest = Duration::from_secs(12 * 3600);
    assert_eq!(sts, StsSettings { enabled: false, max_duration: longest });
    assert_eq!(embedded.directory, Path::new("./data/objects"));

    let [BucketSettings { name, path_prefix, s3, upload, cors, auth, authorization }] =
        <[_; 1]>::try_from(buckets).unwrap();
    assert_eq!(authorization, None);
    assert_eq!((name.as_str(), path_prefix.as_str()), ("uploads", "/uploads"));
    assert_eq!((s3.bucket.as_str(), s3.region.as_str()), ("uploads", "us-east-1"));
    let BackendEndpoints::Http(endpoints) = s3.endpoint else { panic!("not embedded") };
    assert_eq!(endpoints[0].to_string(), "http://minio:9000");
    assert!(s3.tls.authorities.is_none() && s3.tls.server_name.is_none());
    assert!(s3.path_style && s3.allow_unsigned && s3.key_prefix.is_empty());
    assert!(!s3.require_checksum);
    let Some(CredentialSource::Settings(credentials)) = s3.credentials else { panic!() };
    assert_eq!(
        (credentials.access_key.as_str(), credentials.secret_key.expose()),
        ("B", "backend")
    );
    assert!(credentials.session_token.is_none());
    let verifies =
        Verifies { sha256: true, md5: true, checksum: true, trailer: false, full_object: false };
    assert_eq!(s3.verifies, verifies);
    let timeouts = TimeoutSettings {
        connect: 5 * SECOND,
        first_byte: 60 * SECOND,
        complete: 600 * SECOND,
        progress: 30 * SECOND,
    };
    assert_eq!(s3.timeouts, timeouts);
    let pool = PoolSettings { idle_per_worker: 64, idle_timeout: 30 * SECOND };
    assert_eq!(s3.pool, pool);
    assert_eq!((upload.mode, upload.mode_header), (Mode::WriteThrough, false));
    assert_eq!((upload.max_object_size, upload.overwrite), (5 * TIB, true));
    assert_eq!(upload.complete_keepalive, 10 * SECOND);
    assert_eq!(upload.allow, UploadPermissions::default());
    let restart = RestartSettings {
        max: 4,
        window: 60 * SECOND,
        backoff_base: Duration::from_millis(50),
        backoff_cap: 5 * SECOND,
    };
    assert_eq!(upload.restart, restart);
    let split = SplitSettings {
        auto: true,
        multipart_threshold: 50 * MIB,
        part_size: 16 * MIB,
        concurrent_parts: 4,
        unknown_length: true,
        ttl: 24 * 3600 * SECOND,
    };
    assert_eq!(upload.split, split);
    let batch = BatchSettings {
        snowball: false,
        post: false,
        idempotency_ttl: 24 * 3600 * SECOND,
        max_entries: 100_000,
        max_entry_size: GIB,
        max_total_size: 10 * GIB,
        max_ratio: 200,
        concurrency: 64,
        max_batches: 4,
        queue_wait: 30 * SECOND,
    };
    assert_eq!(upload.batch, batch);
    assert!(!upload.list_multipart_uploads && upload.client_uploads_ttl.is_none());
    assert!(cors.is_empty());
    assert!(auth.enabled);
    assert_eq!(auth.sigv4.region, "us-east-1");
    assert_eq!(auth.sigv4.max_clock_skew, 900 * SECOND);
    assert_eq!(auth.sigv4.credentials[0].principal, "AK");
    assert!(auth.client_certificates.is_none());
}

/// Every key that is read stands in settings/default.yaml, and the other way round: the walk fails
/// otherwise (see `section`). Here: that it is documented, by a comment above it or its section.
#[test]
fn every_default_is_documented() {
    let mut documented = false;
    for line in DEFAULTS.lines().filter(|line| !line.trim().is_empty()) {
        let text = line.trim_start();
        // The keys of a documented pair share its comment; sections are named by their keys'.
        let section = text.ends_with(':');
        assert!(text.starts_with('#') || section || documented, "no comment above: {line}");
        documented = text.starts_with('#') || text.starts_with("access_key: null");
    }
}

#[test]
fn the_shipped_files_load_when_their_variables_are_set() {
    let development = include_str!("../../../settings/development.yaml");
    let secret = "0123456789abcdef0123456789abcdef";
    let loaded = load_with(
        development,
        &[("MIZUCHI_DEV_ACCESS_KEY", "DEV"), ("MIZUCHI_DEV_SECRET_KEY", secret)],
    )
    .unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    let [bucket] = loaded.settings.buckets.as_slice() else { panic!("one bucket") };
    assert_eq!(bucket.name, "uploads");
    assert_eq!(bucket.s3.endpoint, BackendEndpoints::Embedded);
    assert_eq!(bucket.auth.sigv4.credentials[0].access_key, "DEV");
    assert_eq!(
        keys(development, &[]),
        ["auth.sigv4.credentials[0].access_key", "auth.sigv4.credentials[0].secret_key"]
    );

    let production = include_str!("../../../settings/production.yaml");
    let variables = [
        ("MIZUCHI_SEAL_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
        ("APP_SECRET_KEY", secret),
        ("BACKUP_SECRET_KEY", secret),
        ("MINIO_ACCESS_KEY", "MINIO"),
        ("MINIO_SECRET_KEY", secret),
        ("ARCHIVE_ACCESS_KEY", "ARCHIVE"),
        ("ARCHIVE_SECRET_KEY", secret),
    ];
    let loaded = load_with(production, &variables).unwrap();
    assert_eq!(loaded.warnings, [""; 0]);
    let principals: Vec<_> = loaded
        .settings
        .buckets
        .iter()
        .map(|bucket| bucket.auth.sigv4.credentials[0].principal.as_str())
        .collect();
    assert_eq!(principals, ["app", "backup"]);
    for (unset, _) in variables {
        let rest: Vec<_> = variables.into_iter().filter(|(name, _)| *name != unset).collect();
        assert!(errors(production, &rest).contains(unset), "{unset}");
    }

    // What is switched off there is good too: all but the certificate, which is not here.
    let whole = production.replace("#: ", "");
    let mut more = variables.to_vec();
    more.push(("MIZUCHI_ADMIN_TOKEN", secret));
    assert_eq!(keys(&whole, &more), ["server.tls.cert_file"]);
    let whole = whole.replace("cert_file: /etc/mizuchi/server.pem", "cert_file: null");
    let whole = whole.replace("key_file: /etc/mizuchi/server.key", "key_file: null");
    let loaded = load_with(&whole, &more).unwrap();
    assert!(loaded.settings.sts.enabled && loaded.settings.admin.token.is_some());
    assert!(loaded.settings.buckets.iter().all(|bucket| bucket.authorization.is_some()));
}
