//! Where PostgreSQL's programs and data are, and who runs them.
//!
//! PostgreSQL refuses to run as root. As root, Dues runs it as `nobody`, who must be able to reach the programs and
//! the data. A clone below `/root` is out of its reach, so what cannot be reached is moved below
//! [`crate::PostgresOptions::shared_dir`]: the programs are copied, and the data lives there from the start.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use crate::{
    files::{path_key, remove_tree_if_there, write_atomically},
    user::ChildUser,
};

/// Why no usable place was found.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// A file or directory could not be read, written or copied.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The shared directory belongs to somebody else, or anybody can write in it.
    #[error("{} must be owned by root and writable by root alone", path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
    },
    /// The shared directory cannot be reached either.
    #[error("the user that runs PostgreSQL (uid {uid}) cannot reach {}", path.display())]
    Unreachable {
        /// The directory.
        path: PathBuf,
        /// The user.
        uid: u32,
    },
}

/// The decision.
#[derive(Debug)]
pub(crate) struct Placement {
    /// The installation to run.
    pub(crate) install: PathBuf,
    /// The directory that holds `data`, `password` and `lock`.
    pub(crate) base: PathBuf,
    /// The user to run as.
    pub(crate) user: Option<ChildUser>,
}

impl Placement {
    /// Decides, and makes what is missing. Blocks for the copy of the installation, about 60 MB, once per version.
    pub(crate) fn find(
        install: &Path,
        requested: &Path,
        shared: &Path,
        user: Option<ChildUser>,
    ) -> Result<Self, PlacementError> {
        let requested = std::path::absolute(requested).map_err(at(requested))?;
        let install = fs::canonicalize(install).map_err(at(install))?;
        let Some(user) = user else {
            make_dir(&requested, 0o700)?;
            return Ok(Self { install, base: requested, user: None });
        };
        let install_is_open = user.can_enter(&install).map_err(at(&install))?
            && user.can_read_tree(&install).map_err(at(&install))?;
        let data_is_open = user.can_enter(&requested).map_err(at(&requested))?;
        if !install_is_open || !data_is_open {
            make_shared(shared, user)?;
        }
        let install = if install_is_open { install } else { copy_install(&install, shared)? };
        let base = if data_is_open { requested } else { move_data(&requested, shared)? };
        make_dir(&base, 0o755)?;
        Ok(Self { install, base, user: Some(user) })
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.base.join("data")
    }
}

pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> PlacementError {
    move |source| PlacementError::Io { path: path.to_owned(), source }
}

/// The mode holds whatever the umask is; an existing directory is left as it is.
fn make_dir(path: &Path, mode: u32) -> Result<(), PlacementError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(at(parent))?;
    }
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(path)(error)),
        _ => fs::set_permissions(path, Permissions::from_mode(mode)).map_err(at(path)),
    }
}

fn make_shared(shared: &Path, user: ChildUser) -> Result<(), PlacementError> {
    make_dir(shared, 0o755)?;
    let metadata = fs::symlink_metadata(shared).map_err(at(shared))?;
    if !metadata.is_dir() || metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        return Err(PlacementError::Unsafe { path: shared.to_owned() });
    }
    match user.can_enter(shared).map_err(at(shared))? {
        true => Ok(()),
        false => Err(PlacementError::Unreachable { path: shared.to_owned(), uid: user.uid }),
    }
}

fn move_data(requested: &Path, shared: &Path) -> Result<PathBuf, PlacementError> {
    // Only root decides by this path, so the parents that exist may be resolved.
    let requested = match (requested.parent().map(fs::canonicalize), requested.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => requested.to_owned(),
    };
    let base = shared.join(path_key(&requested));
    make_dir(&base, 0o755)?;
    // For whoever looks for the data on either side.
    let note = base.join("belongs-to");
    write_atomically(&note, requested.as_os_str().as_encoded_bytes(), 0o644).map_err(at(&note))?;
    make_dir(&requested, 0o700)?;
    let note = requested.join("data-is-in");
    write_atomically(&note, base.as_os_str().as_encoded_bytes(), 0o644).map_err(at(&note))?;
    tracing::debug!(requested = %requested.display(), base = %base.display(), "data directory moved: running as root");
    Ok(base)
}

/// A copy that everybody can read, whole or absent, one per version.
fn copy_install(install: &Path, shared: &Path) -> Result<PathBuf, PlacementError> {
    let copy = shared.join(format!("postgresql-{}", version_key(install)?));
    if copy.is_dir() {
        return Ok(copy);
    }
    // Serialises concurrent starts; the second one finds the copy.
    let lock_path = shared.join("install.lock");
    let lock = File::create(&lock_path).map_err(at(&lock_path))?;
    lock.lock().map_err(at(&lock_path))?;
    if copy.is_dir() {
        return Ok(copy);
    }
    let unfinished = copy.with_added_extension("new");
    remove_tree_if_there(&unfinished).map_err(at(&unfinished))?;
    copy_tree(install, &unfinished)?;
    // Everything must be on the disk before the name is: a power cut must not leave a copy with holes.
    nix::unistd::sync();
    fs::rename(&unfinished, &copy).map_err(at(&copy))?;
    Ok(copy)
}

