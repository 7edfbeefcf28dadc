//! Files: whole or not at all, on the disk before anything rests on them, secrets their owner's alone.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nkeys::KeyPair;

use crate::realm::RealmError;

/// A secret is its owner's alone.
pub(crate) const SECRET: u32 = 0o600;
/// From so many files on, all that the file system has to write is waited for at once.
const MANY: usize = 16;
/// What nats-server reads is public.
pub(crate) const PUBLIC: u32 = 0o644;

pub(crate) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RealmError {
    let path = path.display().to_string();
    move |source| RealmError::File { what, path, source }
}

pub(crate) fn make_dir(path: &Path) -> Result<(), RealmError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("make the folder", path))
}

/// Waits for whoever has the folder open.
pub(crate) fn lock(dir: &Path) -> Result<File, RealmError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(SECRET)
        .open(&path)
        .map_err(failed("open", &path))?;
    if file.try_lock().is_err() {
        eprintln!(
            "central enrol: waiting for another command with {}",
            dir.display()
        );
        file.lock().map_err(failed("lock", &path))?;
    }
    Ok(file)
}

/// Writes a whole file or none: whoever reads it meanwhile sees the former one.
pub(crate) fn write(path: &Path, mode: u32, text: &str) -> Result<(), RealmError> {
    write_all(&[(path.to_owned(), text.to_owned())], mode)
}

/// The same with many files, each whole or not at all. Thousands cost one wait for the disk.
pub(crate) fn write_all(files: &[(PathBuf, String)], mode: u32) -> Result<(), RealmError> {
    let mut last = None;
    for (path, text) in files {
        let half = half_of(path);
        // One that was left half written may have another mode.
        let _ = fs::remove_file(&half);
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(mode)
            .open(&half)
            .map_err(failed("create", &half))?;
        file.write_all(text.as_bytes())
            .and_then(|()| {
                if files.len() < MANY {
                    file.sync_all()
                } else {
                    Ok(())
                }
            })
            .map_err(failed("write", &half))?;
        last = Some((half, file));
    }
    if let Some((half, file)) = last.filter(|_| files.len() >= MANY) {
        nix::unistd::syncfs(file)
            .map_err(io::Error::from)
            .map_err(failed("write", &half))?;
    }
    let mut folders = BTreeSet::new();
    for (path, _) in files {
        fs::rename(half_of(path), path).map_err(failed("replace", path))?;
        folders.extend(path.parent());
    }
    folders.into_iter().try_for_each(sync_dir)
}

pub(crate) fn sync_dir(folder: &Path) -> Result<(), RealmError> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed("sync", folder))
}

fn half_of(path: &Path) -> PathBuf {
    let mut half = path.as_os_str().to_owned();
    half.push(".half");
    PathBuf::from(half)
}

/// Removes a file if it is there, and what was left half written of it: that has the same secret.
pub(crate) fn remove(path: &Path) -> Result<(), RealmError> {
    for path in [path, &half_of(path)] {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("remove", path)(e)),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Reads a file; none when it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<String>, RealmError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

pub(crate) fn write_seed(path: &Path, key: &KeyPair) -> Result<(), RealmError> {
    write(path, SECRET, &format!("{}\n", key.seed()?))
}

pub(crate) fn read_seed(path: &Path) -> Result<KeyPair, RealmError> {
    let text = fs::read_to_string(path).map_err(failed("read", path))?;
    KeyPair::from_seed(text.trim()).map_err(|_| RealmError::Content {
        path: path.display().to_string(),
        why: "it is no key".into(),
    })
}
