//! A secret, and all the forms in which a text could give it away.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use mizuchi_actors::sigv4::uri_encode;

/// So much of a canary is enough to know it by: one that is printed in part is found too.
const ENOUGH: usize = 12;

pub struct Needle {
    secret: String,
    forms: Vec<(&'static str, Vec<u8>)>,
}

impl Needle {
    /// Found by its beginning.
    pub fn canary(canary: &str) -> Needle {
        Needle::whole(&canary[..canary.len().min(ENOUGH)])
    }

    /// Found as a whole.
    pub fn whole(secret: &str) -> Needle {
        let bytes = secret.as_bytes();
        let mut forms = vec![
            ("as it is", bytes.to_vec()),
            ("percent-encoded", uri_encode(bytes, false).into_bytes()),
        ];
        for (name, codec) in [("base64", STANDARD_NO_PAD), ("base64url", URL_SAFE_NO_PAD)] {
            // It may begin at any of three places of a group; what its neighbours have a share in is
            // left out.
            for before in 0..3 {
                let text = codec.encode([&vec![0; before], bytes].concat());
                let whole = (before + bytes.len()) / 3 * 4;
                let skipped = before.div_ceil(3) * 4;
                forms.push((name, text.as_bytes()[skipped..whole].to_vec()));
            }
        }
        let list = |form: fn(&u8) -> String, between: &str| {
            bytes.iter().map(form).collect::<Vec<_>>().join(between).into_bytes()
        };
        forms.push(("hex", list(|byte| format!("{byte:02x}"), "")));
        forms.push(("HEX", list(|byte| format!("{byte:02X}"), "")));
        forms.push(("a list of bytes", list(u8::to_string, ", ")));
        Needle { secret: secret.to_owned(), forms }
    }

    /// How it stands in this text.
    fn form_in(&self, text: &[u8]) -> Option<&'static str> {
        let is_in = |form: &Vec<u8>| text.windows(form.len()).any(|window| window == form);
        self.forms.iter().find(|(_, form)| is_in(form)).map(|(name, _)| *name)
    }

    pub fn is_in(&self, text: &[u8]) -> bool {
        self.form_in(text).is_some()
    }

    pub fn assert_not_in(&self, place: &str, text: &[u8]) {
        if let Some(form) = self.form_in(text) {
            let text = String::from_utf8_lossy(text);
            panic!("{} is in {place}, {form}:\n{text}", self.secret);
        }
    }
}

/// A canary that were printed would be found, however it were written.
#[test]
fn a_canary_is_found_in_each_form() {
    let secret = "canary/one+two/0123456789";
    let needle = Needle::canary(secret);
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    for text in [
        format!("x {secret} y"),
        format!("x {}... y", &secret[..ENOUGH]),
        format!("{:?}", secret.as_bytes()),
        uri_encode(secret.as_bytes(), false),
        hex.to_uppercase(),
        hex,
        STANDARD_NO_PAD.encode(secret),
        STANDARD_NO_PAD.encode(format!("k:{secret}?")),
        URL_SAFE_NO_PAD.encode(format!("key:{secret}")),
        URL_SAFE_NO_PAD.encode(format!("AWS4{secret}.")),
        URL_SAFE_NO_PAD.encode(format!("Bearer {secret} and more")),
    ] {
        assert!(needle.is_in(text.as_bytes()), "{text}");
    }
    assert!(!needle.is_in(b"canary/another secret, Y2FuYXJ5, 63616e617279, 99, 97, 110"));
}
