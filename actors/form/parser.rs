//! The form's body, taken apart: multipart/form-data (RFC 7578), sans I/O.
//!
//! multer takes a stream and reads of it all that is there. Here its stream is a queue into which
//! one piece at a time is put, after it has said that it needs more: so nothing piles up, whatever
//! the client sends, and the same bytes cut anywhere have the same outcome.

use super::fields::{MAX_FIELD_BYTES, MAX_FIELDS, too_large};
use crate::s3::error::{ErrorCode, S3Error};
use bytes::Bytes;
use futures_core::Stream;
use multer::{Field, Multipart};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Most bytes, with boundaries and the headers of parts, before the file, and again after it: the
/// fields' own bound, and as much as twice that around them.
pub const MAX_AROUND: usize = 64 * 1024;

/// RFC 2046, 5.1.1: a boundary has no more characters.
const MAX_BOUNDARY: usize = 70;

/// The boundary that a Content-Type names.
///
/// Errors: 400 MalformedPOSTRequest.
pub fn boundary(content_type: &str) -> Result<String, S3Error> {
    let found = multer::parse_boundary(content_type).map_err(|_| malformed())?;
    let visible = found.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    match (1..=MAX_BOUNDARY).contains(&found.len()) && visible {
        true => Ok(found),
        false => Err(malformed()),
    }
}

/// What comes next in the form.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, before more bytes are pushed.
    More,
    /// A field before the file.
    Field {
        /// As it came.
        name: String,
        /// Its whole value.
        value: String,
    },
    /// The file begins: no field after it counts.
    File {
        /// The name that the client gives it, as it came.
        filename: Option<String>,
    },
    /// The next bytes of the file; never empty.
    Bytes(Bytes),
    /// The file is complete: a boundary follows it.
    FileEnd,
    /// The closing boundary: whatever follows is no part of the form.
    End,
}

#[derive(Default)]
struct Input {
    pieces: VecDeque<Bytes>,
    ended: bool,
}

/// The reading end of the queue.
struct Pieces(Arc<Mutex<Input>>);

impl Stream for Pieces {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut input = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match input.pieces.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(piece))),
            None if input.ended => Poll::Ready(None),
            // The parser polls again when something was pushed.
            None => Poll::Pending,
        }
    }
}

enum State {
    Between,
    Value { field: Field<'static>, name: String, value: Vec<u8> },
    File(Field<'static>),
    Skipped(Field<'static>),
    End,
}

/// Takes a form apart.
pub struct Parser {
    multipart: Multipart<'static>,
    input: Arc<Mutex<Input>>,
    state: State,
    /// The file has begun.
    file: bool,
    fields: usize,
    /// Bytes of the fields that were found.
    held: usize,
    /// Bytes that were pushed before the file, or since its end.
    around: usize,
}

impl std::fmt::Debug for Parser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parser(…)")
    }
}

impl Parser {
    /// A parser of a body with this boundary.
    pub fn new(boundary: String) -> Self {
        let input = Arc::<Mutex<Input>>::default();
        let multipart = Multipart::new(Pieces(Arc::clone(&input)), boundary);
        Parser {
            multipart,
            input,
            state: State::Between,
            file: false,
            fields: 0,
            held: 0,
            around: 0,
        }
    }

    /// The next bytes of the body, when [`Step::More`] has asked for them.
    pub fn push(&mut self, bytes: Bytes) {
        if !matches!(self.state, State::File(_)) {
            self.around = self.around.saturating_add(bytes.len());
        }
        self.input().pieces.push_back(bytes);
    }

    /// The body has ended.
    pub fn end(&mut self) {
        self.input().ended = true;
    }

