//! security.md, "XML": attacks in a CompleteMultipartUpload's document, over a real socket. After
//! each the upload is as it was: no object, no further upload, and at the end it completes.

use crate::support::backend::Backend;
use crate::support::client::{Answer, Client, Request};
use crate::support::gateway::{Gateway, Setup};
use mizuchi_actors::sigv4::PayloadHash;

/// An upload with one part, ready to be completed.
struct Ready {
    backend: Backend,
    gateway: Gateway,
    id: String,
    etag: String,
}

async fn ready() -> Ready {
    let backend = Backend::start().await;
    let gateway = Setup::new(&backend, backend.s3.address).start().await;
    let mut client = Client::connect(&gateway).await;
    let created = client.send(Request::method("POST", "k").query("uploads", ""), b"").await;
    let id = created.element("UploadId").unwrap();
    let part = Request::put("k", 4).query("partNumber", "1").query("uploadId", &id);
    let etag = client.send(part, b"part").await.header("etag").unwrap();
    Ready { backend, gateway, id, etag }
}

impl Ready {
    fn request(&self, length: usize, payload: PayloadHash) -> Request {
        let request = Request::method("POST", "k").query("uploadId", &self.id);
        Request { length: Some(length as u64), payload, ..request }
    }

    async fn complete(&self, document: &[u8]) -> Answer {
        let request = self.request(document.len(), PayloadHash::of(document));
        Client::connect(&self.gateway).await.send(request, document).await
    }

    /// The document that the upload needs, with `more` among the fields of its part.
    fn document(&self, more: &str) -> String {
        let Ready { etag, .. } = self;
        format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag>{more}</Part>\
             </CompleteMultipartUpload>"
        )
    }

    fn untouched(&self, name: &str) {
        assert_eq!(self.backend.object("k"), None, "{name}");
        assert_eq!(self.backend.open_uploads(), 1, "{name}");
    }

    async fn refused(&self, name: &str, document: &[u8], code: &str) {
        let answer = self.complete(document).await;
        let text = answer.text();
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{name}: {text}");
        assert!(!text.contains("root:"), "{name}: {text}");
        self.untouched(name);
    }
}

