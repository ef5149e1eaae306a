//! The layering rules, held by reading the sources.

use std::path::{Path, PathBuf};

fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push((path.clone(), std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

/// The files that are actors, or hold one: everything else in the engine is a mechanism.
const ACTORS: [&str; 10] = [
    "answer.rs",
    "auth_actor.rs",
    "delivery_actor.rs",
    "guardian.rs",
    "orphan_sweeper.rs",
    "part_worker.rs",
    "s3_client_actor.rs",
    "splits.rs",
    "upload_supervisor.rs",
    "lib.rs",
];

#[test]
fn mechanisms_import_no_actix() {
    for (path, text) in sources("actors") {
        let name = path.file_name().unwrap().to_str().unwrap();
        if !ACTORS.contains(&name) {
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                assert!(!line.contains("actix::"), "{}: {line}", path.display());
                assert!(!line.contains("actix_rt::"), "{}: {line}", path.display());
            }
        }
    }
}

#[test]
fn handlers_touch_no_body_s_bytes() {
    for (path, text) in sources("src") {
        for word in ["splice(", "web::Payload", "web::Bytes", "take_buffered("] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn unsafe_is_forbidden_and_rusoto_stays_in_one_module() {
    let manifest = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    assert!(manifest.unwrap().contains("unsafe_code = \"forbid\""));
    for (path, text) in sources("actors").into_iter().chain(sources("src")) {
        let file = path.file_name().unwrap().to_str().unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let uses = code.filter(|line| line.contains("use rusoto_")).count();
        assert!(uses == 0 || file.contains("origin") || file.contains("rusoto"), "{file}");
    }
}

#[test]
fn files_are_one_thing() {
    for (path, text) in ["actors", "src", "benches"].into_iter().flat_map(sources) {
        let lines = text.lines().count();
        assert!(lines <= 700, "{}: {lines} lines: is it still one thing?", path.display());
    }
}

/// docs/security.md: no row without a test, and no test that is not there.
#[test]
fn every_row_of_the_attack_tables_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/security.md")).unwrap();
    let (_, tables) = text.split_once("## How to read the tables").unwrap();
    let mut tests = 0;
    for row in tables.lines().filter(|line| line.starts_with('|')) {
        let shown = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap().trim();
        if shown.starts_with("---") || shown == "shown by" {
            continue;
        }
        let named: Vec<&str> = shown.split('`').filter(|word| word.contains("::")).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for name in named {
            let (file, test) = name.split_once("::").unwrap();
            let source = std::fs::read_to_string(root.join(file)).unwrap_or_default();
            let is_there =
                ["fn", "def"].iter().any(|word| source.contains(&format!("{word} {test}(")));
            assert!(is_there, "{name} is not there: {row}");
            tests += 1;
        }
    }
    assert!(tests > 150, "the tables were not read");
}
