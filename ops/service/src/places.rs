//! Folders that only systemd knows, in paths of a configuration.

use std::path::{Path, PathBuf};

/// What a unit calls the folder of keys in `LoadCredential=`. systemd lays its file `NAME` down as
/// `keys_NAME`, since what a service is given lies in one flat folder.
const KEYS: &str = "keys";

/// The variables, each with what systemd makes of it.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
const STATE: &str = "STATE_DIRECTORY";
const RUNTIME: &str = "RUNTIME_DIRECTORY";

/// Why a path of a configuration leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// It names none of them.
    #[error(
        "`{0}` begins with what is not known here; write a path, or one that begins with \
         $CREDENTIALS_DIRECTORY/, $STATE_DIRECTORY/ or $RUNTIME_DIRECTORY/"
    )]
    Unknown(String),
    /// Nobody has said where that is.
    #[error(
        "`{path}`: ${variable} is set by systemd for a service that it starts; by hand, put \
         {variable}=FOLDER before the command"
    )]
    Unset {
        /// The path.
        path: String,
        /// The variable.
        variable: &'static str,
    },
}

/// Folders that the service manager made for this program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// What it was given to read, `LoadCredential=`.
    pub credentials: Option<PathBuf>,
    /// What it keeps, `StateDirectory=`.
    pub state: Option<PathBuf>,
    /// What it has while it runs, `RuntimeDirectory=`.
    pub runtime: Option<PathBuf>,
}

impl Places {
    /// From the environment.
    #[must_use]
    pub fn from_env() -> Self {
        let folder = |variable| {
            let value = std::env::var(variable).ok()?;
            // Several are separated by colons; the first is the unit's own.
            let first = value.split(':').next()?;
            (!first.is_empty()).then(|| PathBuf::from(first))
        };
        Self {
            credentials: folder(CREDENTIALS),
            state: folder(STATE),
            runtime: folder(RUNTIME),
        }
    }

    /// Where a path of a configuration leads. One that begins with no `$` leads where it says.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn find(&self, path: &Path) -> Result<PathBuf, PlaceError> {
        let shown = || path.display().to_string();
        let mut parts = path.components();
        let first = parts.next().map(|part| part.as_os_str().to_string_lossy());
        let Some(name) = first.as_deref().and_then(|first| first.strip_prefix('$')) else {
            return Ok(path.to_owned());
        };
        let (variable, folder) = match name {
            CREDENTIALS => (CREDENTIALS, &self.credentials),
            STATE => (STATE, &self.state),
            RUNTIME => (RUNTIME, &self.runtime),
            _ => return Err(PlaceError::Unknown(shown())),
        };
        let folder = folder.as_ref().ok_or_else(|| PlaceError::Unset {
            path: shown(),
            variable,
        })?;
        let rest = parts.as_path();
        if rest.as_os_str().is_empty() {
            return Ok(folder.clone());
        }
        if variable == CREDENTIALS {
            let flat = folder.join(format!("{KEYS}_{}", rest.display()));
            if flat.is_file() {
                return Ok(flat);
            }
        }
        Ok(folder.join(rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places {
            credentials: Some("/run/credentials/x".into()),
            state: Some("/var/lib/x".into()),
            runtime: None,
        }
    }

    #[test]
    fn a_path_leads_where_it_says() {
        for path in ["/etc/ev/ca.crt", "ca.crt", "a/$STATE_DIRECTORY"] {
            assert_eq!(places().find(Path::new(path)).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn a_variable_leads_into_the_folder_that_systemd_made() {
        let found = |path: &str| places().find(Path::new(path)).unwrap();
        assert_eq!(found("$STATE_DIRECTORY"), Path::new("/var/lib/x"));
        assert_eq!(found("$STATE_DIRECTORY/a/b"), Path::new("/var/lib/x/a/b"));
        let ca = found("$CREDENTIALS_DIRECTORY/ca.crt");
        assert_eq!(ca, Path::new("/run/credentials/x/ca.crt"));
    }

    #[test]
    fn a_file_of_the_folder_of_keys_is_found_under_the_name_that_systemd_gives_it() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("keys_ca.crt"), "").unwrap();
        let places = Places {
            credentials: Some(folder.path().to_owned()),
            ..Places::default()
        };
        let ca = places.find(Path::new("$CREDENTIALS_DIRECTORY/ca.crt"));
        assert_eq!(ca.unwrap(), folder.path().join("keys_ca.crt"));
    }

    #[test]
    fn what_is_not_known_is_said_with_what_would_be_right() {
        let refused = |path: &str| places().find(Path::new(path)).unwrap_err().to_string();
        let unset = refused("$RUNTIME_DIRECTORY/control.sock");
        assert!(unset.contains("RUNTIME_DIRECTORY=FOLDER"), "{unset}");
        let unknown = refused("$HOME/creds");
        assert!(unknown.contains("$STATE_DIRECTORY/"), "{unknown}");
        assert!(refused("$STATE_DIRECTORYS/x").contains("not known"));
    }
}