/// Two builds of one version differ in size or time.
fn version_key(install: &Path) -> Result<String, PlacementError> {
    let server = install.join("bin/postgres");
    let metadata = fs::metadata(&server).map_err(at(&server))?;
    let package = install.join("../package.json");
    let version = fs::read(&package)
        .ok()
        .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
        .and_then(|package| package.get("version")?.as_str().map(str::to_owned))
        .filter(|version| version.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c)));
    let version = version.unwrap_or_else(|| path_key(install));
    Ok(format!("{version}-{:x}-{:x}", metadata.len(), metadata.mtime()))
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), PlacementError> {
    make_dir(to, 0o755)?;
    for entry in fs::read_dir(from).map_err(at(from))? {
        let source = entry.map_err(at(from))?.path();
        let target = to.join(source.file_name().unwrap_or_default());
        let metadata = fs::symlink_metadata(&source).map_err(at(&source))?;
        if metadata.is_symlink() {
            let link = fs::read_link(&source).map_err(at(&source))?;
            symlink(link, &target).map_err(at(&target))?;
        } else if metadata.is_dir() {
            copy_tree(&source, &target)?;
        } else {
            fs::copy(&source, &target).map_err(at(&source))?;
            let mode = if metadata.mode() & 0o100 == 0 { 0o644 } else { 0o755 };
            fs::set_permissions(&target, Permissions::from_mode(mode)).map_err(at(&target))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::unistd::geteuid;

    use super::*;

    /// A private directory as `/root` is, with an installation, beside a public one for what is moved.
    fn private_clone() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        let clone = root.path().join("clone");
        fs::create_dir_all(clone.join("native/bin")).unwrap();
        fs::set_permissions(&clone, Permissions::from_mode(0o700)).unwrap();
        fs::write(clone.join("native/bin/postgres"), "program").unwrap();
        fs::set_permissions(clone.join("native/bin/postgres"), Permissions::from_mode(0o755)).unwrap();
        symlink("postgres", clone.join("native/bin/link")).unwrap();
        let shared = root.path().join("shared");
        (root, clone, shared)
    }

    #[test]
    fn an_ordinary_user_gets_what_was_asked_for() {
        let (_root, clone, shared) = private_clone();
        let place = Placement::find(&clone.join("native"), &clone.join("data"), &shared, None).unwrap();
        assert_eq!(place.base, clone.join("data"));
        assert_eq!(place.install, clone.join("native").canonicalize().unwrap());
        assert!(!shared.exists());
    }

    #[test]
    fn root_moves_what_nobody_cannot_reach() {
        if !geteuid().is_root() {
            return;
        }
        let (_root, clone, shared) = private_clone();
        let nobody = Some(ChildUser::nobody());
        // A copy that was cut short before.
        fs::create_dir_all(shared.join("postgresql-x.new")).unwrap();
        let find = || Placement::find(&clone.join("native"), &clone.join("data"), &shared, nobody).unwrap();
        let place = find();
        assert!(place.base.starts_with(&shared) && place.install.starts_with(&shared));
        assert_eq!(fs::read(place.install.join("bin/link")).unwrap(), b"program");
        assert!(ChildUser::nobody().can_read_tree(&place.install).unwrap());
        let note = fs::read_to_string(clone.join("data/data-is-in")).unwrap();
        assert_eq!(Path::new(&note), place.base);
        let again = find();
        assert_eq!((again.base, again.install), (place.base, place.install));
    }

    #[test]
    fn root_leaves_what_nobody_can_reach() {
        if !geteuid().is_root() {
            return;
        }
        let (_root, clone, shared) = private_clone();
        fs::set_permissions(&clone, Permissions::from_mode(0o755)).unwrap();
        let nobody = Some(ChildUser::nobody());
        let place = Placement::find(&clone.join("native"), &clone.join("data"), &shared, nobody).unwrap();
        assert_eq!(place.base, clone.join("data"));
        assert!(!shared.exists());
    }

    #[test]
    fn a_shared_directory_that_others_can_write_is_refused() {
        if !geteuid().is_root() {
            return;
        }
        let (_root, clone, shared) = private_clone();
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        let nobody = Some(ChildUser::nobody());
        let error = Placement::find(&clone.join("native"), &clone.join("data"), &shared, nobody).unwrap_err();
        assert!(matches!(error, PlacementError::Unsafe { .. }), "{error}");
    }
}
