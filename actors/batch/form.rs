//! Walks a form with many files (multipart/form-data, RFC 7578; RFC 2046, 5.1.1), part by part, as it
//! stands in the spool.
//!
//! A part's name is its field's, but of a field `file` that of its file: browsers send no folders in the
//! names of files. Strict, as the archive's walk is: the form begins with its boundary, and nothing
//! stands behind its end.

use super::tar::{Kind, Member, Positioned, WalkError};
use memchr::memmem;
use std::io::{self, Read};

/// Bytes of one part's headers: a key has 1,024, percent-encoded thrice as many, and stands there twice.
const MAX_HEADERS: usize = 8 * 1024;

/// Bytes of one read.
const READ: usize = 64 * 1024;

/// Bytes of the longest Content-Type: RFC 6838, 4.2, 127 for each half of its name, and the slash.
const MAX_TYPE: usize = 255;

/// The field whose key is the name of its file.
const FILE: &str = "file";

/// Shows every part with its body, whose length is known when it was read. It must be read to its end.
pub(super) fn walk(
    input: &mut dyn Positioned,
    boundary: &str,
    visit: &mut dyn FnMut(Member<'_>, &mut dyn Read) -> Result<(), WalkError>,
) -> Result<(), WalkError> {
    let mut form = Form {
        input,
        held: Vec::new(),
        at: 0,
        ended: false,
        delimiter: format!("\r\n--{boundary}").into_bytes(),
    };
    // The first delimiter stands without its line end.
    if form.take(boundary.len() + 2)? != form.delimiter.get(2..).unwrap_or_default() {
        return Err(WalkError::Damaged("it does not begin with its boundary"));
    }
    loop {
        match form.take(2)?.as_slice() {
            b"--" => return form.end(),
            b"\r\n" => {}
            _ => return Err(WalkError::Damaged("a boundary does not end its line")),
        }
        let headers = form.headers()?;
        let Described { name, kind, content_type } = described(&headers)?;
        let offset = form.position();
        let mut part = Part { form: &mut form, done: false };
        let name = name.as_bytes();
        visit(Member { name, kind, content_type, size: 0, offset }, &mut part)?;
        part.pass_over()?;
    }
}

struct Form<'i> {
    input: &'i mut dyn Positioned,
    /// Read and not taken, from `at` on.
    held: Vec<u8>,
    at: usize,
    ended: bool,
    delimiter: Vec<u8>,
}

