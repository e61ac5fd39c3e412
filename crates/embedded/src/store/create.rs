//! Making the file of a store.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use redb::{Builder, Database};

/// Makes a file beside the path, lets `fill` put into it what an empty store has, and moves it there, so that a crash
/// leaves no half-made one. When this returns, the file and the directories made for it are on the disk.
pub(super) fn create(
    path: &Path,
    fill: impl FnOnce(&Database) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let directory = path.parent().unwrap_or(path);
    let missing: Vec<_> = directory.ancestors().take_while(|it| !here(it).exists()).collect();
    private_directory(here(directory))?;

    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(format!(".new.{:016x}", rand::random::<u64>()));
    let unfinished = PathBuf::from(unfinished);
    let made = make(&unfinished, fill).and_then(|()| Ok(put_in_place(&unfinished, path)?));
    let removed = match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    made?;
    removed?;

    let changed = missing.iter().filter_map(|it| it.parent()).chain([directory]);
    for directory in changed {
        fs::File::open(here(directory))?.sync_all()?;
    }
    Ok(())
}

fn make(path: &Path, fill: impl FnOnce(&Database) -> Result<(), redb::Error>) -> Result<(), redb::Error> {
    private_file(path)?;
    let database = Builder::new().create(path)?;
    fill(&database)?;
    Ok(database.close()?)
}

fn put_in_place(made: &Path, path: &Path) -> io::Result<()> {
    // A link, unlike a renaming, never replaces what another process put there meanwhile; not all file systems know
    // links.
    match fs::hard_link(made, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => fs::rename(made, path),
        _ => Ok(()),
    }
}

/// The parent of a bare file name is empty, and means the current directory.
fn here(directory: &Path) -> &Path {
    if directory.as_os_str().is_empty() { Path::new(".") } else { directory }
}

/// Makes a file that only its owner can read: the store holds Secrets and signing keys.
fn private_file(path: &Path) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

fn private_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}
