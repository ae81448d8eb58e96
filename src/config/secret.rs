//! Secrets: in variables, or in files of their own.

use std::{fs, io::Read as _, path::Path};

use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use super::{
    problem::Fault,
    reader::{At, Reader, Section},
};

/// More than any secret needs, so that a wrong path does not fill the memory.
const MAX_LENGTH: u64 = 64 * 1024;

/// A secret as it was found, and where.
pub(super) type Secret = (SecretSlice<u8>, At);

/// The secret called `key`: from its variable, else from the file that `key_file` names.
pub(super) fn read(section: &Section<'_>, key: &str) -> Option<Secret> {
    let file_key = format!("{key}_file");
    let secret = section.secret(key, &file_key);
    let file = section.get::<String>(&file_key);
    if let Some((value, at)) = secret.placed() {
        return Some((value.into_bytes().into(), at));
    }
    let (path, at) = file.placed()?;
    let path = section.reader().resolve(&at, &path);
    section.reader().note_file(&at, &path);
    match read_file(section.reader(), &at, &path) {
        Ok(secret) => Some((secret, at)),
        Err(fault) => {
            section.reader().report(&at, fault);
            None
        }
    }
}

/// The secret called `key` where it has to be text: a token, a password. Space around it is dropped.
pub(super) fn read_text(section: &Section<'_>, key: &str) -> Option<(SecretString, At)> {
    let (secret, at) = read(section, key)?;
    match str::from_utf8(secret.expose_secret()).map(str::trim) {
        Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => Some((text.into(), at)),
        _ => {
            section.reader().report(&at, Fault::new("the secret is not one line of text"));
            None
        }
    }
}

/// The secret called `key` where it is to be sent as a bearer token.
pub(super) fn read_bearer(section: &Section<'_>, key: &str) -> Option<(SecretString, At)> {
    const SHORT: usize = 16;
    let (token, at) = read_text(section, key)?;
    if token.expose_secret().bytes().any(|byte| !byte.is_ascii_graphic()) {
        section.reader().report(&at, Fault::new("the token may hold only visible ASCII characters without spaces"));
    } else if token.expose_secret().len() < SHORT {
        let fault = Fault::new(format!("the token is shorter than {SHORT} characters and can be guessed"));
        section.reader().warn(&at, fault.hint("make one with `openssl rand -hex 32`"));
    }
    Some((token, at))
}

/// The same where there has to be one.
pub(super) fn required_text(section: &Section<'_>, key: &str) -> Option<SecretString> {
    let file_key = format!("{key}_file");
    if !section.has(key) && !section.has(&file_key) {
        let fault = Fault::new("is missing").hint(format!("a file of its own: `{file_key} = \"…\"`"));
        section.reader().report(&section.at().under(key), fault);
    }
    Some(read_text(section, key)?.0)
}

/// Warns of a file that others may read than whom it is for.
pub(super) fn warn_if_world_readable(reader: &Reader<'_>, at: &At, path: &Path) {
    if fs::File::open(path).is_ok_and(|file| is_world_readable(&file)) {
        let fault = Fault::new(format!("secret file {} can be read by every user of this machine", path.display()));
        reader.warn(at, fault.hint("chmod 600"));
    }
}

fn read_file(reader: &Reader<'_>, at: &At, path: &Path) -> Result<SecretSlice<u8>, Fault> {
    let unreadable =
        |error: &std::io::Error| Fault::new(format!("secret file {} cannot be read: {error}", path.display()));
    let file = fs::File::open(path).map_err(|error| unreadable(&error))?;
    if is_world_readable(&file) {
        let fault = Fault::new(format!("secret file {} can be read by every user of this machine", path.display()));
        reader.warn(at, fault.hint("chmod 600"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_LENGTH + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    if bytes.len() as u64 > MAX_LENGTH {
        return Err(Fault::new(format!("secret file {} is longer than 64KiB", path.display())));
    }
    // Editors end a file with a line end; it is not part of the secret.
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(Fault::new(format!("secret file {} is empty", path.display())));
    }
    Ok(bytes.into())
}

#[cfg(unix)]
fn is_world_readable(file: &fs::File) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(not(unix))]
fn is_world_readable(_: &fs::File) -> bool {
    false
}
