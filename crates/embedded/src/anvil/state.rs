//! The saved chain. anvil's own `--state` writes over the file in place, so a kill in the middle would leave half a
//! chain; Dues asks for the dump and replaces the file in one step.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::AnvilError;
use crate::files::write_atomically;

/// What makes a JSON document a chain: enough to tell it from another file or a piece of one.
#[derive(Deserialize)]
struct Shape {
    #[serde(rename = "accounts")]
    _accounts: IgnoredAny,
    #[serde(rename = "blocks")]
    _blocks: Vec<IgnoredAny>,
    #[serde(rename = "transactions")]
    _transactions: Vec<IgnoredAny>,
}

/// Whether there is a state to load. A file that holds none is set aside as `<name>.invalid`.
pub(super) async fn is_usable(file: PathBuf) -> Result<bool, AnvilError> {
    blocking(file, |file| {
        match fs::read(file) {
            Ok(bytes) if serde_json::from_slice::<Shape>(&bytes).is_ok() => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(at(file)(error)),
        }
        tracing::warn!(file = %file.display(), "no saved chain in this file: set aside, starting with a new chain");
        fs::rename(file, file.with_added_extension("invalid")).map_err(at(file))?;
        Ok(false)
    })
    .await
}

/// Saves an answer of `anvil_dumpState`: hex of gzip of the JSON that `--load-state` takes.
pub(super) async fn save(file: PathBuf, dump: Value) -> Result<(), AnvilError> {
    blocking(file, move |file| {
        let json = decode(&dump).ok_or(AnvilError::BadDump)?;
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir).map_err(at(file))?;
        }
        write_atomically(file, &json, 0o644).map_err(at(file))
    })
    .await
}

fn decode(dump: &Value) -> Option<Vec<u8>> {
    let digits = dump.as_str()?.strip_prefix("0x")?.as_bytes();
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    let gzip: Vec<u8> = pairs.iter().map(byte).collect::<Option<_>>()?;
    let mut json = Vec::new();
    GzDecoder::new(gzip.as_slice()).read_to_end(&mut json).ok()?;
    serde_json::from_slice::<Shape>(&json).ok()?;
    Some(json)
}

fn at(path: &Path) -> impl Fn(io::Error) -> AnvilError {
    move |source| AnvilError::State { path: path.to_owned(), source }
}

/// A chain can be large: reading, checking and syncing it is not for a runtime thread.
async fn blocking<T, F>(file: PathBuf, work: F) -> Result<T, AnvilError>
where
    T: Send + 'static,
    F: FnOnce(&Path) -> Result<T, AnvilError> + Send + 'static,
{
    let path = file.clone();
    let done = tokio::task::spawn_blocking(move || work(&file)).await;
    done.unwrap_or_else(|error| Err(at(&path)(io::Error::other(error))))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    const CHAIN: &str = r#"{"block":{},"accounts":{},"best_block_number":1,"blocks":[{}],"transactions":[]}"#;

    fn dump(json: &str) -> Value {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(json.as_bytes()).unwrap();
        let hex: String = encoder.finish().unwrap().iter().map(|byte| format!("{byte:02x}")).collect();
        Value::from(format!("0x{hex}"))
    }

    #[tokio::test]
    async fn a_dump_is_saved_as_json_and_is_usable() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/state.json");
        assert!(!is_usable(file.clone()).await.unwrap());
        save(file.clone(), dump(CHAIN)).await.unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), CHAIN);
        assert!(is_usable(file).await.unwrap());
    }

    #[tokio::test]
    async fn a_bad_dump_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state.json");
        save(file.clone(), dump(CHAIN)).await.unwrap();
        for bad in [dump(r#"{"blocks":[]}"#), dump("{"), Value::from("0x1f8"), Value::from("zz"), Value::Null]
        {
            assert!(matches!(save(file.clone(), bad).await, Err(AnvilError::BadDump)));
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), CHAIN);
    }

    #[tokio::test]
    async fn half_a_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state.json");
        fs::write(&file, CHAIN.get(..40).unwrap()).unwrap();
        assert!(!is_usable(file.clone()).await.unwrap());
        assert!(!file.exists() && dir.path().join("state.json.invalid").exists());
    }
}
