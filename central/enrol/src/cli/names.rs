//! Names: from the command line and from a file.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    path::Path,
};

use crate::{files::failed, realm::RealmError};

/// Enrolled by one command: more than a server takes at once.
const NAMES_MAX: usize = 20_000;
/// More than so many of the longest ids take.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// All names that are meant, each once, in the order in which they were given.
pub(super) fn all(given: &[String], from: Option<&Path>) -> Result<Vec<String>, RealmError> {
    let mut names = given.to_vec();
    if let Some(path) = from {
        if path == Path::new("-") {
            read(io::stdin().lock(), path, &mut names)?;
        } else {
            let file = File::open(path).map_err(failed("open", path))?;
            read(file, path, &mut names)?;
        }
        if names.is_empty() {
            return Err(wrong(path, "it names nobody"));
        }
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

fn read(from: impl Read, path: &Path, names: &mut Vec<String>) -> Result<(), RealmError> {
    let mut bytes = Vec::new();
    // One more tells a list that is too long from one that just fits.
    let length = from
        .take(BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(failed("read", path))?;
    if u64::try_from(length).unwrap_or(u64::MAX) > BYTES_MAX {
        return Err(wrong(path, &format!("it has more than {BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes).map_err(|e| wrong(path, &e.to_string()))?;
    for line in text.lines() {
        let name = line.split('#').next().unwrap_or_default().trim();
        if !name.is_empty() {
            names.push(name.to_owned());
        }
        if names.len() > NAMES_MAX {
            return Err(wrong(path, &format!("it has more than {NAMES_MAX} names")));
        }
    }
    Ok(())
}

fn wrong(path: &Path, why: &str) -> RealmError {
    RealmError::Content {
        path: path.display().to_string(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_a_name_on_each_line() {
        let mut names = vec!["zoe".to_owned()];
        let text = "# ours\n\nalice\n  bob  # the one with the van\r\nalice\n";
        read(text.as_bytes(), Path::new("-"), &mut names).unwrap();
        assert_eq!(names, ["zoe", "alice", "bob", "alice"]);
        let given = ["a", "b", "a"].map(str::to_owned);
        assert_eq!(all(&given, None).unwrap(), ["a", "b"]);
        let many = "x\n".repeat(NAMES_MAX + 1);
        assert!(read(many.as_bytes(), Path::new("-"), &mut Vec::new()).is_err());
    }

    #[test]
    fn a_list_that_is_too_long_is_refused_and_not_cut() {
        let long = |bytes: u64| {
            let text = "alice\n#".to_owned() + &"x".repeat(usize::try_from(bytes).unwrap() - 7);
            let mut names = Vec::new();
            read(text.as_bytes(), Path::new("-"), &mut names).map(|()| names)
        };
        assert_eq!(long(BYTES_MAX).unwrap(), ["alice"]);
        let refused = long(BYTES_MAX + 1).unwrap_err().to_string();
        assert!(refused.contains("more than 4194304 bytes"), "{refused}");
    }
}
