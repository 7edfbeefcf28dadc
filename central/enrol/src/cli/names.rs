//! Names: from the command line and from a file.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use crate::{files::failed, realm::RealmError};

/// Enrolled by one command: more than a server takes at once.
const NAMES_MAX: usize = 20_000;
/// More than so many of the longest ids take: what is behind is not read.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// All names that are meant, each once, in the order in which they were given.
pub(super) fn all(given: &[String], from: Option<&Path>) -> Result<Vec<String>, RealmError> {
    let mut names = given.to_vec();
    if let Some(path) = from {
        if path == Path::new("-") {
            read(io::stdin().lock(), path, &mut names)?;
        } else {
            let file = File::open(path).map_err(failed("open", path))?;
            read(BufReader::new(file), path, &mut names)?;
        }
        if names.is_empty() {
            return Err(wrong(path, "it names nobody"));
        }
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}

fn read(from: impl BufRead, path: &Path, names: &mut Vec<String>) -> Result<(), RealmError> {
    for line in from.take(BYTES_MAX).lines() {
        let line = line.map_err(failed("read", path))?;
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
}