    fn input(&self) -> std::sync::MutexGuard<'_, Input> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What comes next. After an error nothing does.
    ///
    /// Errors: 400 MalformedPOSTRequest, MaxPostPreDataLengthExceededError, InvalidArgument (a second
    /// file, a value that is not UTF-8).
    pub fn step(&mut self) -> Result<Step, S3Error> {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            match std::mem::replace(&mut self.state, State::End) {
                State::End => return Ok(Step::End),
                State::Between => match self.multipart.poll_next_field(&mut context) {
                    Poll::Pending => return self.more(State::Between),
                    Poll::Ready(Err(_)) => return Err(malformed()),
                    Poll::Ready(Ok(None)) => return Ok(Step::End),
                    Poll::Ready(Ok(Some(field))) => {
                        if let Some(step) = self.begin(field)? {
                            return Ok(step);
                        }
                    }
                },
                State::Value { mut field, name, mut value } => {
                    match Pin::new(&mut field).poll_next(&mut context) {
                        Poll::Pending => return self.more(State::Value { field, name, value }),
                        Poll::Ready(Some(Err(_))) => return Err(malformed()),
                        Poll::Ready(Some(Ok(bytes))) => {
                            self.held = self.held.saturating_add(bytes.len());
                            if self.held > MAX_FIELD_BYTES {
                                return Err(too_large());
                            }
                            value.extend_from_slice(&bytes);
                            self.state = State::Value { field, name, value };
                        }
                        Poll::Ready(None) => {
                            self.state = State::Between;
                            let value = String::from_utf8(value).map_err(|_| {
                                let message = "A form field is not UTF-8.";
                                S3Error::new(ErrorCode::InvalidArgument, message)
                            })?;
                            return Ok(Step::Field { name, value });
                        }
                    }
                }
                State::File(mut field) => match Pin::new(&mut field).poll_next(&mut context) {
                    Poll::Pending => return self.more(State::File(field)),
                    Poll::Ready(Some(Err(_))) => return Err(malformed()),
                    Poll::Ready(Some(Ok(bytes))) => {
                        self.state = State::File(field);
                        if !bytes.is_empty() {
                            return Ok(Step::Bytes(bytes));
                        }
                    }
                    Poll::Ready(None) => {
                        self.state = State::Between;
                        self.around = 0;
                        return Ok(Step::FileEnd);
                    }
                },
                State::Skipped(mut field) => match Pin::new(&mut field).poll_next(&mut context) {
                    Poll::Pending => return self.more(State::Skipped(field)),
                    Poll::Ready(Some(Err(_))) => return Err(malformed()),
                    Poll::Ready(Some(Ok(_))) => self.state = State::Skipped(field),
                    Poll::Ready(None) => self.state = State::Between,
                },
            }
        }
    }

    /// A part has begun: its name says what it is.
    fn begin(&mut self, field: Field<'static>) -> Result<Option<Step>, S3Error> {
        let name = field.name().ok_or_else(malformed)?.to_owned();
        let is_file = name.eq_ignore_ascii_case("file");
        match (is_file, self.file) {
            (true, true) => Err(not_one_file()),
            (true, false) => {
                let filename = field.file_name().map(str::to_owned);
                self.file = true;
                self.state = State::File(field);
                Ok(Some(Step::File { filename }))
            }
            // "Fields after the file are ignored."
            (false, true) => {
                self.state = State::Skipped(field);
                Ok(None)
            }
            (false, false) => {
                self.fields += 1;
                self.held = self.held.saturating_add(name.len());
                if self.fields > MAX_FIELDS || self.held > MAX_FIELD_BYTES {
                    return Err(too_large());
                }
                self.state = State::Value { field, name, value: Vec::new() };
                Ok(None)
            }
        }
    }

    /// More bytes are needed, if there may be more.
    fn more(&mut self, state: State) -> Result<Step, S3Error> {
        if self.input().ended {
            return Err(malformed());
        }
        if !matches!(state, State::File(_)) && self.around > MAX_AROUND {
            return Err(if self.file { malformed() } else { too_large() });
        }
        self.state = state;
        Ok(Step::More)
    }
}

pub(super) fn malformed() -> S3Error {
    let message = "The body of your POST request is not well-formed multipart/form-data.";
    S3Error::new(ErrorCode::MalformedPOSTRequest, message)
}

