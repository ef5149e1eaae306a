//! "Missing policy file, bad Rego, bad url: exit 64 with all errors"; "a forgotten `engine` must not
//! fail open".

use std::process::Command;

/// The exit code and the errors of `command` with this top-level `authorization`.
fn run(command: &str, authorization: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("settings.yaml");
    std::fs::write(directory.path().join("broken.rego"), "package mizuchi\nallow if {").unwrap();
    std::fs::write(directory.path().join("good.rego"), "package mizuchi\nallow := true\n").unwrap();
    let settings = format!(
        "authorization:\n{authorization}auth:\n  sigv4:\n    credentials:\n      - access_key: A\n        \
         secret_key: a-secret-of-enough-length\nbuckets:\n  - name: uploads\n    s3:\n      \
         region: us-east-1\n      endpoint: http://127.0.0.1:1\n      access_key: B\n      secret_key: b\n"
    );
    std::fs::write(&file, settings).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_mizuchi"))
        .arg(command)
        .env("MIZUCHI_SETTINGS", &file)
        .current_dir(directory.path())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn what_is_wrong_is_said_and_nothing_starts() {
    for (authorization, expected) in [
        ("  rego: {files: [good.rego]}\n", vec!["authorization.rego: is configured"]),
        ("  opa: {url: 'http://localhost'}\n", vec!["authorization.opa: is configured"]),
        ("  engine: opal\n", vec!["authorization.engine: must be one of"]),
        ("  engin: opa\n", vec!["authorization.engin: is not a setting"]),
        (
            "  engine: opa\n  timeout: 1h\n",
            vec!["authorization.opa.url: must be set", "authorization.timeout"],
        ),
        (
            "  engine: opa\n  opa: {url: 'opa:8181'}\n",
            vec!["authorization.opa.url: must begin with"],
        ),
        (
            "  engine: rego\n  rego: {files: [none.rego]}\n",
            vec!["authorization.rego.files: none.rego cannot be read"],
        ),
        (
            "  engine: rego\n  rego: {files: [broken.rego]}\n",
            vec!["authorization.rego.files: broken.rego:2"],
        ),
        (
            "  engine: rego\n  rego: {files: [good.rego], query: data.x.y}\n",
            vec!["authorization.rego.query: `data.x.y` does not name a rule"],
        ),
        (
            "  engine: openfga\n",
            vec!["authorization.openfga.url", "authorization.openfga.store_id"],
        ),
        (
            "  engine: rego\n  headers: [authorization, x-ok, cookie]\n  rego: {embedded: true}\n",
            vec!["authorization.headers[0]", "authorization.headers[2]"],
        ),
    ] {
        for command in ["check", "serve"] {
            let (code, text) = run(command, authorization);
            assert_eq!(code, Some(64), "{command} {authorization}: {text}");
            for line in &expected {
                let said = text.lines().any(|have| have.starts_with(line));
                assert!(said, "{authorization}: {line} is missing:\n{text}");
            }
        }
    }
    let (code, text) = run("check", "  engine: rego\n  rego: {files: [good.rego]}\n");
    assert_eq!(code, Some(0), "{text}");
}
