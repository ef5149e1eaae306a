//! An S3 that throws the bytes away and keeps the books: which uploads were begun, which parts they
//! have, what became of them. For what a real server cannot show: that nothing is left behind after
//! ten thousand faults, and where a hundred gigabytes went. Signatures are not looked at.

use md5::Digest as _;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of one request, by its operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Twist {
    /// Reset before anything is read of the body.
    ResetBefore,
    /// Reset in the middle of the body, or of the head where there is none.
    ResetInside,
    /// Carry it out, then reset instead of answering.
    LoseAnswer,
    /// Answer this status and code; nothing is carried out.
    Answer(u16, &'static str),
    /// Carry it out, and answer this status and code.
    DoneBut(u16, &'static str),
    /// Read everything, never answer; nothing is carried out.
    Blackhole,
    /// Carry it out, and answer in small pieces.
    Trickle,
    /// Carry it out, and cut the answer off in its head.
    Truncate,
    /// Carry it out, and answer 200 with something that is no XML.
    Garbage,
    /// Answer 200 with an `<Error>` inside; nothing is carried out.
    ErrorInside(&'static str),
    /// Read nothing, answer nothing.
    Hang,
    /// Close the sending side without an answer, read on.
    HalfClose,
}

#[derive(Debug, Clone, Default)]
pub struct Object {
    pub length: u64,
    pub etag: String,
    pub headers: HashMap<String, String>,
    pub parts: usize,
    /// The Content-MD5 of each part that came with one.
    pub part_md5s: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Upload {
    pub key: String,
    pub headers: HashMap<String, String>,
    pub parts: BTreeMap<u32, Part>,
    initiated: time::OffsetDateTime,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    pub length: u64,
    pub md5: String,
    pub headers: HashMap<String, String>,
}

#[derive(Debug, Default)]
pub struct Books {
    pub objects: HashMap<String, Object>,
    pub uploads: BTreeMap<String, Upload>,
    pub created: usize,
    pub completed: usize,
    pub aborted: usize,
    /// PutObjects that were carried out.
    pub puts: usize,
    /// UploadParts that were carried out.
    pub part_requests: usize,
    /// Of the upload that was completed last.
    pub part_lengths: Vec<u64>,
    /// The last Complete's headers.
    pub complete_headers: HashMap<String, String>,
    /// Its document.
    pub complete_document: String,
    /// ETags are written in capitals.
    pub capitals: bool,
    twists: Vec<(&'static str, Twist)>,
    next: u64,
}

impl Books {
    /// Scripted twists that no request has met yet.
    pub fn twists_left(&self) -> usize {
        self.twists.len()
    }
}

/// A running one. Clones share the books.
#[derive(Clone)]
pub struct LedgerS3 {
    pub address: SocketAddr,
    books: Arc<Mutex<Books>>,
    /// False: bodies are only counted (their MD5 is that of nothing).
    hash: bool,
}

struct Request {
    method: String,
    key: String,
    query: HashMap<String, String>,
    headers: HashMap<String, String>,
    length: u64,
    buffered: Vec<u8>,
}

impl Request {
    fn operation(&self) -> &'static str {
        match (self.method.as_str(), self.query.contains_key("uploads")) {
            ("POST", true) => "Create",
            ("GET", true) => "List",
            ("POST", false) => "Complete",
            ("DELETE", _) => "Abort",
            ("GET", false) => "ListParts",
            ("HEAD", _) => "Head",
            _ if self.query.contains_key("partNumber") => "Part",
            _ => "Put",
        }
    }
}

impl LedgerS3 {
    pub async fn start(hash: bool) -> LedgerS3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let s3 = LedgerS3 { address, books: Arc::default(), hash };
        let server = s3.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let server = server.clone();
                tokio::spawn(async move {
                    let _ = server.serve(socket).await;
                });
            }
        });
        s3
    }

    pub fn books<T>(&self, look: impl FnOnce(&mut Books) -> T) -> T {
        look(&mut self.books.lock().unwrap())
    }

    /// The next requests of these operations meet these twists, in order.
    pub fn script(&self, twists: impl IntoIterator<Item = (&'static str, Twist)>) {
        self.books(|books| books.twists = twists.into_iter().collect());
    }

    pub fn script_done(&self) -> bool {
        self.books(|books| books.twists.is_empty())
    }

    async fn serve(&self, mut socket: TcpStream) -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        let mut buffer = Vec::new();
        while let Some(request) = read_head(&mut socket, &mut buffer).await? {
            let operation = request.operation();
            let twist = self.books(|books| {
                let at = books.twists.iter().position(|(of, _)| *of == operation)?;
                Some(books.twists.remove(at).1)
            });
            match twist {
                Some(Twist::ResetBefore) => return socket.set_zero_linger(),
                Some(Twist::Hang) => std::future::pending::<()>().await,
                _ => {}
            }
            let half = (twist == Some(Twist::ResetInside)).then_some(request.length / 2);
            let (md5, body) = self.body(&mut socket, &request, half).await?;
            buffer.clear();
            match &twist {
                Some(Twist::ResetInside) => return socket.set_zero_linger(),
                Some(Twist::Blackhole) => {
                    let mut rest = [0; 1024];
                    while socket.read(&mut rest).await? > 0 {}
                    return Ok(());
                }
                Some(Twist::HalfClose) => {
                    socket.shutdown().await?;
                    let mut rest = [0; 1024];
                    while socket.read(&mut rest).await? > 0 {}
                    return Ok(());
                }
                Some(Twist::Answer(status, code)) => {
                    let answer = respond(*status, &[], &error(code));
                    socket.write_all(&answer).await?;
                    continue;
                }
                Some(Twist::ErrorInside(code)) => {
                    socket.write_all(&respond(200, &[], &error(code))).await?;
                    continue;
                }
                _ => {}
            }
            let answer = self.carry_out(&request, &md5, &body);
            match &twist {
                Some(Twist::LoseAnswer) => return socket.set_zero_linger(),
                Some(Twist::DoneBut(status, code)) => {
                    socket.write_all(&respond(*status, &[], &error(code))).await?;
                }
                Some(Twist::Truncate) => {
                    socket.write_all(&answer[..20]).await?;
                    return Ok(());
                }
                Some(Twist::Garbage) => {
                    let etag = format!("\"{md5}\"");
                    let garbage = respond(200, &[("ETag", &etag)], "<<<\u{1}not xml");
                    socket.write_all(&garbage).await?;
                }
                Some(Twist::Trickle) => {
                    for piece in answer.chunks(16) {
                        socket.write_all(piece).await?;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                _ => socket.write_all(&answer).await?,
            }
        }
        Ok(())
    }

    /// Reads the body, or half of it; its MD5 and, of a document, its text.
    async fn body(
        &self,
        socket: &mut TcpStream,
        request: &Request,
        half: Option<u64>,
    ) -> std::io::Result<(String, String)> {
        let most = half.unwrap_or(request.length);
        let document = request.method == "POST";
        let mut md5 = md5::Md5::new();
        let mut text = Vec::new();
        let mut left = most;
        let mut take = |bytes: &[u8]| {
            if self.hash {
                md5.update(bytes);
            }
            if document {
                text.extend_from_slice(bytes);
            }
        };
        let first = &request.buffered[..(left as usize).min(request.buffered.len())];
        take(first);
        left -= first.len() as u64;
        let mut block = vec![0; 1 << 18];
        while left > 0 {
            let most = (left as usize).min(block.len());
            let count = socket.read(&mut block[..most]).await?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            take(&block[..count]);
            left -= count as u64;
        }
        let md5 = md5.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((md5, String::from_utf8_lossy(&text).into_owned()))
    }

    fn carry_out(&self, request: &Request, md5: &str, body: &str) -> Vec<u8> {
        let mut books = self.books.lock().unwrap();
        let books = &mut *books;
        let key = request.key.clone();
        let id = request.query.get("uploadId").cloned().unwrap_or_default();
        let (headers, length) = (request.headers.clone(), request.length);
        let must_be_new = headers.get("if-none-match").is_some_and(|value| value == "*");
        if must_be_new && books.objects.contains_key(&key) {
            return respond(412, &[], &error("PreconditionFailed"));
        }
        let md5 = if books.capitals { &md5.to_uppercase() } else { md5 };
        match request.operation() {
            "Put" => {
                books.puts += 1;
                let etag = format!("\"{md5}\"");
                let object = Object { length, etag: etag.clone(), headers, ..Object::default() };
                books.objects.insert(key, object);
                respond(200, &[("ETag", &etag)], "")
            }
            "Create" => {
                books.next += 1;
                books.created += 1;
                let id = format!("upload-{}", books.next);
                let initiated = time::OffsetDateTime::now_utc();
                let upload =
                    Upload { key: key.clone(), headers, parts: BTreeMap::new(), initiated };
                books.uploads.insert(id.clone(), upload);
                respond(
                    200,
                    &[],
                    &format!(
                        "<InitiateMultipartUploadResult><Bucket>store</Bucket><Key>{key}</Key>\
                         <UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                    ),
                )
            }
            "Part" => {
                let Some(upload) = books.uploads.get_mut(&id) else { return no_such_upload() };
                let number = request.query["partNumber"].parse().unwrap();
                books.part_requests += 1;
                upload.parts.insert(number, Part { length, md5: md5.to_owned(), headers });
                respond(200, &[("ETag", &format!("\"{md5}\""))], "")
            }
            "Complete" => {
                let Some(upload) = books.uploads.remove(&id) else { return no_such_upload() };
                books.completed += 1;
                books.complete_headers = headers;
                books.complete_document = body.to_owned();
                books.part_lengths = upload.parts.values().map(|part| part.length).collect();
                let mut all = md5::Md5::new();
                for part in upload.parts.values() {
                    assert!(body.contains(&part.md5), "Complete names every part");
                    for pair in part.md5.as_bytes().chunks(2) {
                        let pair = std::str::from_utf8(pair).unwrap();
                        all.update([u8::from_str_radix(pair, 16).unwrap()]);
                    }
                }
                assert_eq!(body.matches("<Part>").count(), upload.parts.len());
                let digest: String =
                    all.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                let digest = if books.capitals { digest.to_uppercase() } else { digest };
                let etag = format!("\"{digest}-{}\"", upload.parts.len());
                let object = Object {
                    length: upload.parts.values().map(|part| part.length).sum(),
                    etag: etag.clone(),
                    headers: upload.headers,
                    parts: upload.parts.len(),
                    part_md5s: upload
                        .parts
                        .values()
                        .filter_map(|part| part.headers.get("content-md5").cloned())
                        .collect(),
                };
                books.objects.insert(key.clone(), object);
                respond(
                    200,
                    &[],
                    &format!(
                        "<CompleteMultipartUploadResult><Bucket>store</Bucket><Key>{key}</Key>\
                         <ETag>{etag}</ETag></CompleteMultipartUploadResult>"
                    ),
                )
            }
            "Abort" => {
                if books.uploads.remove(&id).is_none() {
                    return no_such_upload();
                }
                books.aborted += 1;
                respond(204, &[], "")
            }
            "Head" => match books.objects.get(&key) {
                Some(object) => respond_head(object),
                None => respond(404, &[], ""),
            },
            "ListParts" => {
                let Some(upload) = books.uploads.get(&id) else { return no_such_upload() };
                let parts: String = upload
                    .parts
                    .iter()
                    .map(|(number, part)| {
                        format!(
                            "<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag>\
                             <Size>{}</Size></Part>",
                            part.md5, part.length
                        )
                    })
                    .collect();
                respond(200, &[], &format!("<ListPartsResult>{parts}</ListPartsResult>"))
            }
            _ => {
                let prefix = request.query.get("prefix").cloned().unwrap_or_default();
                let rfc3339 = &time::format_description::well_known::Rfc3339;
                let uploads: String = books
                    .uploads
                    .iter()
                    .filter(|(_, upload)| upload.key.starts_with(&prefix))
                    .map(|(id, upload)| {
                        let initiated = upload.initiated.format(rfc3339).unwrap();
                        format!(
                            "<Upload><Key>{}</Key><UploadId>{id}</UploadId>\
                             <Initiated>{initiated}</Initiated></Upload>",
                            upload.key
                        )
                    })
                    .collect();
                let body = format!(
                    "<ListMultipartUploadsResult><IsTruncated>false</IsTruncated>{uploads}\
                     </ListMultipartUploadsResult>"
                );
                respond(200, &[], &body)
            }
        }
    }
}

async fn read_head(
    socket: &mut TcpStream,
    buffer: &mut Vec<u8>,
) -> std::io::Result<Option<Request>> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let mut block = [0; 16384];
        match socket.read(&mut block).await? {
            0 => return Ok(None),
            count => buffer.extend_from_slice(&block[..count]),
        }
    };
    let text = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let buffered = buffer.split_off(end);
    let mut lines = text.lines();
    let mut first = lines.next().unwrap().split(' ');
    let (method, target) = (first.next().unwrap().to_owned(), first.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let decode =
        |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Some(Request {
        method,
        key: decode(path.trim_start_matches("/store").trim_start_matches('/')),
        query: query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decode(name), decode(value)))
            .collect(),
        length: headers.get("content-length").map_or(0, |text| text.parse().unwrap()),
        headers,
        buffered,
    }))
}

fn respond(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let date = time::OffsetDateTime::now_utc();
    let date = date.format(&time::format_description::well_known::Rfc2822).unwrap();
    let mut answer = format!("HTTP/1.1 {status} X\r\nDate: {}\r\n", date.replace("+0000", "GMT"));
    for (name, value) in headers {
        answer.push_str(&format!("{name}: {value}\r\n"));
    }
    if status != 204 && !headers.iter().any(|(name, _)| *name == "Content-Length") {
        answer.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    answer.push_str("\r\n");
    answer.push_str(body);
    answer.into_bytes()
}

fn respond_head(object: &Object) -> Vec<u8> {
    let mut headers = vec![("ETag".to_owned(), object.etag.clone())];
    headers.push(("Content-Length".to_owned(), object.length.to_string()));
    for (name, value) in &object.headers {
        let shown = ["x-amz-checksum-", "x-amz-meta-", "content-type", "cache-control"];
        if shown.iter().any(|shown| name.starts_with(shown)) {
            headers.push((name.clone(), value.clone()));
        }
    }
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    respond(200, &headers, "")
}

fn error(code: &str) -> String {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>")
}

fn no_such_upload() -> Vec<u8> {
    respond(404, &[], &error("NoSuchUpload"))
}
