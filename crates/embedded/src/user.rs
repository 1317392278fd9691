//! The user a child runs as, and which files that user can reach.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::{MetadataExt as _, chown},
    path::Path,
};

use nix::unistd::{User, geteuid};

/// A user to drop to. The child's supplementary groups are cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildUser {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl ChildUser {
    /// The user `nobody`, or ids 65534 where the system does not know it.
    pub fn nobody() -> Self {
        let known = User::from_name("nobody").ok().flatten();
        known.map_or(Self { uid: 65_534, gid: 65_534 }, |user| Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        })
    }

    /// `nobody` when this process is root, and no change of user otherwise.
    pub fn unless_root() -> Option<Self> {
        geteuid().is_root().then(Self::nobody)
    }

    pub(crate) fn own(self, path: &Path) -> io::Result<()> {
        chown(path, Some(self.uid), Some(self.gid))
    }

    fn may(self, metadata: &Metadata, bits: u32) -> bool {
        let granted = if metadata.uid() == self.uid {
            metadata.mode() >> 6
        } else if metadata.gid() == self.gid {
            metadata.mode() >> 3
        } else {
            metadata.mode()
        };
        granted & bits == bits
    }

    /// Whether this user can pass through every existing directory above `path`, and through `path` itself.
    pub(crate) fn can_enter(self, path: &Path) -> io::Result<bool> {
        for ancestor in path.ancestors() {
            match fs::metadata(ancestor) {
                Ok(metadata) if metadata.is_dir() && !self.may(&metadata, 0o1) => return Ok(false),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether this user can read everything below `dir`. What the owner may execute, this user must, too.
    pub(crate) fn can_read_tree(self, dir: &Path) -> io::Result<bool> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                // A dangling link is of no use to anybody.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let bits = if metadata.is_dir() || metadata.mode() & 0o100 != 0 { 0o5 } else { 0o4 };
            if !self.may(&metadata, bits) || (metadata.is_dir() && !self.can_read_tree(&path)?) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt as _};

    use super::*;

    const STRANGER: ChildUser = ChildUser { uid: 4_000_000, gid: 4_000_000 };

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn reach_follows_the_mode_bits_of_every_parent() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("inner");
        fs::create_dir(&inner).unwrap();
        mode(&inner, 0o755);
        mode(root.path(), 0o700);
        assert!(!STRANGER.can_enter(&inner).unwrap());
        mode(root.path(), 0o711);
        assert!(STRANGER.can_enter(&inner.join("not/there/yet")).unwrap());
        let owner = fs::metadata(root.path()).unwrap();
        mode(root.path(), 0o700);
        assert!(ChildUser { uid: owner.uid(), gid: owner.gid() }.can_enter(&inner).unwrap());
    }

    #[test]
    fn a_tree_is_readable_only_as_a_whole() {
        let root = tempfile::tempdir().unwrap();
        let program = root.path().join("bin/program");
        fs::create_dir(root.path().join("bin")).unwrap();
        mode(&root.path().join("bin"), 0o755);
        fs::write(&program, "").unwrap();
        mode(&program, 0o755);
        assert!(STRANGER.can_read_tree(root.path()).unwrap());
        mode(&program, 0o744);
        assert!(!STRANGER.can_read_tree(root.path()).unwrap());
        mode(&program, 0o644);
        assert!(STRANGER.can_read_tree(root.path()).unwrap());
    }
}
