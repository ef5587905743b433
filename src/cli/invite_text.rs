//! An invite as text that people and files carry about, and as a QR code.
//!
//! An invite is a secret for as long as it is unused, so besides an argument, which `ps` shows, it
//! may come from a file or from stdin. Mail programs and terminals break long lines; white space
//! inside is therefore dropped. Whether the rest is an invite, the agent says.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use super::{Exit, Failure};

/// The most that is read, in bytes: a request has no room for more, and an invite has a few
/// hundred.
const MAX_LEN: u64 = 32 << 10;

/// Takes the invite from where the argument says: itself, `@FILE`, or `-` or nothing for stdin.
pub fn obtain(argument: Option<OsString>) -> Result<String, Failure> {
    let bytes = match argument {
        None if io::stdin().is_terminal() => prompt()?,
        None => read("stdin", io::stdin().lock())?,
        Some(argument) if argument == "-" => read("stdin", io::stdin().lock())?,
        Some(argument) => match argument.as_bytes().strip_prefix(b"@") {
            Some(name) => read_file(OsStr::from_bytes(name))?,
            None => argument.into_vec(),
        },
    };
    parse(bytes)
}

/// The token as a QR code of Unicode half blocks: two modules a character, light ones drawn, as
/// most terminals are dark, with the quiet zone that readers need.
pub fn qr(token: &str) -> Result<String, Failure> {
    let code = QrCode::new(token).map_err(|error| {
        Failure::new(Exit::Failed, format!("the invite does not fit a QR code: {error}"))
    })?;
    let mut picture = code.render::<Dense1x2>();
    picture.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).quiet_zone(true);
    Ok(picture.build() + "\n")
}

fn parse(bytes: Vec<u8>) -> Result<String, Failure> {
    let usage = |message: &str| Err(Failure::new(Exit::Usage, message));
    if bytes.len() as u64 > MAX_LEN {
        return usage(
            "that is no invite: it is longer than 32 KiB, and an invite has a few hundred characters",
        );
    }
    let Ok(mut text) = String::from_utf8(bytes) else {
        return usage("that is no invite: it is not text (UTF-8)");
    };
    text.retain(|character| !character.is_whitespace());
    if text.is_empty() {
        return usage("there is no invite: give it as an argument, as @FILE, or on stdin");
    }
    Ok(text)
}

fn prompt() -> Result<Vec<u8>, Failure> {
    let _ = write!(io::stderr(), "Paste the invite and press Enter: ");
    let mut line = Vec::new();
    let read = io::stdin().lock().take(MAX_LEN + 1).read_until(b'\n', &mut line);
    read.map(|_| line).map_err(|error| unreadable("stdin", &error))
}

fn read_file(name: &OsStr) -> Result<Vec<u8>, Failure> {
    let shown = name.to_string_lossy();
    let file = File::open(name).map_err(|error| unreadable(&shown, &error))?;
    read(&shown, file)
}

fn read(name: &str, source: impl Read) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = source.take(MAX_LEN + 1).read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|error| unreadable(name, &error))
}

fn unreadable(name: &str, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot read the invite from {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_round_and_inside_an_invite_is_dropped() {
        assert_eq!(parse(b" ginnel1abc\r\n  def\n\n".to_vec()).unwrap(), "ginnel1abcdef");
        assert_eq!(obtain(Some("ginnel1abc".into())).unwrap(), "ginnel1abc");
    }

    #[test]
    fn what_is_too_long_not_text_or_nothing_is_a_usage_error() {
        for bytes in [vec![b'a'; MAX_LEN as usize + 1], b"\xff\xfe".to_vec(), b" \n".to_vec()] {
            assert_eq!(parse(bytes).unwrap_err().exit, Exit::Usage);
        }
        assert_eq!(parse(vec![b'a'; 10 << 10]).unwrap().len(), 10 << 10);
    }

    #[test]
    fn an_endless_file_is_read_to_the_bound_only() {
        assert_eq!(obtain(Some("@/dev/zero".into())).unwrap_err().exit, Exit::Usage);
        assert_eq!(obtain(Some("@/nonexistent".into())).unwrap_err().exit, Exit::Failed);
    }

    #[test]
    fn a_qr_code_is_drawn_with_half_blocks_and_a_quiet_zone() {
        let picture = qr(&format!("ginnel1{}", "abcd2345".repeat(30))).unwrap();
        let lines: Vec<&str> = picture.lines().collect();
        assert!(picture.chars().all(|c| " ▀▄█\n".contains(c)));
        assert!(lines[0].chars().all(|c| c == '█'), "{picture}");
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()));
    }
}
