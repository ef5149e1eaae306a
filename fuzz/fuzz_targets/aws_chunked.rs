//! libFuzzer's entrance of the target `aws_chunked`.
#![no_main]

#[allow(dead_code)]
#[path = "../targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::aws_chunked(data));
