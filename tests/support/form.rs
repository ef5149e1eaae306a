//! A browser's form, signed as whoever serves the page does it: an HMAC of its own, no code of the
//! gateway's.

use super::client::{Answer, Client};
use super::gateway::{ACCESS_KEY, SECRET_KEY};
use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

pub const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxkTrZu0gW";

/// RFC 2104.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// A form before it is sent.
#[derive(Clone)]
pub struct Form {
    /// In order, before the file.
    pub fields: Vec<(String, String)>,
    /// Conditions beside those of the fields themselves, as JSON.
    pub conditions: Vec<String>,
    pub expires: Duration,
    pub filename: String,
    /// Parts after the file, as they are on the wire.
    pub after: String,
    /// What ends the body.
    pub closing: String,
    pub path: String,
    /// Header lines of the POST.
    pub headers: String,
    pub access_key: String,
    pub secret: String,
    /// False: no policy, no signature.
    pub signed: bool,
    pub date: OffsetDateTime,
    pub scope: String,
}

impl Form {
    /// A form for `key`, whose policy names its fields exactly.
    pub fn new(key: &str) -> Form {
        let date = OffsetDateTime::now_utc();
        let form = Form {
            fields: Vec::new(),
            conditions: vec![r#"{"bucket": "uploads"}"#.to_owned()],
            expires: Duration::minutes(10),
            filename: "file.bin".to_owned(),
            after: String::new(),
            closing: format!("--{BOUNDARY}--\r\n"),
            path: "/uploads".to_owned(),
            headers: String::new(),
            access_key: ACCESS_KEY.to_owned(),
            secret: SECRET_KEY.to_owned(),
            signed: true,
            date,
            scope: format!("{}/us-east-1/s3/aws4_request", &stamp(date)[..8]),
        };
        form.field("key", key)
    }

    /// A field, with a condition that it is this value.
    pub fn field(self, name: &str, value: &str) -> Form {
        let text = |text: &str| serde_json::to_string(text).unwrap();
        let condition = format!("[\"eq\", {}, {}]", text(&format!("${name}")), text(value));
        self.condition(&condition).extra(name, value)
    }

    /// A field that no condition names.
    pub fn extra(mut self, name: &str, value: &str) -> Form {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn condition(mut self, condition: &str) -> Form {
        self.conditions.push(condition.to_owned());
        self
    }

    pub fn without(mut self, name: &str) -> Form {
        self.fields.retain(|(have, _)| have != name);
        self
    }

    pub fn with(mut self, change: impl FnOnce(&mut Form)) -> Form {
        change(&mut self);
        self
    }

    /// The policy's document.
    pub fn policy(&self) -> String {
        let expiration = self.date + self.expires;
        let expiration = expiration.format(&time::format_description::well_known::Rfc3339).unwrap();
        format!(
            "{{\"expiration\": \"{expiration}\", \"conditions\": [{}]}}",
            self.conditions.join(", ")
        )
    }

    /// Adds the fields of the signature, over this policy.
    pub fn sign(self) -> Form {
        let (date, scope) = (stamp(self.date), self.scope.clone());
        let credential = format!("{}/{scope}", self.access_key);
        let form = self
            .field("x-amz-algorithm", "AWS4-HMAC-SHA256")
            .field("x-amz-credential", &credential)
            .field("x-amz-date", &date);
        let document = form.policy();
        form.seal(&document)
    }

    /// Adds a policy of this text, and its signature.
    pub fn seal(self, document: &str) -> Form {
        let policy = base64::engine::general_purpose::STANDARD.encode(document);
        let date = stamp(self.date);
        let mut key = format!("AWS4{}", self.secret).into_bytes();
        for step in [&date[..8], "us-east-1", "s3", "aws4_request"] {
            key = hmac(&key, step.as_bytes());
        }
        let signature = hmac(&key, policy.as_bytes());
        let signature: String = signature.iter().map(|byte| format!("{byte:02x}")).collect();
        self.extra("policy", &policy).extra("x-amz-signature", &signature)
    }

    /// The parts of all fields but the file.
    pub fn parts(&self) -> String {
        let form = if self.signed { self.clone().sign() } else { self.clone() };
        form.fields.iter().map(|(name, value)| part(name, value)).collect()
    }

    /// Everything before the file's bytes, and everything after them.
    pub fn around(&self) -> (Vec<u8>, Vec<u8>) {
        let mut before = self.parts();
        before.push_str(&format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            self.filename
        ));
        (before.into_bytes(), format!("\r\n{}{}", self.after, self.closing).into_bytes())
    }

    /// The whole body.
    pub fn body(&self, file: &[u8]) -> Vec<u8> {
        let (before, after) = self.around();
        [&before[..], file, &after[..]].concat()
    }

    /// The head of the POST; `framing` is its Content-Length or Transfer-Encoding line.
    pub fn head(&self, host: &str, framing: &str) -> Vec<u8> {
        format!(
            "POST {} HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; \
             boundary={BOUNDARY}\r\n{framing}\r\n{}\r\n",
            self.path, self.headers
        )
        .into_bytes()
    }

    /// Sends it with a Content-Length, on a connection of its own choice.
    pub async fn send(&self, client: &mut Client, file: &[u8]) -> Answer {
        self.send_body(client, &self.body(file)).await
    }

    /// Sends this body.
    pub async fn send_body(&self, client: &mut Client, body: &[u8]) -> Answer {
        let head = self.head(&client.host, &format!("Content-Length: {}", body.len()));
        client.raw(&head, body).await
    }
}

/// A part of the form, without a file.
pub fn part(name: &str, value: &str) -> String {
    format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn stamp(date: OffsetDateTime) -> String {
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    date.format(format).unwrap()
}