/// "No DOCTYPE or ENTITY, depth and attribute caps, 1 MiB body, ≤ 10,000 parts".
#[tokio::test]
async fn attacks_in_a_document_are_refused_and_the_upload_goes_on() {
    let ready = ready().await;
    let plain = ready.document("");
    let declared = |doctype: &str, text: &str| {
        format!("<?xml version=\"1.0\"?>{doctype}{}", ready.document(text))
    };
    let mut bomb = String::from("<!DOCTYPE b [<!ENTITY e0 \"ha\">");
    for level in 1..10 {
        let inner = format!("&e{};", level - 1).repeat(10);
        bomb.push_str(&format!("<!ENTITY e{level} \"{inner}\">"));
    }
    bomb.push_str("]>");
    let file = "<!DOCTYPE c [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>";
    let outside = "<!DOCTYPE c SYSTEM \"http://127.0.0.1:1/evil.dtd\">";
    let deep = |depth: usize| format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
    let wide = format!("<X {}/>", "a=\"1\" ".repeat(200));
    let long = format!("<X a=\"{}\"/>", "b".repeat(1000));
    let many = |count: usize| {
        let part = |n: usize| format!("<Part><PartNumber>{n}</PartNumber><ETag>e</ETag></Part>");
        let parts: String = (1..=count).map(part).collect();
        format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
    };
    for (name, document) in [
        ("DOCTYPE", declared("<!DOCTYPE CompleteMultipartUpload>", "")),
        ("external entity", declared(file, "<X>&x;</X>")),
        ("external DTD", declared(outside, "")),
        ("entity expansion", declared(&bomb, "<X>&e9;</X>")),
        ("undeclared entity", ready.document("<X>&x;</X>")),
        ("processing instruction", declared("<?xml-stylesheet href=\"x\"?>", "")),
        ("depth 4", ready.document("<X><a/></X>")),
        ("depth 10,000", ready.document(&deep(10_000))),
        ("attributes", ready.document(&wide)),
        ("a long attribute", ready.document(&long)),
        ("an entity in an attribute", ready.document("<X a=\"&x;\"/>")),
        ("PartNumber twice", ready.document("<PartNumber>2</PartNumber>")),
        ("ETag twice", ready.document("<ETag>other</ETag>")),
        ("no ETag", plain.replace("ETag", "Etag")),
        ("another root", plain.replace("CompleteMultipartUpload", "Complete")),
        ("no part", "<CompleteMultipartUpload></CompleteMultipartUpload>".to_owned()),
        ("two roots", format!("{plain}{plain}")),
        ("cut off", plain[..plain.len() - 9].to_owned()),
        ("not XML", "{\"Part\": 1}".to_owned()),
    ] {
        ready.refused(name, document.as_bytes(), "MalformedXML").await;
    }
    for (name, bytes) in
        [("overlong", &b"\xc0\xaf"[..]), ("Latin-1", b"\xe9"), ("cut", b"\xe3\x81")]
    {
        let mut document = plain.clone().into_bytes();
        let at = plain.find("</ETag>").unwrap();
        document.splice(at..at, bytes.iter().copied());
        ready.refused(name, &document, "MalformedXML").await;
    }
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    ready.refused("UTF-16", &wide(&plain), "MalformedXML").await;
    ready.refused("10,001 parts", many(10_001).as_bytes(), "InvalidArgument").await;
    ready.refused("part 0", plain.replace(">1<", ">0<").as_bytes(), "InvalidArgument").await;
    let twice =
        plain.replace("</Part>", "</Part><Part><PartNumber>1</PartNumber><ETag>e</ETag></Part>");
    ready.refused("a part twice", twice.as_bytes(), "InvalidPartOrder").await;

    let answer = ready.complete(plain.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(ready.backend.object("k").unwrap(), b"part");
    ready.gateway.settled().await;
}

/// "1 MiB body": by its announced length before a byte of it is read, and while it is read where
/// nothing is announced.
#[tokio::test]
async fn a_document_over_1_mib_is_refused() {
    let ready = ready().await;
    let large = ready.document(&" ".repeat(1 << 20));
    let mut client = Client::connect(&ready.gateway).await;
    let announced = ready.request(large.len(), PayloadHash::Unsigned);
    let answer = client.send(announced, b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "MaxMessageLengthExceeded"));
    ready.untouched("announced");

    let mut client = Client::connect(&ready.gateway).await;
    let request = Request { length: None, ..ready.request(0, PayloadHash::Unsigned) };
    let request = request.header("transfer-encoding", "chunked");
    let body = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let answer = client.send(request, body.as_bytes()).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "MaxMessageLengthExceeded"));
    ready.untouched("chunked");
}

/// "The one rule": a document is a body too, so what is signed of it is verified.
#[tokio::test]
async fn a_document_that_was_not_signed_is_refused() {
    let ready = ready().await;
    let good = ready.document("");
    let mut client = Client::connect(&ready.gateway).await;
    let request = ready.request(good.len(), PayloadHash::of(b"another document"));
    let answer = client.send(request, good.as_bytes()).await;
    let code = "XAmzContentSHA256Mismatch";
    assert_eq!((answer.status, answer.code().as_str()), (400, code), "{}", answer.text());
    ready.untouched("another document was signed");
}

/// "The key is escaped in every error body; no CR/LF in a reflected header".
#[tokio::test]
async fn what_a_client_sent_is_escaped_in_the_answer() {
    let ready = ready().await;
    let key = "<script>&'\"]]>\r\nX-Evil: 1\u{1}é";
    let mut client = Client::connect(&ready.gateway).await;
    let request = Request::method("DELETE", key).query("uploadId", "<&\r\n>");
    let answer = client.send(request, b"").await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "NoSuchUpload"));
    let text = answer.text();
    assert!(!text.contains("<script>") && !text.contains('\r'), "{text}");
    assert!(!answer.head.to_ascii_lowercase().contains("x-evil"), "{}", answer.head);
}
