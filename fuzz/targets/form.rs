//! Forms: what holds of each, however it is cut.

use bytes::Bytes;
use mizuchi_actors::form::{Fields, MAX_FIELD_BYTES, Parser, Policy, PutForm, Step};
use mizuchi_actors::http::RequestHead;
use mizuchi_actors::s3::headers::{self, Permissions};

/// The boundary of the corpus's forms.
const BOUNDARY: &str = "X";

/// A form, taken apart.
#[derive(Debug, Default, PartialEq)]
struct Form {
    fields: Vec<(String, String)>,
    filename: Option<String>,
    file: Vec<u8>,
}

fn parse(step: usize, data: &[u8]) -> Result<Form, String> {
    let mut parser = Parser::new(BOUNDARY.to_owned());
    let mut pieces = data.chunks(step);
    let (mut form, mut in_file, mut had_file) = (Form::default(), false, false);
    loop {
        match parser.step().map_err(|error| error.code.into_owned())? {
            Step::More => match pieces.next() {
                Some(piece) => parser.push(Bytes::copy_from_slice(piece)),
                None => parser.end(),
            },
            Step::Field { name, value } => {
                assert!(!had_file, "a field after the file counts");
                form.fields.push((name, value));
            }
            Step::File { filename } => {
                assert!(!had_file, "two files");
                (in_file, had_file) = (true, true);
                form.filename = filename;
            }
            Step::Bytes(bytes) => {
                assert!(in_file && !bytes.is_empty());
                form.file.extend_from_slice(&bytes);
            }
            Step::FileEnd => {
                assert!(in_file);
                in_file = false;
            }
            Step::End => {
                assert!(!in_file, "the form ends inside its file");
                return Ok(form);
            }
        }
    }
}

/// However a body is cut, its form is the same; what becomes of it is a PUT of its key.
pub(super) fn taken_apart(step: usize, data: &[u8]) {
    let whole = parse(data.len().max(1), data);
    // Where two things are wrong the cuts say which is met first.
    match (parse(step, data), &whole) {
        (Ok(form), Ok(same)) => assert_eq!(&form, same),
        (Err(_), Err(_)) => {}
        (cut, whole) => panic!("{cut:?} in pieces, {whole:?} in one"),
    }
    let Ok(form) = whole else { return };
    assert!(contains(data, format!("\r\n--{BOUNDARY}--").as_bytes()) || form.file.is_empty());
    assert!(
        form.file.is_empty() || contains(data, &form.file),
        "the file is one piece of the body"
    );
    let mut fields = Fields::default();
    for (name, value) in form.fields {
        if fields.add(&name, value).is_err() {
            return;
        }
    }
    if fields.put_filename(form.filename.as_deref()).is_err() {
        return;
    }
    assert!(fields.iter().map(|(_, value)| value.len()).sum::<usize>() <= MAX_FIELD_BYTES);
    let post = RequestHead::parse(Bytes::from_static(b"POST /b HTTP/1.1\r\nHost: h\r\n\r\n"));
    let post = post.expect("a good head");
    if let Ok(put) = PutForm::new(&fields, &post, "b", 16 * 1024) {
        let key = put.operation.key().expect("a PUT has a key");
        assert_eq!(Some(key.as_str()), fields.get("key"));
        assert_eq!((put.head.method(), put.head.query()), ("PUT", ""));
        for (name, value) in put.head.headers() {
            let own = name == "host" && value == b"h";
            let field = fields.get(if name == "x-amz-acl" { "acl" } else { name });
            let field =
                field.or_else(|| fields.get(name)).map(|value| value.trim_matches([' ', '\t']));
            assert!(own || field.map(str::as_bytes) == Some(value), "{name} is no field");
        }
        let all = Permissions { acl: true, tagging: true, lock: true, redirect: true };
        for (name, _) in headers::plan(&put.head, &put.operation, &all).into_iter().flatten() {
            assert!(name != "x-amz-copy-source" && name != "policy", "{name} passes");
        }
    }
    let now = super::noon();
    let Some(Ok(policy)) = fields.get("policy").map(Policy::parse) else { return };
    if policy.check(&fields, "b", now).is_ok() {
        assert!(fields.get("bucket").is_none_or(|bucket| bucket == "b"));
        assert!(policy.check(&fields, "other", now).is_err(), "a policy for every bucket");
        // One field more, and it is another form.
        if fields.add("a-field-that-nobody-has-named", String::new()).is_ok() {
            assert!(policy.check(&fields, "b", now).is_err(), "a field that it does not name");
        }
    }
}

fn contains(data: &[u8], part: &[u8]) -> bool {
    part.is_empty() || data.windows(part.len()).any(|window| window == part)
}
