//! The uploadId that clients hold: the backend's, sealed to bucket, key and principal.
//!
//! The backend trusts the gateway with every multipart upload there is; a client that could name
//! one directly could add parts to another's. Sealed (XChaCha20-Poly1305, the binding as associated
//! data) it needs no table: it stays valid across restarts, workers and gateways that share the key.

use super::error::{ErrorCode, S3Error};
use super::names::BackendUploadId;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use zeroize::Zeroizing;

/// Bytes of the longest sealed id that is made, or looked at: backends' ids are under 1 KiB.
pub const MAX_SEALED: usize = 4096;

/// The form of the sealed id: a later form gets another number.
const VERSION: u8 = 1;

const NONCE: usize = 24;

/// Seals and opens uploadIds.
pub struct UploadIdSealer {
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for UploadIdSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UploadIdSealer(…)")
    }
}

impl UploadIdSealer {
    /// A sealer with this key; the copy that came as the argument is wiped.
    pub fn new(key: [u8; 32]) -> Self {
        let key = Zeroizing::new(key);
        UploadIdSealer { cipher: XChaCha20Poly1305::new((&*key).into()) }
    }

    /// Seals the backend's id. `nonce` must be random: it is never used twice.
    ///
    /// Errors: 500 InternalError when the backend's id is so long that its sealed form would be over
    /// [`MAX_SEALED`], and so could never be opened again.
    pub fn seal(
        &self,
        id: &BackendUploadId,
        bucket: &str,
        key: &str,
        principal: &str,
        nonce: [u8; NONCE],
    ) -> Result<String, S3Error> {
        let aad = binding(bucket, key, principal);
        let payload = Payload { msg: id.as_str().as_bytes(), aad: &aad };
        let failed = || S3Error::new(ErrorCode::InternalError, "The uploadId could not be sealed.");
        let sealed = self.cipher.encrypt(&nonce.into(), payload).map_err(|_| failed())?;
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&nonce);
        bytes.extend_from_slice(&sealed);
        let text = URL_SAFE_NO_PAD.encode(bytes);
        if text.len() > MAX_SEALED { Err(failed()) } else { Ok(text) }
    }

    /// Opens a sealed id. Whatever is wrong with it, the answer is the same 404 NoSuchUpload.
    pub fn open(
        &self,
        sealed: &str,
        bucket: &str,
        key: &str,
        principal: &str,
    ) -> Result<BackendUploadId, S3Error> {
        self.try_open(sealed, &binding(bucket, key, principal)).ok_or_else(|| {
            let message = "The specified upload does not exist. The upload ID may be invalid, or the \
                           upload may have been aborted or completed.";
            S3Error::new(ErrorCode::NoSuchUpload, message)
        })
    }

    fn try_open(&self, sealed: &str, aad: &[u8]) -> Option<BackendUploadId> {
        if sealed.len() > MAX_SEALED {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (&version, rest) = bytes.split_first()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>()?;
        if version != VERSION {
            return None;
        }
        let opened = self.cipher.decrypt(&(*nonce).into(), Payload { msg: sealed, aad }).ok()?;
        String::from_utf8(opened).ok().map(BackendUploadId::new)
    }
}

/// Length-prefixed, so that no two bindings have the same bytes.
fn binding(bucket: &str, key: &str, principal: &str) -> Vec<u8> {
    let mut out = vec![VERSION];
    for part in [bucket, key, principal] {
        out.extend_from_slice(&(part.len() as u64).to_be_bytes());
        out.extend_from_slice(part.as_bytes());
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_opens_for_what_it_was_sealed_for_and_nothing_else() {
        let sealer = UploadIdSealer::new([7; 32]);
        let id = BackendUploadId::new("backend/id".into());
        let sealed = sealer.seal(&id, "b", "k", "p", [1; 24]).unwrap();
        assert_eq!(sealer.open(&sealed, "b", "k", "p").unwrap(), id);
        for (bucket, key, principal) in
            [("c", "k", "p"), ("b", "l", "p"), ("b", "k", "q"), ("bk", "", "p")]
        {
            let error = sealer.open(&sealed, bucket, key, principal).unwrap_err();
            assert_eq!(error.code, "NoSuchUpload");
        }
        assert!(UploadIdSealer::new([8; 32]).open(&sealed, "b", "k", "p").is_err());
    }

    /// What is handed out must open again: an id that would not is an error at once.
    #[test]
    fn an_id_too_long_to_open_is_never_handed_out() {
        let sealer = UploadIdSealer::new([7; 32]);
        let seal = |length: usize| {
            sealer.seal(&BackendUploadId::new("i".repeat(length)), "b", "k", "p", [1; 24])
        };
        // 4,096 characters hold 3,072 bytes: version, nonce, tag and 3,031 of the id.
        let longest = seal(3031).unwrap();
        assert_eq!(longest.len(), MAX_SEALED);
        assert!(sealer.open(&longest, "b", "k", "p").is_ok());
        assert_eq!(seal(3032).unwrap_err().code, "InternalError");
    }

    #[test]
    fn debug_says_nothing() {
        assert_eq!(format!("{:?}", UploadIdSealer::new([7; 32])), "UploadIdSealer(…)");
    }

    proptest! {
        #[test]
        fn it_opens_only_for_its_own_binding(
            id in "\\PC{0,40}", at in "[a-c/]{0,4}", other in "[a-c/]{0,4}", nonce: [u8; 24],
        ) {
            let sealer = UploadIdSealer::new([7; 32]);
            let id = BackendUploadId::new(id);
            let sealed = sealer.seal(&id, &at, &at, &at, nonce).unwrap();
            prop_assert_eq!(sealer.open(&sealed, &at, &at, &at).unwrap(), id);
            for (bucket, key, principal) in
                [(&other, &at, &at), (&at, &other, &at), (&at, &at, &other)]
            {
                let opened = sealer.open(&sealed, bucket, key, principal);
                prop_assert_eq!(opened.is_ok(), at == other);
            }
        }

        #[test]
        fn a_flipped_bit_closes_it(bit in 0usize..400) {
            let sealer = UploadIdSealer::new([7; 32]);
            let id = BackendUploadId::new("id".into());
            let sealed = sealer.seal(&id, "b", "k", "p", [1; 24]).unwrap();
            let mut bytes = URL_SAFE_NO_PAD.decode(&sealed).unwrap();
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(sealer.open(&URL_SAFE_NO_PAD.encode(bytes), "b", "k", "p").is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}") {
            prop_assert!(UploadIdSealer::new([7; 32]).open(&text, "b", "k", "p").is_err());
        }
    }
}