impl Form<'_> {
    fn rest(&self) -> &[u8] {
        self.held.get(self.at..).unwrap_or_default()
    }

    /// Where the rest begins.
    fn position(&self) -> u64 {
        self.input.position().saturating_sub(self.rest().len() as u64)
    }

    /// Reads more, once. False: nothing is left.
    fn fill(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        self.held.drain(..self.at);
        self.at = 0;
        let have = self.held.len();
        self.held.resize(have + READ, 0);
        let read = loop {
            match self.input.read(self.held.get_mut(have..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.held.truncate(have + read.as_ref().map_or(0, |read| *read));
        self.ended = matches!(read, Ok(0));
        read.map(|read| read > 0)
    }

    /// Exactly so many bytes: few.
    fn take(&mut self, count: usize) -> Result<Vec<u8>, WalkError> {
        while self.rest().len() < count {
            if !self.fill()? {
                return Err(WalkError::Damaged("it is cut off"));
            }
        }
        let taken = self.rest().get(..count).unwrap_or_default().to_vec();
        self.at += count;
        Ok(taken)
    }

    /// A part's header lines, up to its empty line.
    fn headers(&mut self) -> Result<Vec<u8>, WalkError> {
        loop {
            let searched = self.rest().get(..MAX_HEADERS).unwrap_or(self.rest());
            if let Some(end) = memmem::find(searched, b"\r\n\r\n") {
                let taken = self.take(end + 4)?;
                return Ok(taken);
            }
            if self.rest().len() >= MAX_HEADERS {
                return Err(WalkError::Damaged("a part's headers are too long"));
            }
            if !self.fill()? {
                return Err(WalkError::Damaged("it is cut off"));
            }
        }
    }

    /// Behind the last boundary: a line end at the most.
    fn end(&mut self) -> Result<(), WalkError> {
        while self.rest().len() <= 2 && self.fill()? {}
        match self.rest() {
            b"" | b"\r\n" => Ok(()),
            _ => Err(WalkError::Damaged("something stands behind its end")),
        }
    }
}

/// The bytes of one part.
struct Part<'f, 'i> {
    form: &'f mut Form<'i>,
    done: bool,
}

impl Part<'_, '_> {
    fn pass_over(&mut self) -> Result<(), WalkError> {
        let mut space = [0; 4096];
        while self.read(&mut space)? > 0 {}
        Ok(())
    }
}

impl Read for Part<'_, '_> {
    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        if self.done || space.is_empty() {
            return Ok(0);
        }
        loop {
            let (rest, delimiter) = (self.form.rest(), self.form.delimiter.as_slice());
            let sure = match memmem::find(rest, delimiter) {
                Some(0) => {
                    self.form.at += delimiter.len();
                    self.done = true;
                    return Ok(0);
                }
                Some(end) => end,
                // Its last bytes may be the beginning of the delimiter.
                None => rest.len().saturating_sub(delimiter.len() - 1),
            };
            if sure > 0 {
                let count = sure.min(space.len());
                let (to, from) = (space.get_mut(..count), rest.get(..count));
                to.unwrap_or_default().copy_from_slice(from.unwrap_or_default());
                self.form.at += count;
                return Ok(count);
            }
            if !self.form.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// What a part's headers say.
struct Described<'h> {
    /// Its key's.
    name: String,
    /// Whether it is a file.
    kind: Kind,
    content_type: Option<&'h str>,
}

fn described(headers: &[u8]) -> Result<Described<'_>, WalkError> {
    const BAD: WalkError = WalkError::Damaged("a part has no Content-Disposition of a form");
    let text =
        std::str::from_utf8(headers).map_err(|_| WalkError::Damaged("a name is not UTF-8"))?;
    let (mut found, mut content_type) = (None, None);
    for line in text.split("\r\n").filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or(BAD)?;
        if name.eq_ignore_ascii_case("content-disposition") && found.replace(value).is_some() {
            return Err(BAD);
        }
        if name.eq_ignore_ascii_case("content-type") {
            let value = value.trim_matches([' ', '\t']);
            let plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
            if !plain || value.len() > MAX_TYPE || content_type.replace(value).is_some() {
                return Err(WalkError::Damaged("a part's Content-Type is none, or too long"));
            }
        }
        if name.eq_ignore_ascii_case("content-transfer-encoding") {
            let plain = ["binary", "8bit", "7bit"];
            if !plain.contains(&value.trim().to_ascii_lowercase().as_str()) {
                return Err(WalkError::Damaged("a part is encoded"));
            }
        }
    }
    let (kind, mut rest) = found.ok_or(BAD)?.trim().split_once(';').ok_or(BAD)?;
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Err(BAD);
    }
    let (mut name, mut filename) = (None, None);
    while let Some((parameter, value)) = rest.trim_start_matches([' ', ';', '\t']).split_once('=') {
        let (value, after) = quoted(value).ok_or(BAD)?;
        let slot = match parameter.trim().to_ascii_lowercase().as_str() {
            "name" => &mut name,
            "filename" => &mut filename,
            // RFC 7578, 4.2: "filename*" MUST NOT be used; which of two names counts is nobody's guess.
            _ => return Err(WalkError::Damaged("a part's Content-Disposition says too much")),
        };
        if slot.replace(value).is_some() {
            return Err(BAD);
        }
        rest = after;
    }
    if !rest.trim_matches([' ', ';', '\t']).is_empty() {
        return Err(BAD);
    }
    let name = name.ok_or(BAD)?;
    let (name, kind) = match filename {
        Some(filename) if name == FILE => (filename, Kind::File),
        Some(_) => (name, Kind::File),
        None => (name, Kind::Special),
    };
    Ok(Described { name, kind, content_type: content_type.filter(|value| !value.is_empty()) })
}

