//! Making the cluster on first use.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

use secrecy::SecretString;
use tokio::time::{sleep, timeout};

use super::{Durability, POLL, PostgresError, PostgresOptions, USER};
use crate::{
    files::{remove_tree_if_there, sync_parent, write_atomically},
    placement::Placement,
    process::{Process, ProcessError, ProcessOptions, Signal},
};

/// On a slow disk with syncing.
const INITDB_WITHIN: Duration = Duration::from_secs(300);
/// What the names of clusters begin with that are being made.
const UNFINISHED: &str = "data.new-";
/// What a killed initdb has started ends as soon as it notices.
const LEFTOVERS_WITHIN: Duration = Duration::from_secs(5);

/// Makes the cluster unless it is there, and gives the password of its superuser.
///
/// The cluster is made under another name and renamed when it is complete, so a kill at any point leaves either a
/// whole cluster or a leftover that the next call removes. The password comes first and is used again.
pub(super) async fn ensure(
    place: &Placement,
    options: &PostgresOptions,
) -> Result<SecretString, PostgresError> {
    let data = place.data();
    let exists = data.join("PG_VERSION").is_file();
    let password_file = place.base.join("password");
    let password = match fs::read_to_string(&password_file) {
        Ok(text) => text,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&password_file)(error)),
        Err(_) if exists => return Err(PostgresError::NoPassword { path: password_file }),
        Err(_) => {
            let text = random_hex()?;
            write_atomically(&password_file, text.as_bytes(), 0o600).map_err(at(&password_file))?;
            text
        }
    };
    if !exists {
        if let Some(user) = place.user {
            // initdb reads it.
            user.own(&password_file).map_err(at(&password_file))?;
        }
        remove_leftovers(&place.base).await?;
        // A name of its own: a child of a killed initdb may be alive for a moment, and knows the earlier one.
        let unfinished = place.base.join(format!("{UNFINISHED}{}", random_hex()?));
        prepare(&unfinished, place)?;
        initdb(&unfinished, &password_file, place, options).await?;
        if options.durability == Durability::Durable {
            File::open(&unfinished).and_then(|dir| dir.sync_all()).map_err(at(&unfinished))?;
        }
        fs::rename(&unfinished, &data).map_err(at(&data))?;
        sync_parent(&data).map_err(at(&data))?;
    }
    Ok(password.into())
}

fn at(path: &Path) -> impl Fn(io::Error) -> PostgresError {
    move |source| PostgresError::Io { path: path.to_owned(), source }
}

fn random_hex() -> Result<String, PostgresError> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes)
        .map_err(|error| PostgresError::System { what: "random bytes", source: error.into() })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Removes what first starts have left that were killed. A process that still writes there delays it, and is not
/// worth failing for.
async fn remove_leftovers(base: &Path) -> Result<(), PostgresError> {
    for entry in fs::read_dir(base).map_err(at(base))? {
        let path = entry.map_err(at(base))?.path();
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        if !name.starts_with(UNFINISHED.as_bytes()) {
            continue;
        }
        let removed = async {
            while remove_tree_if_there(&path).is_err() {
                sleep(POLL).await;
            }
        };
        if timeout(LEFTOVERS_WITHIN, removed).await.is_err() {
            tracing::warn!(path = %path.display(), "an unfinished data directory cannot be removed");
        }
    }
    Ok(())
}

fn prepare(unfinished: &Path, place: &Placement) -> Result<(), PostgresError> {
    fs::create_dir(unfinished).map_err(at(unfinished))?;
    fs::set_permissions(unfinished, Permissions::from_mode(0o700)).map_err(at(unfinished))?;
    if let Some(user) = place.user {
        user.own(unfinished).map_err(at(unfinished))?;
    }
    Ok(())
}

async fn initdb(
    unfinished: &Path,
    password_file: &Path,
    place: &Placement,
    options: &PostgresOptions,
) -> Result<(), PostgresError> {
    let mut args = vec!["-D".into(), unfinished.into(), "--pwfile".into(), password_file.into()];
    args.extend(["--username", USER, "--auth", "scram-sha-256", "--encoding", "UTF8"].map(Into::into));
    // Order by code point, the same on every machine and in every version.
    args.extend(
        ["--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"].map(Into::into),
    );
    if options.durability == Durability::Scratch {
        args.push("--no-sync".into());
    }
    let mut process = Process::spawn(ProcessOptions {
        name: "initdb",
        program: place.install.join("bin/initdb"),
        args,
        dir: place.base.clone(),
        log_dir: options.log_dir.clone(),
        user: place.user,
        stop: Vec::new(),
        death: Signal::Kill,
    })
    .await?;
    match timeout(INITDB_WITHIN, process.unexpected_exit()).await {
        Ok(ProcessError::Exited { status, .. }) if status.success() => Ok(()),
        Ok(error) => Err(error.into()),
        Err(_elapsed) => {
            let log = process.log().to_owned();
            process.stop().await?;
            Err(PostgresError::NotReady { waited: INITDB_WITHIN, log })
        }
    }
}
