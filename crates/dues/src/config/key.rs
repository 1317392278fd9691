//! Where a private key is: given, or in a keystore.

use std::path::PathBuf;

use anyhow::Context as _;
use dues_keeper::KeeperSigner;
use secrecy::{ExposeSecret as _, SecretString};

use super::Faults;

/// The settings of a section that say where its key is.
#[derive(Debug)]
pub(super) struct KeySettings {
    pub(super) private_key: Option<SecretString>,
    pub(super) keystore: Option<PathBuf>,
    pub(super) keystore_password: Option<SecretString>,
    pub(super) keystore_password_file: Option<PathBuf>,
}

/// Where a key is. It is in no output of this.
#[derive(Debug, Clone)]
pub(crate) enum Key {
    Given(SecretString),
    Keystore { file: PathBuf, password: Password },
}

#[derive(Debug, Clone)]
pub(crate) enum Password {
    Given(SecretString),
    File(PathBuf),
}

impl Key {
    /// The key of `section`; `None` where it has none, and where what it says of one is a fault.
    pub(super) fn check(section: &str, settings: KeySettings, faults: &mut Faults) -> Option<Self> {
        let passwords = (settings.keystore_password, settings.keystore_password_file);
        match (settings.private_key, settings.keystore, passwords) {
            (None, None, _) => None,
            (Some(_), Some(_), _) => {
                faults
                    .add(format_args!("{section}: there is a private key and a keystore; give one of them"));
                None
            }
            (Some(key), None, _) => {
                faults.take(&format!("{section}.private_key"), KeeperSigner::from_private_key(&key));
                Some(Self::Given(key))
            }
            (None, Some(file), (Some(password), None)) => {
                Some(Self::Keystore { file, password: Password::Given(password) })
            }
            (None, Some(file), (None, Some(password))) => {
                Some(Self::Keystore { file, password: Password::File(password) })
            }
            (None, Some(_), _) => {
                faults.add(format_args!(
                    "{section}.keystore: its password is needed, by DUES__{}__KEYSTORE_PASSWORD or by \
                     keystore_password_file, not by both",
                    section.to_uppercase()
                ));
                None
            }
        }
    }

    /// The signer. A keystore takes some seconds to be decrypted.
    pub(crate) fn signer(&self) -> anyhow::Result<KeeperSigner> {
        Ok(match self {
            Self::Given(key) => KeeperSigner::from_private_key(key)?,
            Self::Keystore { file, password } => {
                let password = match password {
                    Password::Given(password) => password.clone(),
                    Password::File(file) => {
                        let text = std::fs::read_to_string(file)
                            .with_context(|| format!("cannot read {}", file.display()))?;
                        text.trim_end_matches(['\r', '\n']).into()
                    }
                };
                KeeperSigner::from_keystore(file, &password)
                    .with_context(|| format!("{} is of no use", file.display()))?
            }
        })
    }

    /// Whether it is plainly the same key as another one.
    pub(super) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Given(one), Self::Given(other)) => {
                one.expose_secret().trim().eq_ignore_ascii_case(other.expose_secret().trim())
            }
            (Self::Keystore { file: one, .. }, Self::Keystore { file: other, .. }) => one == other,
            _ => false,
        }
    }
}