/// A quoted string's value, and what follows it. `%22`, `%0D` and `%0A` are what browsers write for a
/// quote and line ends (HTML Living Standard, "Multipart form data"); a backslash escapes a quote, as
/// other clients do it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut rest = text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        match c {
            '"' => {
                let value = value.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n");
                return Some((value, text.get(at + 1..)?));
            }
            '\\' if rest.peek().is_some_and(|(_, next)| *next == '"') => {
                value.push('"');
                rest.next();
            }
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::io::Cursor;

    struct Bytes(Cursor<Vec<u8>>, usize);

    impl Read for Bytes {
        fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
            let most = space.len().min(self.1);
            self.0.read(&mut space[..most])
        }
    }

    impl Positioned for Bytes {
        fn position(&self) -> u64 {
            self.0.position()
        }
    }

    type Found = Vec<(String, Kind, Vec<u8>)>;

    fn parts(form: &[u8], step: usize) -> Result<Found, &'static str> {
        let mut found = Vec::new();
        let walked =
            walk(&mut Bytes(Cursor::new(form.to_vec()), step), "X", &mut |member, body| {
                let mut bytes = Vec::new();
                body.read_to_end(&mut bytes)?;
                let begin = member.offset as usize;
                assert_eq!(&form[begin..begin + bytes.len()], bytes);
                let name = String::from_utf8_lossy(member.name).into_owned();
                found.push((name, member.kind, bytes));
                Ok(())
            });
        match walked {
            Ok(()) => Ok(found),
            Err(WalkError::Damaged(how)) => Err(how),
            Err(other) => panic!("{other:?}"),
        }
    }

    fn part(disposition: &str, body: &str) -> String {
        format!("--X\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{body}\r\n")
    }

    #[test]
    fn however_it_is_cut_its_parts_are_the_same() {
        let form = [
            part("name=\"a/b\"; filename=\"b\"", "one"),
            part("name=\"file\"; filename=\"c/%22d\\\"é\"", "\r\n--\r\n-X\r\n--Y\r\n"),
            part("name=\"empty\"; filename=\"\"", ""),
            part("name=\"field\"", "value"),
            "--X--\r\n".to_owned(),
        ]
        .concat();
        for step in [1, 2, 3, 7, 100, 100_000] {
            let found = parts(form.as_bytes(), step).unwrap();
            let names: Vec<_> =
                found.iter().map(|(name, kind, _)| (name.as_str(), *kind)).collect();
            assert_eq!(
                names,
                [
                    ("a/b", Kind::File),
                    ("c/\"d\"é", Kind::File),
                    ("empty", Kind::File),
                    ("field", Kind::Special)
                ]
            );
            assert_eq!(found[0].2, b"one");
            assert_eq!(found[2].2, b"");
        }
    }

    /// RFC 7578, 4.4: "Each part MAY have an (optional) Content-Type header field".
    #[test]
    fn a_part_may_say_what_it_is() {
        let of = |line: &str| {
            let headers = format!("Content-Disposition: form-data; name=\"a\"\r\n{line}\r\n\r\n");
            described(headers.as_bytes()).unwrap().content_type.map(str::to_owned)
        };
        assert_eq!(of("X: y"), None);
        assert_eq!(of("CONTENT-TYPE:"), None);
        let text = "text/plain; charset=utf-8";
        assert_eq!(of(&format!("content-type: \t{text} ")).as_deref(), Some(text));
        assert!(of(&format!("Content-Type: {}", "t".repeat(MAX_TYPE))).is_some());
    }

    #[test]
    fn what_is_no_form_is_refused() {
        let good = part("name=\"a\"; filename=\"a\"", "x");
        let disposition = |text: &str| part(text, "x") + "--X--";
        assert_eq!(parts(format!("{good}--X--").as_bytes(), 5).unwrap().len(), 1);
        for bad in [
            String::new(),
            good.clone(),
            format!("preamble\r\n{good}--X--"),
            format!("{good}--X--\r\nmore"),
            format!("{good}--X-"),
            format!("{good}--X \r\n"),
            "--X\r\n\r\nx\r\n--X--".to_owned(),
            "--X\r\nContent-Type: a/b\r\n\r\nx\r\n--X--".to_owned(),
            disposition("filename=\"a\""),
            disposition("name=\"a\"; filename=\"a"),
            disposition("name=a; filename=a"),
            disposition("name=\"a\"; name=\"b\""),
            disposition("name=\"a\"; filename=\"a\"; filename*=UTF-8''b"),
            disposition("name=\"a\" evil"),
            disposition("name=\"a\"\r\nContent-Transfer-Encoding: base64"),
            disposition("name=\"a\"\r\nContent-Type: a/b\r\nContent-Type: a/b"),
            disposition("name=\"a\"\r\nContent-Type: a/\u{e9}"),
            disposition("name=\"a\"\r\nContent-Type: a\nX-Amz-Acl: public-read"),
            disposition(&format!("name=\"a\"\r\nContent-Type: {}", "t".repeat(MAX_TYPE + 1))),
            disposition("name=\"a\"\r\nContent-Disposition: form-data; name=\"b\""),
            disposition(&format!("name=\"{}\"", "n".repeat(MAX_HEADERS))),
        ] {
            assert!(parts(bad.as_bytes(), 7).is_err(), "{bad:.200}");
        }
    }
}
