//! Bearer tokens: `txw_<id>_<secret>`. The id names the token in lists and logs; of the rest only a digest is kept. The
//! secret has 256 random bits, so nothing is gained by a slow hash: one SHA-256 is.

use argon2::password_hash::rand_core::{OsRng, RngCore};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// What every token begins with, so that those who look for leaked secrets can find ours.
const PREFIX: &str = "txw_";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;

/// SHA-256 of a whole token.
#[derive(Clone, Copy)]
pub(super) struct Digest([u8; 32]);

impl Digest {
    /// Of the token as sent.
    pub(super) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// As the users file has it: 64 hexadecimal digits.
    pub(super) fn parse(hex: &str) -> Option<Self> {
        if hex.len() != 64 || !hex.bytes().all(is_digit) {
            return None;
        }
        let mut digest = [0; 32];
        for (at, byte) in digest.iter_mut().enumerate() {
            *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(digest))
    }

    pub(super) fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// Takes the same time whatever differs.
    pub(super) fn is(self, other: Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest")
    }
}

/// A token just made. Its text is shown once and never kept.
pub struct NewToken {
    /// Its id.
    pub id: String,
    /// The whole token.
    pub text: String,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl NewToken {
    pub(super) fn make() -> Self {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        OsRng.fill_bytes(&mut id);
        OsRng.fill_bytes(&mut secret);
        let id = hex(&id);
        Self { text: format!("{PREFIX}{id}_{}", hex(&secret)), id }
    }
}

/// The id in a text that has the form of a token.
pub(super) fn id_of(text: &str) -> Option<&str> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    (is_id(id) && secret.len() == 2 * SECRET_BYTES && secret.bytes().all(is_digit)).then_some(id)
}

/// Whether a text can be the id of a token.
pub(super) fn is_id(text: &str) -> bool {
    text.len() == 2 * ID_BYTES && text.bytes().all(is_digit)
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// In lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS.get(usize::from(value)).copied().unwrap_or(b'0'));
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::*;

    #[test]
    fn tokens_are_unlike_and_tell_their_id() {
        let [a, b] = [(); 2].map(|()| NewToken::make());
        assert!(a.id != b.id && a.text != b.text);
        assert_eq!(id_of(&a.text), Some(a.id.as_str()));
        assert_eq!(a.text.len(), 4 + 12 + 1 + 64);
        assert!(!format!("{a:?}").contains(&a.text));
        for wrong in
            ["", "txw_", "txw_0123456789ab", "txw_0123456789ab_", "txx_0123456789ab_00", &a.text[1..], &a.text[..80]]
        {
            assert_eq!(id_of(wrong), None, "{wrong}");
        }
        assert_eq!(id_of(&a.text.to_uppercase()), None);
    }

    #[test]
    fn digests_are_those_of_the_text() {
        // FIPS 180-2, B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let digest = Digest::of("abc");
        assert_eq!(digest.to_hex(), expected);
        assert!(Digest::parse(expected).is_some_and(|parsed| parsed.is(digest) && !parsed.is(Digest::of("abd"))));
        for wrong in ["", "zz", &expected[1..], &"g".repeat(64), &"\u{e9}".repeat(32)] {
            assert!(Digest::parse(wrong).is_none(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_token_or_none(text in any::<String>(), tail in "[0-9a-f_]{0,90}") {
            id_of(&text);
            id_of(&format!("{PREFIX}{tail}"));
            Digest::parse(&text);
        }
    }
}
