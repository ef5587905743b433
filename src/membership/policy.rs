//! Names and other texts that are checked before they are signed, and again when they are read.
//!
//! A name is a DNS label (RFC 1123) in lower case, so that it can be asked of a resolver, typed in
//! a shell and printed on a terminal without quoting. A free text (the reason of a revocation) has
//! no control characters and none that change the direction of writing: what an admin wrote must
//! not be able to redraw the terminal of whoever reads the log.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest DNS label, in bytes (RFC 1035, section 2.3.4).
const MAX_NAME_LEN: usize = 63;

/// The longest reason, in bytes: two lines of a terminal, and small beside the 900 bytes of a body.
pub const MAX_REASON_LEN: usize = 200;

/// A DNS label (RFC 1123): 1 to 63 of `a-z 0-9 -`, no hyphen at either end. Also a network's name.
///
/// `FromStr` reads what people type and makes it lower case. `TryFrom<String>`, which decoding
/// uses, refuses upper case: what was signed has one form only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceName(String);

/// A text is not a DNS label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 63 letters, digits and hyphens, and no hyphen at its ends")]
pub struct NameError;

impl DeviceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A host name made a DNS label: lower case, first label, other characters to hyphens.
    /// `None` where nothing usable is left.
    pub fn from_host_name(host: &str) -> Option<Self> {
        let first = host.trim().split('.').next().unwrap_or_default();
        let label: String = first
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(MAX_NAME_LEN)
            .collect();
        label.trim_matches('-').to_owned().try_into().ok()
    }

    /// This name with `-suffix`, shortened so that the whole is still a label.
    pub(super) fn with_suffix(&self, suffix: &str) -> Option<Self> {
        let room = MAX_NAME_LEN.checked_sub(suffix.len() + 1)?;
        let base = &self.0[..self.0.len().min(room)];
        format!("{}-{suffix}", base.trim_end_matches('-')).try_into().ok()
    }
}

impl FromStr for DeviceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > MAX_NAME_LEN {
            return Err(NameError);
        }
        text.to_ascii_lowercase().try_into()
    }
}

impl TryFrom<String> for DeviceName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good = (1..=MAX_NAME_LEN).contains(&text.len())
            && text.bytes().all(label)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if good { Ok(Self(text)) } else { Err(NameError) }
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> String {
        name.0
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Makes a text that somebody typed fit to be signed as a reason: one line, at most
/// [`MAX_REASON_LEN`] bytes, nothing that redraws a terminal.
pub fn clean_reason(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim().chars().map(|c| if is_hostile(c) { ' ' } else { c }) {
        if out.len() + c.len_utf8() > MAX_REASON_LEN {
            break;
        }
        out.push(c);
    }
    out
}

/// Whether `text` may stand as a reason in a signed op.
pub(super) fn is_clean_reason(text: &str) -> bool {
    text.len() <= MAX_REASON_LEN && !text.chars().any(is_hostile)
}

/// Control characters, line separators, and the marks that turn the direction of writing.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typed_name_becomes_lower_case_and_a_decoded_one_must_be() {
        assert_eq!("NAS-2".parse::<DeviceName>().unwrap().as_str(), "nas-2");
        assert!(DeviceName::try_from("NAS-2".to_owned()).is_err());
    }

    #[test]
    fn what_is_no_dns_label_is_refused() {
        let long = "a".repeat(64);
        for text in ["", "-", "-a", "a-", "a.b", "a b", "a_b", "ä", "a\n", "a\0", "../a", &long] {
            assert!(text.parse::<DeviceName>().is_err(), "{text:?}");
        }
        assert!("a".repeat(63).parse::<DeviceName>().is_ok());
    }

    #[test]
    fn a_host_name_gives_its_first_label() {
        let name = |host: &str| DeviceName::from_host_name(host).map(String::from);
        assert_eq!(name("Old Laptop.local"), Some("old-laptop".into()));
        assert_eq!(name("_x_.example.org"), Some("x".into()));
        assert_eq!(name("été"), Some("t".into()));
        assert_eq!(name(&"a".repeat(100)), Some("a".repeat(63)));
        assert_eq!(name(""), None);
        assert_eq!(name("..."), None);
        assert_eq!(name("___"), None);
    }

    #[test]
    fn a_suffix_keeps_the_name_a_label() {
        let name: DeviceName = "a".repeat(63).parse().unwrap();
        let shown = name.with_suffix("wxyz").unwrap();
        assert_eq!(shown.as_str(), format!("{}-wxyz", "a".repeat(58)));
        let hyphen: DeviceName = format!("{}-bbbbb", "a".repeat(57)).parse().unwrap();
        assert_eq!(
            hyphen.with_suffix("wxyz").unwrap().as_str(),
            format!("{}-wxyz", "a".repeat(57))
        );
    }

    #[test]
    fn a_reason_cannot_redraw_a_terminal() {
        let hostile = "lost\u{1b}[2J\r\n\u{202e}stolen";
        assert!(!is_clean_reason(hostile));
        let clean = clean_reason(hostile);
        assert!(is_clean_reason(&clean));
        assert_eq!(clean, "lost [2J   stolen");
        assert_eq!(clean_reason(&"ä".repeat(150)).len(), MAX_REASON_LEN);
    }
}
