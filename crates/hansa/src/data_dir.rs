//! The directory with everything of `hansa up` that outlives the process. It holds keys and tokens, so it is its owner's
//! alone.

use std::{
    fs::{self, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hansa_embedded::{Options, Server, Storage, auth::StaticToken};
use rand::{TryRngCore, rngs::OsRng};

use crate::kubeconfig::default_data_dir;

pub(crate) struct DataDir(PathBuf);

impl DataDir {
    /// Uses `named`, or the default directory, and makes it if it is absent.
    pub(crate) fn open(named: Option<PathBuf>) -> Result<Self> {
        let dir = match named {
            Some(dir) => dir,
            None => default_data_dir()?,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .and_then(|()| fs::set_permissions(&dir, Permissions::from_mode(0o700)))
            .and_then(|()| fs::canonicalize(&dir))
            .map(Self)
            .with_context(|| {
                format!("cannot use {} as the data directory: name another with --data-dir", dir.display())
            })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The cluster whose state is `<name>.db`.
    pub(crate) async fn server(&self, name: &str, tokens: Vec<StaticToken>) -> Result<Server> {
        let mut options = Options::new(name, Storage::File(self.0.join(format!("{name}.db"))));
        options.tokens = tokens;
        Server::open(options).await.with_context(|| format!("cannot start the cluster {name:?}"))
    }

    /// The administrator's token, made at the first start.
    pub(crate) fn admin_token(&self) -> Result<String> {
        const FILE: &str = "admin.token";
        match fs::read_to_string(self.0.join(FILE)) {
            Ok(token) if !token.trim().is_empty() => return Ok(token.trim().to_owned()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot read {}", self.0.join(FILE).display()));
            }
            _ => {}
        }
        let mut random = [0_u8; 32];
        OsRng.try_fill_bytes(&mut random).context("the system gives no randomness")?;
        let token = URL_SAFE_NO_PAD.encode(random);
        self.write_secret(FILE, &token)?;
        Ok(token)
    }

    /// Writes a file that only its owner may read, whole or not at all.
    pub(crate) fn write_secret(&self, name: &str, text: &str) -> Result<()> {
        let (file, unfinished) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let write = || -> io::Result<()> {
            let mut options = fs::OpenOptions::new();
            let mut out = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            out.write_all(text.as_bytes())?;
            out.sync_all()?;
            fs::rename(&unfinished, &file)
        };
        write().with_context(|| format!("cannot write {}", file.display()))
    }

    /// A file written before, if it is there.
    pub(crate) fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.0.join(name)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_made_once_and_nobody_else_reads_it() {
        let dir = tempfile::TempDir::new().unwrap();
        let open = || DataDir::open(Some(dir.path().join("a/b"))).unwrap();
        let token = open().admin_token().unwrap();
        assert!(token.len() >= 43);
        assert_eq!(open().admin_token().unwrap(), token);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(open().path()), 0o700);
        assert_eq!(mode(&open().path().join("admin.token")), 0o600);
    }
}
