//! A form's fields but for its file: names without case, each once, bounded.

use crate::s3::error::{ErrorCode, S3Error};

/// Most bytes of all fields together, names and values: S3's own bound ("the form data and
/// boundaries, excluding the contents of the file, cannot exceed 20K"), in which it counts the
/// boundaries too.
pub const MAX_FIELD_BYTES: usize = 20 * 1024;

/// Most fields: S3 names about thirty, and metadata is bounded by its bytes.
pub const MAX_FIELDS: usize = 128;

/// Stands for the file's name, in the value of any field.
const FILENAME: &str = "${filename}";

/// Fields with such names mean nothing, by S3's rule.
const IGNORED: &str = "x-ignore-";

/// The fields that came before the file.
#[derive(Default, Clone)]
pub struct Fields {
    /// Names in lower case.
    list: Vec<(String, String)>,
    bytes: usize,
}

impl std::fmt::Debug for Fields {
    /// Names only: values are keys, signatures and tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.list.iter().map(|(name, _)| name)).finish()
    }
}

impl Fields {
    /// Adds a field.
    ///
    /// Errors: 400 InvalidArgument (one twice, whose readers would read two),
    /// MaxPostPreDataLengthExceededError.
    pub fn add(&mut self, name: &str, value: String) -> Result<(), S3Error> {
        let name = name.to_ascii_lowercase();
        self.bytes = self.bytes.saturating_add(name.len()).saturating_add(value.len());
        if self.bytes > MAX_FIELD_BYTES || self.list.len() >= MAX_FIELDS {
            return Err(too_large());
        }
        if name.starts_with(IGNORED) {
            return Ok(());
        }
        if self.get(&name).is_some() {
            let message = format!("The form field '{}' is given twice.", shown(&name));
            return Err(S3Error::new(ErrorCode::InvalidArgument, message));
        }
        self.list.push((name, value));
        Ok(())
    }

    /// The value of the field `name`, which is in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// All of them, names in lower case, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Puts the file's name where `${filename}` stands: of a path, what follows the last slash or
    /// backslash; nothing where the client gave none. The policy's text is signed, and stays.
    ///
    /// Errors: 400 MaxPostPreDataLengthExceededError.
    pub fn put_filename(&mut self, filename: Option<&str>) -> Result<(), S3Error> {
        let filename = filename.unwrap_or_default();
        let filename = filename.rsplit(['/', '\\']).next().unwrap_or_default();
        for (name, value) in &mut self.list {
            let places = value.matches(FILENAME).count();
            if places == 0 || name == "policy" {
                continue;
            }
            let grown = places.saturating_mul(filename.len());
            self.bytes = self.bytes.saturating_sub(places * FILENAME.len()).saturating_add(grown);
            // Before anything is made as long as that.
            if self.bytes > MAX_FIELD_BYTES {
                return Err(too_large());
            }
            *value = value.replace(FILENAME, filename);
        }
        Ok(())
    }
}

/// 400: more than S3 takes before the file.
pub(super) fn too_large() -> S3Error {
    let message = "Your POST request fields preceding the upload file were too large.";
    S3Error::new(ErrorCode::MaxPostPreDataLengthExceededError, message)
}

/// A client's own word in an error message, cut.
pub(super) fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn of(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in list {
            fields.add(name, (*value).to_owned()).unwrap();
        }
        fields
    }

    #[test]
    fn names_have_no_case_and_each_field_is_one() {
        let mut fields = of(&[("kEy", "k"), ("x-ignore-a", "1"), ("X-Ignore-A", "2")]);
        assert_eq!(fields.get("key"), Some("k"));
        assert_eq!(fields.iter().count(), 1);
        assert_eq!(fields.add("KEY", "other".into()).unwrap_err().code, "InvalidArgument");
    }

    #[test]
    fn fields_are_bounded() {
        let mut fields = Fields::default();
        assert!(fields.add("a", "v".repeat(MAX_FIELD_BYTES - 1)).is_ok());
        let code = "MaxPostPreDataLengthExceededError";
        assert_eq!(fields.add("b", String::new()).unwrap_err().code, code);
        let mut fields = Fields::default();
        for number in 0..MAX_FIELDS {
            fields.add(&number.to_string(), String::new()).unwrap();
        }
        assert_eq!(fields.add("more", String::new()).unwrap_err().code, code);
    }

    /// "If the browser or client provides a full or partial path to the file, only the text following
    /// the last slash (/) or backslash (\) will be used."
    #[test]
    fn the_file_s_name_is_put_in() {
        for (filename, key) in [
            (Some("a b.txt"), "user/a b.txt/a b.txt"),
            (Some("C:\\docs\\x.txt"), "user/x.txt/x.txt"),
            (Some("../../etc/x"), "user/x/x"),
            (Some(".."), "user/../.."),
            (None, "user//"),
        ] {
            let mut fields = of(&[
                ("key", "user/${filename}/${filename}"),
                ("x-amz-meta-n", "${filename}"),
                ("policy", "${filename}"),
            ]);
            fields.put_filename(filename).unwrap();
            assert_eq!(fields.get("key"), Some(key));
            assert_eq!(fields.get("policy"), Some("${filename}"));
        }
        let mut bomb = of(&[("key", &FILENAME.repeat(1000))]);
        let error = bomb.put_filename(Some(&"n".repeat(1024))).unwrap_err();
        assert_eq!(error.code, "MaxPostPreDataLengthExceededError");
    }
}