/// 400: no file, or two.
pub(super) fn not_one_file() -> S3Error {
    let message = "POST requires exactly one file upload per request.";
    S3Error::new(ErrorCode::InvalidArgument, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The steps of a body that is cut into pieces of `step` bytes, the file's bytes in one.
    fn steps(body: &[u8], step: usize) -> Result<Vec<Step>, S3Error> {
        let mut parser = Parser::new("X".to_owned());
        let (mut steps, mut file) = (Vec::new(), Vec::new());
        let mut pieces = body.chunks(step.max(1));
        loop {
            match parser.step()? {
                Step::More => match pieces.next() {
                    Some(piece) => parser.push(Bytes::copy_from_slice(piece)),
                    None => parser.end(),
                },
                Step::Bytes(bytes) => file.extend_from_slice(&bytes),
                Step::FileEnd => {
                    steps.push(Step::Bytes(std::mem::take(&mut file).into()));
                    steps.push(Step::FileEnd);
                }
                Step::End => {
                    steps.push(Step::End);
                    return Ok(steps);
                }
                other => steps.push(other),
            }
        }
    }

    fn part(name: &str, value: &str) -> String {
        format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    }

    fn file(name: &str, bytes: &str) -> String {
        format!(
            "--X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: text/plain\r\n\r\n{bytes}\r\n"
        )
    }

    fn code(body: &str) -> String {
        steps(body.as_bytes(), 7).unwrap_err().code.into_owned()
    }

    #[test]
    fn a_form_is_its_fields_then_its_file() {
        let content = "a\r\n--Y\r\n\r\n--\r\r\n-";
        let late = part("late", "ignored");
        let body =
            part("key", "k") + &part("e", "") + &file("f.txt", content) + &late + "--X--\r\n";
        let field =
            |name: &str, value: &str| Step::Field { name: name.into(), value: value.into() };
        let expected = vec![
            field("key", "k"),
            field("e", ""),
            Step::File { filename: Some("f.txt".into()) },
            Step::Bytes(Bytes::copy_from_slice(content.as_bytes())),
            Step::FileEnd,
            Step::End,
        ];
        for step in 1..body.len() + 1 {
            assert_eq!(steps(body.as_bytes(), step).unwrap(), expected, "{step}");
        }
    }

    #[test]
    fn whatever_is_cut_off_is_an_error() {
        let body = part("key", "k") + &file("f", "content") + "--X--";
        assert!(steps(body.as_bytes(), 5).is_ok());
        for end in 0..body.len() {
            let error = steps(&body.as_bytes()[..end], 5).unwrap_err();
            assert_eq!(error.code, "MalformedPOSTRequest", "{end}");
        }
    }

    #[test]
    fn what_is_no_form_is_refused() {
        assert_eq!(code(&(file("a", "1") + &file("b", "2") + "--X--")), "InvalidArgument");
        assert_eq!(
            code("--X\r\nContent-Disposition: form-data\r\n\r\nv\r\n--X--"),
            "MalformedPOSTRequest"
        );
        assert_eq!(code("--X\r\nbad header\r\n\r\nv\r\n--X--"), "MalformedPOSTRequest");
        assert_eq!(code("--Xy"), "MalformedPOSTRequest");
        let latin = b"--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\xff\r\n--X--";
        assert_eq!(steps(latin, 9).unwrap_err().code, "InvalidArgument");
    }

    #[test]
    fn what_is_around_the_file_is_bounded() {
        let large = "MaxPostPreDataLengthExceededError";
        assert_eq!(code(&part("a", &"v".repeat(MAX_FIELD_BYTES + 1))), large);
        assert_eq!(code(&"v".repeat(MAX_AROUND + 100)), large);
        let padded = format!("--X\r\nA: {}\r\n", "v".repeat(MAX_AROUND));
        assert_eq!(code(&padded), large);
        assert_eq!(code(&part("a", "").repeat(MAX_FIELDS + 1)), large);
        let after = file("f", "x") + &part("a", &"v".repeat(MAX_AROUND + 100)) + "--X--";
        assert_eq!(code(&after), "MalformedPOSTRequest");
    }

    #[test]
    fn boundaries_are_read_and_bounded() {
        assert_eq!(boundary("Multipart/Form-Data; boundary=\"a b\"").unwrap(), "a b");
        let long = "b".repeat(71);
        for bad in [
            "multipart/form-data".to_owned(),
            "multipart/form-data; boundary=".to_owned(),
            "multipart/mixed; boundary=a".to_owned(),
            format!("multipart/form-data; boundary={long}"),
        ] {
            assert_eq!(boundary(&bad).unwrap_err().code, "MalformedPOSTRequest", "{bad}");
        }
    }

    proptest! {
        /// However a body is cut, the outcome is the same.
        #[test]
        fn cuts_change_nothing(
            body in "(--X|\r\n|\r|-|Content-Disposition: form-data; name=\"(file|key)\"|\r\n\r\n|[a-z]){0,40}",
            step in 1usize..20,
        ) {
            let plain = |result: Result<Vec<Step>, S3Error>| result.map_err(|error| error.code);
            prop_assert_eq!(plain(steps(body.as_bytes(), step)), plain(steps(body.as_bytes(), 4096)));
        }
    }
}
